package api

import (
	"net/netip"
	"slices"
	"sort"
	"strconv"

	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

const (
	overlay    = "overlay"
	scopeSwarm = "swarm"
	scopeLocal = "local"
	ipamDriver = "default"
)

// networks are the swarm's networks as this node knows them: a manager all, a worker those it carries.
func (b *Backend) networks() []network.Inspect {
	var out []network.Inspect
	if c, ok := b.local.Cluster(); ok {
		v := c.Store().View()
		for _, n := range v.Networks() {
			if visibleNetwork(n) {
				out = append(out, inspectOf(n))
			}
		}
		return out
	}
	for _, n := range b.local.Assignments().Networks {
		out = append(out, inspectAssigned(n))
	}
	sort.Slice(out, func(i, j int) bool { return out[i].ID < out[j].ID })
	return out
}

// network finds one of the swarm's networks, with its containers on this node and its peers.
func (b *Backend) network(term string, verbose bool) (n network.Inspect, found bool, err error) {
	if c, ok := b.local.Cluster(); ok {
		v := c.Store().View()
		sn, err := findNetwork(v, term)
		if err != nil {
			return n, false, ignoreNotFound(err)
		}
		n = inspectOf(sn)
		addUse(&n, v, b.local.Status().NodeID)
		if verbose {
			n.Services = servicesIn(v, sn.ID)
		}
		return n, true, nil
	}
	for _, cand := range b.networks() {
		if cand.ID == term || cand.Name == term {
			cand.Containers = containersIn(b.local.Assignments().Tasks, cand.ID)
			return cand, true, nil
		}
	}
	return n, false, nil
}

// inspectOf is a network as Docker shows it.
func inspectOf(n *state.Network) network.Inspect {
	out := network.Inspect{
		Name: n.Spec.Name, ID: n.ID, Created: n.CreatedAt, Scope: scopeSwarm, Driver: overlay,
		EnableIPv4: true, EnableIPv6: n.Spec.IPv6Enabled,
		Internal: n.Spec.Internal, Attachable: n.Spec.Attachable, Ingress: n.Spec.Ingress,
		Labels:     labels(n.Spec.Labels),
		Options:    map[string]string{},
		Containers: map[string]network.EndpointResource{},
		IPAM:       network.IPAM{Driver: ipamDriver, Config: []network.IPAMConfig{}},
	}
	if d := n.Spec.DriverConfiguration; d != nil && d.Options != nil {
		out.Options = d.Options
	}
	ipam := n.IPAM
	if ipam == nil {
		ipam = n.Spec.IPAMOptions
	}
	if ipam != nil {
		out.IPAM.Options = ipam.Driver.Options
		for _, c := range ipam.Configs {
			out.IPAM.Config = append(out.IPAM.Config, network.IPAMConfig{Subnet: c.Subnet, IPRange: c.Range, Gateway: c.Gateway})
		}
	}
	return out
}

func inspectAssigned(n state.AssignedNetwork) network.Inspect {
	out := network.Inspect{
		Name: n.Name, ID: n.ID, Scope: scopeSwarm, Driver: overlay, EnableIPv4: true,
		Internal: n.Internal, Ingress: n.Ingress,
		Labels: map[string]string{}, Options: map[string]string{},
		IPAM: network.IPAM{Driver: ipamDriver, Config: []network.IPAMConfig{}},
	}
	for i, p := range n.Subnets {
		c := network.IPAMConfig{Subnet: p.String()}
		if i < len(n.Gateways) {
			c.Gateway = n.Gateways[i].String()
		}
		out.EnableIPv6 = out.EnableIPv6 || p.Addr().Is6()
		out.IPAM.Config = append(out.IPAM.Config, c)
	}
	return out
}

// live tells whether a task holds its addresses.
func live(t *state.Task) bool { return !state.Terminal(t.Status.State) && t.NodeID != "" }

func attachment(t *state.Task, networkID string) (state.Attachment, bool) {
	i := slices.IndexFunc(t.Networks, func(a state.Attachment) bool { return a.NetworkID == networkID })
	if i < 0 {
		return state.Attachment{}, false
	}
	return t.Networks[i], true
}

// addUse adds who is in a network: this node's containers, and the nodes that carry it.
func addUse(n *network.Inspect, v state.View, nodeID string) {
	peers := map[string]bool{}
	for _, t := range v.Tasks() {
		a, ok := attachment(t, n.ID)
		if !ok || !live(t) {
			continue
		}
		peers[t.NodeID] = true
		if t.NodeID == nodeID {
			key, e := endpointOf(t, a)
			n.Containers[key] = e
		}
	}
	for _, node := range v.Nodes() {
		if peers[node.ID] {
			n.Peers = append(n.Peers, network.PeerInfo{Name: nodeName(node), IP: nodeIP(node)})
		}
	}
}

func containersIn(tasks map[string]state.AssignedTask, networkID string) map[string]network.EndpointResource {
	out := map[string]network.EndpointResource{}
	for _, at := range tasks {
		if a, ok := attachment(&at.Task, networkID); ok && live(&at.Task) {
			key, e := endpointOf(&at.Task, a)
			out[key] = e
		}
	}
	return out
}

// endpointOf gives the container's ID, or the task's while there is none, and the endpoint.
func endpointOf(t *state.Task, a state.Attachment) (string, network.EndpointResource) {
	e := network.EndpointResource{Name: t.Name(), EndpointID: t.ID}
	for _, p := range a.Addresses {
		if p.Addr().Is4() {
			e.IPv4Address = p.String()
		} else {
			e.IPv6Address = p.String()
		}
	}
	if c := t.Status.ContainerStatus; c != nil && c.ContainerID != "" {
		return c.ContainerID, e
	}
	return t.ID, e
}

func nodeIP(n *state.Node) string {
	if a := n.Mesh.Endpoint.Addr(); a.IsValid() {
		return a.String()
	}
	return n.Status.Addr
}

// servicesIn is the verbose part of an inspection.
func servicesIn(v state.View, networkID string) map[string]network.ServiceInfo {
	out := map[string]network.ServiceInfo{}
	for _, s := range v.Services() {
		info, used := network.ServiceInfo{Ports: []string{}, Tasks: []network.Task{}}, false
		for _, vip := range s.Endpoint.VirtualIPs {
			if vip.NetworkID == networkID {
				used = true
				if p, err := netip.ParsePrefix(vip.Addr); err == nil {
					info.VIP = p.Addr().String()
				}
			}
		}
		for _, p := range s.Endpoint.Ports {
			info.Ports = append(info.Ports, "Target: "+strconv.Itoa(int(p.TargetPort))+", Publish: "+strconv.Itoa(int(p.PublishedPort)))
		}
		for _, t := range v.TasksByService(s.ID) {
			if a, ok := attachment(t, networkID); ok && live(t) {
				used = true
				info.Tasks = append(info.Tasks, serviceTask(v, t, a))
			}
		}
		if used && visibleService(s) {
			out[s.Spec.Name] = info
		}
	}
	return out
}

func serviceTask(v state.View, t *state.Task, a state.Attachment) network.Task {
	out := network.Task{Name: t.Name(), EndpointID: t.ID, Info: map[string]string{}}
	if len(a.Addresses) > 0 {
		out.EndpointIP = a.Addresses[0].Addr().String()
	}
	if n := v.Node(t.NodeID); n != nil {
		out.Info["Host IP"] = nodeIP(n)
	}
	return out
}

// filterNetworks applies Docker's filters of the network list.
func filterNetworks(in []network.Inspect, f filters.Args) ([]network.Inspect, error) {
	dangling, err := f.GetBoolOrDefault("dangling", true)
	if err != nil {
		return nil, err
	}
	builtin := false
	for _, t := range f.Get("type") {
		switch t {
		case "custom":
		case "builtin":
			builtin = true
		default:
			return nil, invalid("invalid filter: 'type'='%s'", t)
		}
	}
	if builtin && len(f.Get("type")) == 1 || f.Contains("dangling") && !dangling {
		return nil, nil
	}
	var out []network.Inspect
	for _, n := range in {
		if f.ExactMatch("driver", n.Driver) && f.ExactMatch("scope", n.Scope) && f.Match("name", n.Name) &&
			f.Match("id", n.ID) && (!f.Contains("label") || f.MatchKVList("label", n.Labels)) {
			out = append(out, n)
		}
	}
	return out, nil
}

// usedBy names a service or a task that wants the network; "" when none does. Tasks on their way out do not count: the
// network waits for them.
func usedBy(v state.View, n *state.Network) string {
	for _, s := range v.Services() {
		if !visibleService(s) {
			continue
		}
		for _, a := range s.Spec.TaskTemplate.Networks {
			if a.Target == n.ID {
				return "service " + s.Spec.Name
			}
		}
	}
	if n.Spec.Ingress {
		return ""
	}
	for _, t := range v.Tasks() {
		if _, ok := attachment(t, n.ID); ok && live(t) && state.Rank(t.DesiredState) <= state.Rank(swarm.TaskStateRunning) {
			return "task " + t.ID
		}
	}
	return ""
}
