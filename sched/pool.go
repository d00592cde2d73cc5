package sched

import (
	"math"
	"net/netip"
	"time"
)

// pool is the addresses of one subnet. It gives the next free one after the last given, so that an address is not used
// again soon after it became free.
type pool struct {
	subnet      netip.Prefix
	first, last netip.Addr // what may be given: within the range, without the subnet's own and broadcast address
	size        int
	used        map[netip.Addr]string // owner
	cursor      netip.Addr            // the last given
	since       time.Time             // when the cursor's owner was made: at a term's start the youngest tells the cursor
}

// newPool makes the pool of subnet that gives addresses of within only. A pool without usable subnet is always exhausted.
func newPool(subnet, within netip.Prefix) *pool {
	p := &pool{subnet: subnet, used: map[netip.Addr]string{}}
	if !subnet.IsValid() {
		return p
	}
	if !within.IsValid() || !subnet.Contains(within.Addr()) || within.Bits() < subnet.Bits() {
		within = subnet
	}
	p.first, p.last = within.Masked().Addr(), lastAddr(within)
	if p.first == subnet.Masked().Addr() && subnet.Bits() < subnet.Addr().BitLen()-1 {
		p.first = p.first.Next()
	}
	if subnet.Addr().Is4() && p.last == lastAddr(subnet) && subnet.Bits() < 31 {
		p.last = p.last.Prev()
	}
	p.size = span(p.first, p.last)
	p.cursor = p.last
	return p
}

// take notes an owner.
func (p *pool) take(a netip.Addr, owner string, since time.Time) {
	if !a.IsValid() || !p.holds(a) || p.used[a] != "" {
		return
	}
	p.used[a] = owner
	p.note(a, since)
}

// note moves the cursor to the address of the youngest owner, also if it does not need it any more.
func (p *pool) note(a netip.Addr, since time.Time) {
	if !p.holds(a) {
		return
	}
	if since.After(p.since) || since.Equal(p.since) && p.cursor.Less(a) {
		p.cursor, p.since = a, since
	}
}

// give frees an address and tells whether it was its owner's.
func (p *pool) give(a netip.Addr, owner string) bool {
	if !a.IsValid() || p.used[a] != owner {
		return false
	}
	delete(p.used, a)
	return true
}

func (p *pool) holds(a netip.Addr) bool {
	return p.first.IsValid() && !a.Less(p.first) && !p.last.Less(a)
}

// next is the address to give now; false when all are in use. It does not take it.
func (p *pool) next() (netip.Addr, bool) {
	if len(p.used) >= p.size {
		return netip.Addr{}, false
	}
	a := p.cursor
	for range len(p.used) + 1 {
		if a == p.last {
			a = p.first
		} else {
			a = a.Next()
		}
		if p.used[a] == "" {
			return a, true
		}
	}
	return netip.Addr{}, false
}

func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := range b {
		switch host := len(b)*8 - p.Bits() - (len(b)-1-i)*8; {
		case host >= 8:
			b[i] = 0xff
		case host > 0:
			b[i] |= byte(1<<host - 1)
		}
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// span counts addresses from a to b, both included, up to MaxInt32.
func span(a, b netip.Addr) int {
	x, y := a.As16(), b.As16()
	n := 1
	carry := 0
	var diff [16]byte
	for i := 15; i >= 0; i-- {
		d := int(y[i]) - int(x[i]) - carry
		carry = 0
		if d < 0 {
			d, carry = d+256, 1
		}
		diff[i] = byte(d)
	}
	if carry == 1 {
		return 0
	}
	total := 0
	for _, d := range diff {
		if total > math.MaxInt32>>8 {
			return math.MaxInt32
		}
		total = total<<8 | int(d)
	}
	return total + n
}

// addrOf reads an address with or without a prefix length; invalid if it is none.
func addrOf(s string) netip.Addr {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p.Addr()
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}
	}
	return a
}
