package sched

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

// allocator gives subnets, mesh addresses, virtual IPs, ports and tasks' addresses. What is in use it knows from the
// board, that is from the store: it keeps nothing of its own, and so gives nothing twice after a change of leader.
type allocator struct {
	b *board
}

// networks gives subnets to networks that have none.
func (a *allocator) networks() {
	b := a.b
	if b.cluster == nil || !b.freed {
		return
	}
	for _, id := range sorted(b.netless) {
		i := b.networks[id]
		ipam, err := a.ipam(i.network)
		if err != nil {
			i.problem = fmt.Sprintf("network %s: %v", i.network.Spec.Name, err)
			continue
		}
		i.problem = ""
		n := *i.network
		n.IPAM = ipam
		b.together()
		b.put(&n)
	}
}

// ipam makes the network's configuration out of its spec: all subnets and gateways set.
func (a *allocator) ipam(n *state.Network) (*swarm.IPAMOptions, error) {
	out := &swarm.IPAMOptions{Driver: swarm.Driver{Name: "default"}}
	var asked []swarm.IPAMConfig
	if o := n.Spec.IPAMOptions; o != nil {
		if o.Driver.Name != "" {
			out.Driver = o.Driver
		}
		asked = slices.Clone(o.Configs)
	}
	if !slices.ContainsFunc(asked, func(c swarm.IPAMConfig) bool { return c.Subnet != "" }) {
		p, ok := freeSubnet(a.b.cluster.DefaultAddrPool, a.b.cluster.SubnetSize, a.taken(n.ID, true))
		if !ok {
			return nil, fmt.Errorf("no free subnet of size /%d is left in the address pools %v: remove networks, or create it with --subnet",
				a.b.cluster.SubnetSize, a.b.cluster.DefaultAddrPool)
		}
		asked = []swarm.IPAMConfig{{Subnet: p.String()}}
	}
	families := map[bool]bool{}
	for _, c := range asked {
		if c.Subnet == "" {
			continue
		}
		p, err := netip.ParsePrefix(c.Subnet)
		if err != nil {
			return nil, fmt.Errorf("%w: %q", ErrSubnet, c.Subnet)
		}
		p = p.Masked()
		if families[p.Addr().Is4()] {
			continue // one per family
		}
		families[p.Addr().Is4()] = true
		if err := checkShape(p); err != nil {
			return nil, err
		}
		for _, t := range a.taken(n.ID, false) {
			if t.Overlaps(p) {
				return nil, fmt.Errorf("%w: %s overlaps %s: remove this network and create it with another subnet", ErrSubnet, p, t)
			}
		}
		c.Subnet = p.String()
		if g := addrOf(c.Gateway); g.IsValid() && p.Contains(g) {
			c.Gateway = g.String()
		} else {
			c.Gateway = p.Addr().Next().String()
		}
		out.Configs = append(out.Configs, c)
	}
	return out, nil
}

// taken lists the prefixes that a network may not overlap: others' and the mesh's, and with hosts what the hosts route.
func (a *allocator) taken(network string, hosts bool) []netip.Prefix {
	var out []netip.Prefix
	if m := a.b.cluster.MeshSubnet; m.IsValid() {
		out = append(out, m)
	}
	for id, i := range a.b.networks {
		if id == network {
			continue
		}
		if i.network.IPAM != nil || hosts { // a subnet that is only asked for keeps others from being chosen there
			out = append(out, Subnets(i.network)...)
		}
	}
	if !hosts {
		return out
	}
	for _, i := range a.b.nodes {
		if i.node == nil {
			continue
		}
		for _, p := range i.node.HostPrefixes {
			if p.IsValid() && p.Bits() > 0 { // not the default route
				out = append(out, p)
			}
		}
	}
	return out
}

// nodes gives mesh addresses.
func (a *allocator) nodes() {
	b := a.b
	if b.mesh == nil {
		return
	}
	for _, id := range sorted(b.meshless) {
		addr, ok := b.mesh.next()
		if !ok {
			return
		}
		n := *b.nodes[id].node
		n.Mesh.Addr = addr
		b.together()
		b.put(&n)
		b.mesh.cursor = addr
	}
}

