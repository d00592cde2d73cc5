package sched

import (
	"net/netip"
	"strings"
	"time"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

// networkInfo is a network with its addresses in use.
type networkInfo struct {
	network *state.Network
	pools   []*pool // one per address family; none while the network has no subnet
	users   int     // attachments of tasks that have not ended
	problem string  // why it has no subnet
}

func (b *board) setNetwork(id string, n *state.Network) {
	old := b.networks[id]
	delete(b.netless, id)
	delete(b.doomed, id)
	b.freed = true
	if old != nil && old.network.Spec.Ingress || n != nil && n.Spec.Ingress {
		defer b.findIngress()
	}
	if n == nil {
		delete(b.networks, id)
		return
	}
	i := old
	if i == nil {
		i = &networkInfo{}
		b.networks[id] = i
	}
	before := i.network
	i.network = n
	if before == nil || !equal(before.IPAM, n.IPAM) {
		i.makePools()
	}
	switch {
	case n.PendingDelete:
		b.doomed[id] = struct{}{}
	case n.IPAM == nil:
		b.netless[id] = struct{}{}
	}
}

func (i *networkInfo) makePools() {
	i.pools = nil
	if i.network.IPAM == nil {
		return
	}
	for _, c := range i.network.IPAM.Configs {
		subnet, err := netip.ParsePrefix(c.Subnet)
		if err != nil {
			continue
		}
		within, _ := netip.ParsePrefix(c.Range)
		p := newPool(subnet, within)
		p.take(addrOf(c.Gateway), "gateway", time.Time{})
		i.pools = append(i.pools, p)
	}
}

// take notes the owner of an address, note that there was one, give frees it and tells whether it was the owner's.
func (i *networkInfo) take(a netip.Addr, owner string, since time.Time) {
	for _, p := range i.pools {
		p.take(a, owner, since)
	}
}

func (i *networkInfo) note(a netip.Addr, since time.Time) {
	for _, p := range i.pools {
		p.note(a, since)
	}
}

func (i *networkInfo) give(a netip.Addr, owner string) bool {
	for _, p := range i.pools {
		if p.give(a, owner) {
			return true
		}
	}
	return false
}

// name is how errors call the network.
func (i *networkInfo) name() string {
	if len(i.pools) == 0 {
		return i.network.Spec.Name
	}
	subnets := make([]string, len(i.pools))
	for j, p := range i.pools {
		subnets[j] = p.subnet.String()
	}
	return i.network.Spec.Name + " (" + strings.Join(subnets, ", ") + ")"
}

// findIngress finds the network of published ports; nil if there is none.
func (b *board) findIngress() {
	b.ingress = nil
	for _, n := range b.networks {
		if n.network.Spec.Ingress && !n.network.PendingDelete && (b.ingress == nil || n.network.ID < b.ingress.network.ID) {
			b.ingress = n
		}
	}
}

// attachments lists what networks the spec wants, each once.
func attachments(spec swarm.TaskSpec) []swarm.NetworkAttachmentConfig {
	seen := set{}
	var out []swarm.NetworkAttachmentConfig
	for _, a := range spec.Networks {
		if _, dup := seen[a.Target]; dup || a.Target == "" {
			continue
		}
		seen[a.Target] = struct{}{}
		out = append(out, a)
	}
	return out
}
