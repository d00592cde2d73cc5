package api

import (
	"fmt"
	"sort"
	"strings"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

// Docker never says null for labels.
func labels(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

func toService(s *state.Service) swarm.Service {
	out := swarm.Service{
		ID: s.ID, Meta: s.Meta, Spec: shownSpec(s.Spec), Endpoint: s.Endpoint, UpdateStatus: s.UpdateStatus, JobStatus: s.JobStatus,
	}
	if s.PreviousSpec != nil {
		p := shownSpec(*s.PreviousSpec)
		out.PreviousSpec = &p
	}
	return out
}

// shownSpec is a spec as Docker shows it.
func shownSpec(s swarm.ServiceSpec) swarm.ServiceSpec {
	s.Labels = labels(s.Labels)
	s.TaskTemplate = shownTaskSpec(s.TaskTemplate)
	return s
}

func shownTaskSpec(t swarm.TaskSpec) swarm.TaskSpec {
	if t.ContainerSpec != nil && t.ContainerSpec.Isolation == "" {
		c := *t.ContainerSpec
		c.Isolation = container.IsolationDefault
		t.ContainerSpec = &c
	}
	return t
}

func toNetwork(n *state.Network) swarm.Network {
	out := swarm.Network{ID: n.ID, Meta: n.Meta, Spec: n.Spec, IPAMOptions: n.IPAM}
	out.Spec.Labels = labels(n.Spec.Labels)
	if n.Spec.DriverConfiguration != nil {
		out.DriverState = *n.Spec.DriverConfiguration
	}
	return out
}

// taskView converts tasks of one view, with what they refer to looked up once.
type taskView struct {
	state.View
	specs    map[string]swarm.TaskSpec // by revision key
	networks map[string]swarm.Network
	ports    map[string]string // by service ID: ports that some node cannot serve
	clean    map[string]bool   // by revision key: its tasks are up to date
	// fromZero numbers the slots of replicated jobs from 0. So does Docker's progress display; its list of tasks takes slot
	// 0 for a task of a global service.
	fromZero bool
}

func newTaskView(v state.View) *taskView {
	return &taskView{View: v, specs: map[string]swarm.TaskSpec{}, networks: map[string]swarm.Network{}, ports: map[string]string{}, clean: map[string]bool{}}
}

func (v *taskView) spec(t *state.Task) swarm.TaskSpec {
	key := state.RevisionKey(t.ServiceID, t.SpecVersion)
	s, ok := v.specs[key]
	if !ok {
		if r := v.Revision(t.ServiceID, t.SpecVersion); r != nil {
			s = shownTaskSpec(r.Spec)
		}
		// Clients read ContainerSpec without asking, also Docker's own log route.
		if s.ContainerSpec == nil {
			s.ContainerSpec = &swarm.ContainerSpec{}
		}
		v.specs[key] = s
	}
	return s
}

func (v *taskView) network(id string) swarm.Network {
	n, ok := v.networks[id]
	if !ok {
		n.ID = id
		if sn := v.View.Network(id); sn != nil {
			n = toNetwork(sn)
		}
		v.networks[id] = n
	}
	return n
}

func (v *taskView) task(t *state.Task) swarm.Task {
	out := swarm.Task{
		ID: t.ID, Meta: t.Meta,
		Annotations: swarm.Annotations{Labels: map[string]string{}},
		Spec:        v.spec(t),
		ServiceID:   t.ServiceID, Slot: t.Slot, NodeID: t.NodeID,
		Status: t.Status, DesiredState: t.DesiredState, GenericResources: t.GenericResources,
	}
	if s := v.Service(t.ServiceID); s != nil && s.JobStatus != nil {
		out.JobIteration = &swarm.Version{Index: t.Iteration}
		if v.fromZero && t.Slot > 0 {
			out.Slot--
		}
	}
	for _, a := range t.Networks {
		na := swarm.NetworkAttachment{Network: v.network(a.NetworkID)}
		for _, p := range a.Addresses {
			na.Addresses = append(na.Addresses, p.String())
		}
		out.NetworksAttachments = append(out.NetworksAttachments, na)
	}
	// Docker's lists show no message: without an error one could not see why a task that is ready does not start.
	if t.Crashes > 1 && t.DesiredState == swarm.TaskStateReady && out.Status.Err == "" {
		out.Status.Err = fmt.Sprintf("crashed %d times in a row: waits before its next start", t.Crashes)
	}
	if t.Status.State == swarm.TaskStateRunning {
		out.Status.PortStatus.Ports = v.hostPorts(t)
	}
	if t.Status.State == swarm.TaskStateRunning && t.DesiredState == swarm.TaskStateRunning {
		if e := v.portErrors(t.ServiceID); e != "" && out.Status.Err == "" {
			out.Status.Err = e
		}
	}
	return out
}

// hostPorts are the ports that a task's node publishes for it alone.
func (v *taskView) hostPorts(t *state.Task) []swarm.PortConfig {
	r := v.Revision(t.ServiceID, t.SpecVersion)
	if r == nil || r.Endpoint == nil {
		return nil
	}
	var taken map[string]string
	if n := v.Node(t.NodeID); n != nil {
		taken = n.PortErrors
	}
	var out []swarm.PortConfig
	for _, p := range r.Endpoint.Ports {
		if _, no := taken[portName(p)]; !no && !ingress(p) {
			out = append(out, p)
		}
	}
	return out
}

// portErrors tells which published ports of a service some node cannot serve, and why.
func (v *taskView) portErrors(serviceID string) string {
	if e, ok := v.ports[serviceID]; ok {
		return e
	}
	var parts []string
	if s := v.Service(serviceID); s != nil && visibleService(s) {
		for _, p := range s.Endpoint.Ports {
			key := portName(p)
			for _, n := range v.Nodes() {
				if why, ok := n.PortErrors[key]; ok && n.Status.State != swarm.NodeStateDown {
					parts = append(parts, fmt.Sprintf("port %s is not served on %s: %s", key, nodeName(n), why))
				}
			}
		}
	}
	sort.Strings(parts)
	v.ports[serviceID] = strings.Join(parts, "; ")
	return v.ports[serviceID]
}

func nodeName(n *state.Node) string {
	if n.Description.Hostname != "" {
		return n.Description.Hostname
	}
	return n.ID
}

// portName is how nodes name a published port.
func portName(p swarm.PortConfig) string { return fmt.Sprintf("%d/%s", p.PublishedPort, protocol(p)) }

// protocol of a port, TCP when left out.
func protocol(p swarm.PortConfig) swarm.PortConfigProtocol {
	if p.Protocol == "" {
		return swarm.PortConfigProtocolTCP
	}
	return p.Protocol
}

// ingress tells whether a port is published on every node.
func ingress(p swarm.PortConfig) bool { return p.PublishMode != swarm.PortConfigPublishModeHost }