// tasks gives addresses to new tasks: to those not tried yet, or to all when something became free.
func (a *allocator) tasks() {
	b := a.b
	todo := b.freshNew
	if b.freed {
		todo = b.unallocated
	}
	ids := sorted(todo)
	slices.SortFunc(ids, func(x, y string) int { return byAge(b.tasks[x].Task, b.tasks[y].Task) })
	clear(b.freshNew)
	b.freed = false
	for _, id := range ids {
		t := b.tasks[id]
		b.together()
		list, err := a.attach(t)
		if err != nil {
			if t.Status.Err != err.Error() {
				b.setStatus(t.Task, swarm.TaskStateNew, t.Status.Message, err.Error())
			}
			continue
		}
		c := *t.Task
		c.Networks = list
		c.Status = swarm.TaskStatus{Timestamp: b.now, State: swarm.TaskStatePending, Message: "pending task scheduling"}
		b.put(&c)
		for _, l := range list {
			b.advance(l)
		}
	}
	clear(b.freshNew)
}

// advance moves the cursors to what was just given.
func (b *board) advance(l state.Attachment) {
	for _, p := range b.networks[l.NetworkID].pools {
		for _, a := range l.Addresses {
			if p.holds(a.Addr()) {
				p.cursor = a.Addr()
			}
		}
	}
}

// attach works out a task's attachments.
func (a *allocator) attach(t *taskInfo) ([]state.Attachment, error) {
	s := a.b.service(t.ServiceID)
	if s.service == nil || t.rev == nil {
		return nil, fmt.Errorf("service %s is gone", t.ServiceName)
	}
	if s.blocked != "" {
		return nil, fmt.Errorf("%s", s.blocked)
	}
	configs := attachments(t.rev.Spec)
	in, err := a.needsIngress(configs, t.rev.Endpoint)
	if err != nil {
		return nil, err
	}
	if in != nil {
		configs = append(configs, swarm.NetworkAttachmentConfig{Target: in.network.ID})
	}
	var out []state.Attachment
	for _, c := range configs {
		n, err := a.network(c.Target)
		if err != nil {
			return nil, err
		}
		l := state.Attachment{NetworkID: c.Target, Aliases: slices.Clone(c.Aliases)}
		for _, p := range n.pools {
			addr, err := n.nextAddr(p)
			if err != nil {
				return nil, err
			}
			l.Addresses = append(l.Addresses, netip.PrefixFrom(addr, p.subnet.Bits()))
		}
		out = append(out, l)
	}
	return out, nil
}

// network finds a network that can give addresses.
func (a *allocator) network(id string) (*networkInfo, error) {
	n := a.b.networks[id]
	switch {
	case n == nil || n.network.PendingDelete:
		return nil, fmt.Errorf("network %s does not exist: create it, or update the service", id)
	case n.problem != "":
		return nil, fmt.Errorf("%s", n.problem)
	case len(n.pools) == 0:
		return nil, fmt.Errorf("network %s has no subnet yet", n.network.Spec.Name)
	}
	return n, nil
}

func (i *networkInfo) nextAddr(p *pool) (netip.Addr, error) {
	addr, ok := p.next()
	if !ok {
		return addr, fmt.Errorf("network %s has no free address: all %d are in use: remove tasks, or use a network with a larger subnet",
			i.name(), p.size)
	}
	return addr, nil
}

// needsIngress tells whether tasks are attached to the ingress network, too: when a port is published on all nodes, and
// when none of their own networks leads outside though they need it (no network at all, or host-mode ports).
func (a *allocator) needsIngress(configs []swarm.NetworkAttachmentConfig, e *swarm.EndpointSpec) (*networkInfo, error) {
	published, host := publishes(e)
	internal := true
	for _, c := range configs {
		if n := a.b.networks[c.Target]; n != nil && !n.network.Spec.Internal {
			internal = false
		}
	}
	if !published && len(configs) > 0 && (!internal || !host) {
		return nil, nil
	}
	in := a.b.ingress
	switch {
	case in == nil && published:
		return nil, fmt.Errorf("there is no ingress network for the published ports: create one with --ingress")
	case in == nil:
		return nil, fmt.Errorf("there is no ingress network to give the task a way outside: create one with --ingress, or attach the service to a network")
	case slices.ContainsFunc(configs, func(c swarm.NetworkAttachmentConfig) bool { return c.Target == in.network.ID }):
		return nil, nil
	}
	return in, nil
}

// publishes tells which kinds of published ports there are.
func publishes(e *swarm.EndpointSpec) (ingress, host bool) {
	if e == nil {
		return false, false
	}
	for _, p := range e.Ports {
		if ingressMode(p) {
			ingress = true
		} else {
			host = true
		}
	}
	return ingress, host
}
