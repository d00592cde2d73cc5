package agent

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/mesh"
	"github.com/meshswarm/meshswarm/netstack"
	"github.com/meshswarm/meshswarm/raft/state"
)

// view is what tables and peers are made from: the assignments of this node, seen by this node.
type view struct {
	state.Assignments
	self       string // this node's ID
	meshSubnet netip.Prefix
}

// meshAddr is a node's own address in the mesh; zero while it has none.
func (v view) meshAddr(node string) netip.Addr { return v.Nodes[node].Mesh.Addr }

// reachable tells whether packets for a task of that node can be sent: it is here, or its node has a mesh address.
func (v view) reachable(e state.Endpoint) bool {
	return e.NodeID == v.self || v.meshAddr(e.NodeID).IsValid()
}

// endpoints returns the endpoints ordered by task ID, so that equal assignments make equal tables.
func (v view) endpoints() []state.Endpoint {
	out := make([]state.Endpoint, 0, len(v.Endpoints))
	for _, id := range slices.Sorted(maps.Keys(v.Endpoints)) {
		if e := v.Endpoints[id]; v.reachable(e) {
			out = append(out, e)
		}
	}
	return out
}

// tables computes the data plane's tables from what the leader assigned.
func (v view) tables() *netstack.Tables {
	t := &netstack.Tables{Self: v.meshAddr(v.self), MeshSubnet: v.meshSubnet}
	endpoints := v.endpoints()
	tasks := map[string][]state.Endpoint{} // of each service, those that may have flows
	for _, e := range endpoints {
		if e.State != state.EndpointUp {
			tasks[e.ServiceID] = append(tasks[e.ServiceID], e)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(v.Networks)) {
		t.Networks = append(t.Networks, v.network(v.Networks[id], endpoints, tasks))
	}
	for _, id := range slices.Sorted(maps.Keys(v.Services)) {
		t.Ports = append(t.Ports, v.ingressPorts(v.Services[id], tasks[id])...)
	}
	t.Ports = append(t.Ports, v.hostPorts()...)
	return t
}

// network is one network's routes, VIPs and names.
func (v view) network(n state.AssignedNetwork, endpoints []state.Endpoint, tasks map[string][]state.Endpoint) netstack.Network {
	out := netstack.Network{
		ID: n.ID, Name: n.Name, Subnets: n.Subnets, Gateways: n.Gateways, Internal: n.Internal, Ingress: n.Ingress,
		Names: map[string][]netip.Addr{}, PTR: map[netip.Addr]string{},
	}
	for _, e := range endpoints {
		for _, a := range e.Addrs[n.ID] {
			out.Endpoints = append(out.Endpoints, netstack.Endpoint{Addr: a, Node: v.meshAddr(e.NodeID)})
		}
	}
	for _, id := range slices.Sorted(maps.Keys(v.Services)) {
		s := v.Services[id]
		for _, vip := range s.VIPs[n.ID] {
			out.VIPs = append(out.VIPs, netstack.VIP{Addr: vip, Service: s.Name, Backends: backends(n.ID, vip, tasks[s.ID])})
		}
	}
	// Nobody asks the ingress network for names: its tasks reach only the agent.
	if !n.Ingress {
		v.names(&out, endpoints)
	}
	return out
}

// backends are a service's tasks that may get flows for one VIP: serving, or draining with old flows. Address families
// do not mix.
func backends(network string, vip netip.Addr, tasks []state.Endpoint) []netstack.Backend {
	var out []netstack.Backend
	for _, e := range tasks {
		for _, a := range e.Addrs[network] {
			if a.Is4() == vip.Is4() {
				out = append(out, netstack.Backend{Addr: a, Draining: e.State == state.EndpointDraining})
			}
		}
	}
	return out
}

// names fills a network's DNS: the service (its VIP, or all tasks for dnsrr), tasks.<service>, aliases and their
// tasks.<alias>, each task's container name, <slot>.<service>, short ID and hostname; and the reverse.
func (v view) names(n *netstack.Network, endpoints []state.Endpoint) {
	serving := map[string][]netip.Addr{} // service ID → addresses of tasks that take new flows
	for _, e := range endpoints {
		addrs := e.Addrs[n.ID]
		if len(addrs) == 0 {
			continue
		}
		for _, a := range addrs {
			n.PTR[a] = e.Name
		}
		if e.State == state.EndpointServing {
			serving[e.ServiceID] = append(serving[e.ServiceID], addrs...)
		}
		// A task answers by its own name from its start: what waits for a peer to become healthy must reach it.
		own := []string{e.Name, e.TaskID, short(e.TaskID), e.Hostname}
		if s, ok := v.Services[e.ServiceID]; ok && e.Slot > 0 {
			own = append(own, strconv.Itoa(e.Slot)+"."+s.Name)
		}
		for _, name := range own {
			addName(n.Names, name, addrs)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(v.Services)) {
		s := v.Services[id]
		vips, tasks := s.VIPs[n.ID], serving[s.ID]
		if len(vips) == 0 && len(tasks) == 0 {
			continue
		}
		face := vips
		if len(face) == 0 {
			face = tasks
		}
		for _, name := range append([]string{s.Name}, s.Aliases[n.ID]...) {
			addName(n.Names, name, face)
			addName(n.Names, "tasks."+name, tasks)
		}
		for _, a := range vips {
			n.PTR[a] = s.Name
		}
	}
}

// short is the form of an ID that Docker's tools print.
func short(id string) string { return id[:min(12, len(id))] }

// addName adds addresses to a name; several owners of one name share it, as Docker's aliases do.
func addName(names map[string][]netip.Addr, name string, addrs []netip.Addr) {
	name = strings.TrimSuffix(strings.ToLower(name), ".")
	if name == "" {
		return
	}
	for _, a := range addrs {
		if !slices.Contains(names[name], a) {
			names[name] = append(names[name], a)
		}
	}
	if _, ok := names[name]; !ok {
		names[name] = nil // known, and nobody serves it: an empty answer, not NXDOMAIN
	}
}

// ingressPorts are a service's published ports that every node serves, with its tasks that may have flows.
func (v view) ingressPorts(s state.AssignedService, tasks []state.Endpoint) []netstack.Port {
	var out []netstack.Port
	for _, p := range s.Ports {
		if p.PublishMode == swarm.PortConfigPublishModeHost || p.PublishedPort == 0 {
			continue
		}
		port := netstack.Port{Protocol: protocol(p), Port: uint16(p.PublishedPort), Target: uint16(p.TargetPort), Service: s.Name}
		for _, e := range tasks {
			if b, ok := v.portBackend(e); ok {
				port.Backends = append(port.Backends, b)
			}
		}
		out = append(out, port)
	}
	return out
}

// portBackend is how published ports reach a task: at its ingress address, or at any it has.
func (v view) portBackend(e state.Endpoint) (netstack.PortBackend, bool) {
	b := netstack.PortBackend{Draining: e.State == state.EndpointDraining}
	if e.NodeID != v.self {
		b.Node = v.meshAddr(e.NodeID)
	}
	for _, id := range slices.Sorted(maps.Keys(e.Addrs)) {
		for _, a := range e.Addrs[id] {
			if !b.Addr.IsValid() || v.Networks[id].Ingress {
				b.Addr = a
			}
			if v.Networks[id].Ingress {
				return b, true
			}
		}
	}
	return b, b.Addr.IsValid()
}

// hostPorts are the ports that tasks of this node publish here only.
func (v view) hostPorts() []netstack.Port {
	var out []netstack.Port
	for _, id := range slices.Sorted(maps.Keys(v.Tasks)) {
		t := v.Tasks[id]
		e, ok := v.Endpoints[id]
		if !ok || t.EndpointSpec == nil || e.State == state.EndpointUp {
			continue
		}
		for _, p := range t.EndpointSpec.Ports {
			if p.PublishMode != swarm.PortConfigPublishModeHost || p.PublishedPort == 0 {
				continue
			}
			port := netstack.Port{Protocol: protocol(p), Port: uint16(p.PublishedPort), Target: uint16(p.TargetPort), Host: true, Service: t.Task.ServiceName}
			if b, ok := v.portBackend(e); ok {
				port.Backends = append(port.Backends, b)
			}
			out = append(out, port)
		}
	}
	return out
}

func protocol(p swarm.PortConfig) string {
	return string(cmp.Or(p.Protocol, swarm.PortConfigProtocolTCP))
}

// peers are the other nodes of the mesh. A node may send from its own mesh address and from the addresses of the tasks
// that the leader put there, from nothing else.
func (v view) peers() ([]mesh.Peer, error) {
	allowed := map[string][]netip.Prefix{}
	for _, e := range v.endpoints() {
		for _, addrs := range e.Addrs {
			for _, a := range addrs {
				allowed[e.NodeID] = append(allowed[e.NodeID], netip.PrefixFrom(a, a.BitLen()))
			}
		}
	}
	var out []mesh.Peer
	for _, id := range slices.Sorted(maps.Keys(v.Nodes)) {
		n := v.Nodes[id]
		if id == v.self || n.Mesh.PublicKey == "" || !n.Mesh.Addr.IsValid() {
			continue
		}
		key, err := mesh.ParsePublicKey(n.Mesh.PublicKey)
		if err != nil {
			return nil, err
		}
		ips := append(allowed[id], netip.PrefixFrom(n.Mesh.Addr, n.Mesh.Addr.BitLen()))
		slices.SortFunc(ips, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
		out = append(out, mesh.Peer{Key: key, Endpoint: n.Mesh.Endpoint, AllowedIPs: ips})
	}
	return out, nil
}
