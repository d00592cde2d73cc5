package sched

import (
	"encoding/json"
	"reflect"
	"slices"
	"time"

	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

const defaultRestartDelay = 5 * time.Second

// revisionInfo is a revision with what the parts need of it, worked out once.
type revisionInfo struct {
	*state.Revision
	cpu, memory   int64
	generic       []genericNeed
	hostPorts     []portKey
	volumeDrivers []string // other than the engine's own
	logDriver     string
	constraints   constraints
	spread        []string // keys of labels, outermost first
	platforms     []swarm.Platform
	maxReplicas   uint64
	filters       []int  // of the pipeline, those that concern it
	changing      []int  // of these, the ones whose answer changes with the tasks that a node takes
	lasting       []int  // and the others
	ask           string // is the same for revisions that ask the same of nodes, but for max replicas
	class         string // is the same for revisions that the same nodes pass the lasting filters for
}

func newRevisionInfo(r *state.Revision) *revisionInfo {
	i := &revisionInfo{Revision: r}
	if r.Spec.Resources != nil && r.Spec.Resources.Reservations != nil {
		res := r.Spec.Resources.Reservations
		i.cpu, i.memory, i.generic = res.NanoCPUs, res.MemoryBytes, genericNeeds(res.GenericResources)
	}
	if r.Endpoint != nil {
		for _, p := range r.Endpoint.Ports {
			if p.PublishMode == swarm.PortConfigPublishModeHost && p.PublishedPort != 0 {
				i.hostPorts = append(i.hostPorts, portKey{protocol(p), p.PublishedPort})
			}
		}
	}
	if p := r.Spec.Placement; p != nil {
		i.constraints = parseConstraints(p.Constraints)
		i.platforms, i.maxReplicas = p.Platforms, p.MaxReplicas
		i.spread = spreadKeys(p.Preferences)
	}
	i.volumeDrivers = volumeDrivers(r.Spec.ContainerSpec)
	if d := r.Spec.LogDriver; d != nil && d.Name != "none" {
		i.logDriver = d.Name
	}
	i.concern()
	return i
}

// volumeDrivers lists the drivers that mounts of volumes name, other than the engine's own.
func volumeDrivers(c *swarm.ContainerSpec) []string {
	var drivers []string
	if c == nil {
		return nil
	}
	for _, m := range c.Mounts {
		if m.Type != mount.TypeVolume || m.VolumeOptions == nil || m.VolumeOptions.DriverConfig == nil {
			continue
		}
		if d := m.VolumeOptions.DriverConfig.Name; d != "" && d != "local" && !slices.Contains(drivers, d) {
			drivers = append(drivers, d)
		}
	}
	return drivers
}

func (i *revisionInfo) restartDelay() time.Duration {
	if i != nil && i.Spec.RestartPolicy != nil && i.Spec.RestartPolicy.Delay != nil {
		return *i.Spec.RestartPolicy.Delay
	}
	return defaultRestartDelay
}

// maxAttempts is 0 for no limit.
func (i *revisionInfo) maxAttempts() uint64 {
	if i != nil && i.Spec.RestartPolicy != nil && i.Spec.RestartPolicy.MaxAttempts != nil {
		return *i.Spec.RestartPolicy.MaxAttempts
	}
	return 0
}

// revision is the one that new tasks of the service follow; nil if the store has none.
func (s *serviceInfo) revision() *revisionInfo { return s.revisions[s.service.SpecVersion] }

// equal compares as the store would keep them: an empty list and none are the same.
func equal(a, b any) bool {
	if reflect.DeepEqual(a, b) {
		return true
	}
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && string(x) == string(y)
}

func protocol(p swarm.PortConfig) swarm.PortConfigProtocol {
	if p.Protocol == "" {
		return swarm.PortConfigProtocolTCP
	}
	return p.Protocol
}

// ingressPort is the key of a port that all nodes publish; false for others, and while it has no number.
func ingressPort(p swarm.PortConfig) (portKey, bool) {
	return portKey{protocol(p), p.PublishedPort}, ingressMode(p) && p.PublishedPort != 0
}

func ingressMode(p swarm.PortConfig) bool { return p.PublishMode != swarm.PortConfigPublishModeHost }
