package sim

import (
	"errors"
	"fmt"
	"time"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

// service is one that the scenario made.
type service struct {
	id       string
	replicas int
	version  uint64
}

// The services that the scenario names; the others share the rest of the tasks.
const (
	bigService   = "big"   // rolling update, the old task first
	frontService = "front" // published, rolling update, the new task first
	shakyService = "shaky" // some of its tasks fail
)

// The rest of the tasks is in zones of some hundred nodes, each with a network and services of its own, one of which all
// zones' nodes publish.
const (
	zoneNodes    = 100
	zoneServices = 3
	zoneLabel    = "zone"
)

func zoneName(i int) string { return fmt.Sprintf("zone%d", i) }

const monitor = 500 * time.Millisecond

// createServices makes all networks and services.
func (s *simulation) createServices() {
	nets := []string{bigService, frontService}
	for i := range s.zones {
		nets = append(nets, zoneName(i))
	}
	for _, n := range nets {
		s.propose(state.Op{Action: state.Create, Object: &state.Network{ID: n + "-network", Spec: swarm.NetworkSpec{
			Annotations: swarm.Annotations{Name: n}, DriverConfiguration: &swarm.Driver{Name: "overlay"}, Scope: "swarm",
		}}})
	}
	front, shaky := max(2, s.tasks/20), max(2, s.tasks/100)
	for i, op := range []string{opPrepare, opStart, opExit} {
		s.nodes.call("Inject", Failure{op, shakyService, "injected: " + op, 2 + i, 1}, &struct{}{})
	}
	s.createService(bigService, bigService, s.replicas, 0, swarm.UpdateOrderStopFirst, "")
	s.createService(frontService, frontService, front, 8000, swarm.UpdateOrderStartFirst, "")
	s.createService(shakyService, zoneName(0), shaky, 0, swarm.UpdateOrderStopFirst, zoneName(0))
	rest := s.tasks - s.replicas - front - shaky
	others := zoneServices * s.zones
	for i := range others {
		n := rest / (others - i)
		rest -= n
		port := uint32(0)
		if i == 0 {
			port = 8001
		}
		zone := zoneName(i % s.zones)
		s.createService(fmt.Sprintf("app%d", i), zone, n, port, swarm.UpdateOrderStopFirst, zone)
	}
}

func (s *simulation) createService(name, network string, replicas int, port uint32, order, zone string) {
	n, delay := uint64(replicas), 500*time.Millisecond
	spec := swarm.ServiceSpec{
		Annotations: swarm.Annotations{Name: name, Labels: map[string]string{"com.example.tier": name}},
		TaskTemplate: swarm.TaskSpec{
			ContainerSpec: &swarm.ContainerSpec{Image: "example:1", Args: []string{"serve", name}, Env: []string{"TIER=" + name}},
			Networks:      []swarm.NetworkAttachmentConfig{{Target: network + "-network", Aliases: []string{name}}},
			RestartPolicy: &swarm.RestartPolicy{Condition: swarm.RestartPolicyConditionAny, Delay: &delay},
			Resources:     &swarm.ResourceRequirements{Reservations: &swarm.Resources{NanoCPUs: 1e7, MemoryBytes: 16 << 20}},
		},
		Mode: swarm.ServiceMode{Replicated: &swarm.ReplicatedService{Replicas: &n}},
		UpdateConfig: &swarm.UpdateConfig{
			Parallelism: max(1, s.parallelism*n/uint64(s.replicas)), Order: order, Monitor: monitor, FailureAction: swarm.UpdateFailureActionPause,
		},
		EndpointSpec: &swarm.EndpointSpec{Mode: swarm.ResolutionModeVIP},
	}
	if zone != "" {
		spec.TaskTemplate.Placement = &swarm.Placement{Constraints: []string{"node.labels." + zoneLabel + "==" + zone}}
	}
	if port != 0 {
		spec.EndpointSpec.Ports = []swarm.PortConfig{{Protocol: swarm.PortConfigProtocolTCP, TargetPort: 80, PublishedPort: port, PublishMode: swarm.PortConfigPublishModeIngress}}
	}
	if order == swarm.UpdateOrderStartFirst {
		s.nodes.call("StartFirst", name, &struct{}{})
	}
	o := &state.Service{ID: name + "-service", Spec: spec, SpecVersion: 1}
	s.propose(state.Op{Action: state.Create, Object: o}, state.Op{Action: state.Create, Object: revision(o)})
	s.services = append(s.services, service{id: o.ID, replicas: replicas, version: 1})
}

// allRunning waits until every service has all its replicas, by the leader's store.
func (s *simulation) allRunning() {
	s.Helper()
	s.until("all tasks running", func() error {
		l := s.leader()
		if l == nil {
			return errors.New("no leader")
		}
		for _, v := range s.services {
			if n := l.audit.running(v.id, v.version); n != v.replicas {
				return lazy(func() string {
					return fmt.Sprintf("%d of %d tasks of %s run: %s", n, v.replicas, v.id, l.audit.describe(v.id))
				})
			}
		}
		return nil
	})
}

// updateService gives a service a new image.
func (s *simulation) updateService(name string) {
	s.Helper()
	for i := range s.services {
		if v := &s.services[i]; v.id == name+"-service" {
			v.version++
			s.change(v.id, v.version, func(spec *swarm.ServiceSpec) { spec.TaskTemplate.ContainerSpec.Image = "example:2" })
		}
	}
}

// updateReaches waits until an update has replaced a part of the replicas.
func (s *simulation) updateReaches(name string, part float64) {
	s.Helper()
	want := int(part * float64(s.replicas))
	s.until(fmt.Sprintf("%d tasks updated", want), func() error {
		l := s.leader()
		if l == nil {
			return errors.New("no leader")
		}
		if st, _ := l.audit.update(name + "-service"); st.State == swarm.UpdateStatePaused {
			return fmt.Errorf("update is paused: %s", st.Message)
		}
		if n := l.audit.running(name+"-service", 2); n < want {
			return fmt.Errorf("%d tasks run by the new spec", n)
		}
		return nil
	})
}

// updated tells whether the update of a service is complete.
func (s *simulation) updated(name string) error {
	l := s.leader()
	if l == nil {
		return errors.New("no leader")
	}
	if st, ok := l.audit.update(name + "-service"); !ok || st.State != swarm.UpdateStateCompleted {
		return fmt.Errorf("update of %s: %s %s, %d tasks run by the new spec", name, st.State, st.Message, l.audit.running(name+"-service", 2))
	}
	return nil
}
