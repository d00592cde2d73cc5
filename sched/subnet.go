package sched

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/meshswarm/meshswarm/raft/state"
)

// ErrSubnet is what is wrong with a subnet that a user asks for.
var ErrSubnet = errors.New("subnet not usable")

// CheckSubnet tells whether a new network may have this subnet: nil, or an ErrSubnet that says why not and what to do.
// A subnet that the user chose may overlap what the hosts route themselves (Node.HostPrefixes): the fabric does not care.
func CheckSubnet(v state.View, subnet netip.Prefix) error {
	if err := checkShape(subnet); err != nil {
		return err
	}
	if c := v.Cluster(); c != nil && c.MeshSubnet.IsValid() && c.MeshSubnet.Overlaps(subnet) {
		return fmt.Errorf("%w: %s overlaps the mesh's own subnet %s: choose another", ErrSubnet, subnet, c.MeshSubnet)
	}
	for _, n := range v.Networks() {
		for _, p := range Subnets(n) {
			if p.Overlaps(subnet) {
				return fmt.Errorf("%w: %s overlaps %s of network %s: choose another, or none to have one chosen", ErrSubnet, subnet, p, n.Spec.Name)
			}
		}
	}
	return nil
}

func checkShape(p netip.Prefix) error {
	switch a := p.Addr(); {
	case !p.IsValid():
		return fmt.Errorf("%w: not a subnet", ErrSubnet)
	case p != p.Masked():
		return fmt.Errorf("%w: %s has host bits set: write %s", ErrSubnet, p, p.Masked())
	case a.Is4In6():
		return fmt.Errorf("%w: %s is an IPv4 subnet in IPv6 form: write it as IPv4", ErrSubnet, p)
	case a.BitLen()-p.Bits() < 2:
		return fmt.Errorf("%w: %s has no room for a gateway, a virtual IP and a task: use a larger one", ErrSubnet, p)
	case p.Bits() < 8:
		return fmt.Errorf("%w: %s is too large: use /8 or smaller", ErrSubnet, p)
	case a.IsLoopback(), a.IsMulticast(), a.IsLinkLocalUnicast(), a.IsUnspecified(), a.Is4() && a.As4()[0] >= 240:
		return fmt.Errorf("%w: %s is not for hosts: use a private range such as 10.0.0.0/8", ErrSubnet, p)
	}
	return nil
}

// Subnets lists a network's subnets: the allocated ones, or while there is no allocation those that its spec asks for.
func Subnets(n *state.Network) []netip.Prefix {
	ipam := n.IPAM
	if ipam == nil {
		ipam = n.Spec.IPAMOptions
	}
	if ipam == nil {
		return nil
	}
	var out []netip.Prefix
	for _, c := range ipam.Configs {
		if p, err := netip.ParsePrefix(c.Subnet); err == nil {
			out = append(out, p.Masked())
		}
	}
	return out
}

// freeSubnet is the first subnet of the given size in the pools that overlaps nothing that is taken.
func freeSubnet(pools []netip.Prefix, bits int, taken []netip.Prefix) (netip.Prefix, bool) {
	taken = slices.Clone(taken)
	slices.SortFunc(taken, func(a, b netip.Prefix) int { return a.Masked().Addr().Compare(b.Masked().Addr()) })
	for _, pool := range pools {
		pool = pool.Masked()
		size := max(bits, pool.Bits())
		if size > pool.Addr().BitLen() {
			continue
		}
		at := netip.PrefixFrom(pool.Addr(), size)
		for _, t := range taken {
			for at.IsValid() && at.Overlaps(t) {
				at = after(at, t)
			}
		}
		// Sorted by start, so one walk is enough, but for large ones that begin early and reach past smaller ones.
		for i := 0; at.IsValid() && pool.Contains(at.Addr()) && i < len(taken); i++ {
			if at.Overlaps(taken[i]) {
				at, i = after(at, taken[i]), -1
			}
		}
		if at.IsValid() && pool.Contains(at.Addr()) {
			return at, true
		}
	}
	return netip.Prefix{}, false
}

// after is the first prefix of p's size behind both p and t; invalid at the end of the address space.
func after(p, t netip.Prefix) netip.Prefix {
	wide := p
	if t.Bits() < p.Bits() {
		wide = t
	}
	next := lastAddr(wide).Next()
	if !next.IsValid() {
		return netip.Prefix{}
	}
	return netip.PrefixFrom(next, p.Bits())
}
