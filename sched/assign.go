package sched

import (
	"net/netip"
	"slices"
	"strconv"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

// mtuOption is the driver option of a network that sets its MTU (Docker's name).
const mtuOption = "com.docker.network.driver.mtu"

// Assign is everything that a node must know, by one view of the store. Who needs it for several nodes of the same view
// makes an AssignIndex.
func Assign(v state.View, nodeID string) state.Assignments { return NewAssignIndex(v).Assign(nodeID) }

// AssignIndex is what the assignments of all nodes have in common, worked out once per view. Safe for concurrent use.
type AssignIndex struct {
	view     state.View
	ingress  string // network ID, "" if there is none
	networks map[string]state.AssignedNetwork
	nodes    map[string]state.AssignedNode
	services []*serviceBody
	// endpoints by network; those of published ports are in the ingress network.
	endpoints map[string][]indexedEndpoint
}

type indexedEndpoint struct {
	state.Endpoint
	published bool // backs a port that all nodes publish
}

// NewAssignIndex works out an index. Its cost grows with the store, not with the number of nodes asked for.
func NewAssignIndex(v state.View) *AssignIndex {
	x := &AssignIndex{
		view: v, networks: map[string]state.AssignedNetwork{}, nodes: map[string]state.AssignedNode{},
		endpoints: map[string][]indexedEndpoint{},
	}
	for _, n := range v.Networks() {
		if n.IPAM != nil {
			x.networks[n.ID] = assignedNetwork(n)
		}
		if n.Spec.Ingress && !n.PendingDelete && n.IPAM != nil && (x.ingress == "" || n.ID < x.ingress) {
			x.ingress = n.ID
		}
	}
	for _, n := range v.Nodes() {
		x.nodes[n.ID] = assignedNode(n)
	}
	for _, s := range v.Services() {
		x.addService(s)
	}
	for _, t := range v.Tasks() {
		x.addTask(t)
	}
	return x
}

func assignedNode(n *state.Node) state.AssignedNode {
	return state.AssignedNode{ID: n.ID, Hostname: n.Description.Hostname, Mesh: n.Mesh, ControlAddr: n.ControlAddr, Down: down(n)}
}

func assignedNetwork(n *state.Network) state.AssignedNetwork {
	out := state.AssignedNetwork{ID: n.ID, Name: n.Spec.Name, Internal: n.Spec.Internal, Ingress: n.Spec.Ingress}
	for _, c := range n.IPAM.Configs {
		if p, err := netip.ParsePrefix(c.Subnet); err == nil {
			out.Subnets = append(out.Subnets, p)
			out.Gateways = append(out.Gateways, addrOf(c.Gateway))
		}
	}
	if d := n.Spec.DriverConfiguration; d != nil {
		if mtu, err := strconv.Atoi(d.Options[mtuOption]); err == nil && mtu > 0 {
			out.MTU = mtu
		}
	}
	return out
}

func (x *AssignIndex) addService(s *state.Service) {
	if b := newServiceBody(s); b != nil {
		x.services = append(x.services, b)
	}
}

// newServiceBody is nil for a service that nobody is told of.
func newServiceBody(s *state.Service) *serviceBody {
	if s == nil || s.PendingDelete {
		return nil
	}
	b := &serviceBody{AssignedService: state.AssignedService{ID: s.ID, Name: s.Spec.Name, Ports: s.Endpoint.Ports}}
	b.published = len(s.Endpoint.Ports) > 0
	for _, vip := range s.Endpoint.VirtualIPs {
		if a := addrOf(vip.Addr); a.IsValid() {
			if b.VIPs == nil {
				b.VIPs = map[string][]netip.Addr{}
			}
			b.VIPs[vip.NetworkID] = append(b.VIPs[vip.NetworkID], a)
			b.addNetwork(vip.NetworkID)
		}
	}
	for _, a := range attachments(s.Spec.TaskTemplate) {
		b.addNetwork(a.Target)
		if len(a.Aliases) > 0 {
			if b.Aliases == nil {
				b.Aliases = map[string][]string{}
			}
			b.Aliases[a.Target] = a.Aliases
		}
	}
	return b
}

func (b *serviceBody) addNetwork(id string) {
	if !slices.Contains(b.in, id) {
		b.in = append(b.in, id)
	}
}

func (x *AssignIndex) addTask(t *state.Task) {
	e := newEndpointBody(x.view, t)
	if e == nil {
		return
	}
	i := indexedEndpoint{e.endpoint(), e.published}
	for _, id := range e.in {
		x.endpoints[id] = append(x.endpoints[id], i)
	}
}

// newEndpointBody is nil for a task that nobody is told of.
func newEndpointBody(v source, t *state.Task) *endpointBody {
	if t == nil || t.NodeID == "" || len(t.Networks) == 0 {
		return nil
	}
	n := v.Node(t.NodeID)
	if n == nil || down(n) {
		return nil
	}
	s := v.Service(t.ServiceID)
	st, ok := endpointState(t, s)
	if !ok {
		return nil
	}
	e := &endpointBody{task: t, state: st}
	if r := v.Revision(t.ServiceID, t.SpecVersion); r != nil {
		e.hostname = hostname(t, n, s, r.Spec.ContainerSpec)
		e.published, _ = publishes(r.Endpoint)
	}
	for _, l := range t.Networks {
		if len(l.Addresses) > 0 && !slices.Contains(e.in, l.NetworkID) {
			e.in = append(e.in, l.NetworkID)
		}
	}
	return e
}

// endpointState tells how others see a task; false if they do not.
func endpointState(t *state.Task, s *state.Service) (state.EndpointState, bool) {
	rank := state.Rank(t.Status.State)
	switch {
	case rank < state.Rank(swarm.TaskStateAssigned) || state.Terminal(t.Status.State):
		return "", false
	case t.Status.State != swarm.TaskStateRunning:
		return state.EndpointUp, true
	case state.Rank(t.DesiredState) > state.Rank(swarm.TaskStateComplete) || s == nil || s.PendingDelete:
		return state.EndpointDraining, true // COMPLETE is what jobs shall become: until then they serve
	}
	return state.EndpointServing, true
}

// hostname is what the container calls itself. One that cannot be worked out is none here; the node refuses its task.
func hostname(t *state.Task, n *state.Node, s *state.Service, c *swarm.ContainerSpec) string {
	if c == nil || c.Hostname == "" {
		return ""
	}
	var labels map[string]string
	if s != nil {
		labels = s.Spec.Labels
	}
	name, err := state.NewPlaceholders(t, labels, n.Description.Hostname, n.Description.Platform).Expand(c.Hostname)
	if err != nil {
		return ""
	}
	return name
}

// Assign is everything that a node must know.
func (x *AssignIndex) Assign(nodeID string) state.Assignments {
	out := state.Assignments{
		Tasks: map[string]state.AssignedTask{}, Networks: map[string]state.AssignedNetwork{}, Services: map[string]state.AssignedService{},
		Endpoints: map[string]state.Endpoint{}, Nodes: make(map[string]state.AssignedNode, len(x.nodes)),
	}
	for id, n := range x.nodes {
		out.Nodes[id] = n
	}
	if x.ingress != "" {
		out.Networks[x.ingress] = x.networks[x.ingress]
	}
	knows := func(id string) bool { _, ok := out.Networks[id]; return ok }
	own := set{} // networks in which the node has tasks
	for _, t := range x.view.TasksByNode(nodeID) {
		if state.Rank(t.Status.State) < state.Rank(swarm.TaskStateAssigned) {
			continue
		}
		out.Tasks[t.ID] = x.task(t)
		if state.Terminal(t.Status.State) {
			continue
		}
		for _, l := range t.Networks {
			if n, ok := x.networks[l.NetworkID]; ok {
				out.Networks[l.NetworkID] = n
				own[l.NetworkID] = struct{}{}
			}
		}
	}
	for _, s := range x.services {
		if s.published || slices.ContainsFunc(s.in, func(id string) bool { _, ok := own[id]; return ok }) {
			out.Services[s.ID] = s.value(knows).(state.AssignedService)
		}
	}
	for id := range out.Networks {
		ingress := x.networks[id].Ingress
		for _, e := range x.endpoints[id] {
			// Nobody is reached in the ingress network but by published ports, and the node's own tasks by the node.
			if ingress && !e.published && e.NodeID != nodeID {
				continue
			}
			if _, done := out.Endpoints[e.TaskID]; !done {
				row := e.Endpoint
				row.Addrs = only(row.Addrs, knows)
				out.Endpoints[e.TaskID] = row
			}
		}
	}
	return out
}

func (x *AssignIndex) task(t *state.Task) state.AssignedTask {
	var labels map[string]string
	if s := x.view.Service(t.ServiceID); s != nil {
		labels = s.Spec.Labels
	}
	return assignedTask(t, x.view.Revision(t.ServiceID, t.SpecVersion), labels)
}

func assignedTask(t *state.Task, r *state.Revision, labels map[string]string) state.AssignedTask {
	a := state.AssignedTask{Task: *t, ServiceLabels: labels}
	if r != nil {
		a.Spec, a.EndpointSpec = r.Spec, r.Endpoint
	}
	return a
}

// only returns m, or a copy without the keys that are not to be known.
func only[V any](m map[string]V, knows func(string) bool) map[string]V {
	all := true
	for k := range m {
		all = all && knows(k)
	}
	if all {
		return m
	}
	out := map[string]V{}
	for k, v := range m {
		if knows(k) {
			out[k] = v
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}
