package netstack

import (
	"encoding/binary"
	"net/netip"
)

// pick returns the backend for the flow k by rendezvous hashing: the one with
// the highest score. A change of the backends moves only the flows of those
// that changed, and an agent that was restarted answers the same. skip leaves
// out the nth best choices, for flows whose reverse key is taken.
func pick(backends []Backend, k *flowKey, skip int) (netip.Addr, bool) {
	var best netip.Addr
	seed := k.hash()
	limit := ^uint64(0)
	for ; ; skip-- {
		var top uint64
		best = netip.Addr{}
		for i := range backends {
			a := backends[i].Addr
			if a.Is6() != k.v6() {
				continue
			}
			if s := score(seed, a); s < limit && (s > top || !best.IsValid()) {
				best, top = a, s
			}
		}
		if skip <= 0 || !best.IsValid() {
			return best, best.IsValid()
		}
		limit = top
	}
}

func score(seed uint64, a netip.Addr) uint64 {
	b := a.As16()
	return mix(mix(seed^binary.LittleEndian.Uint64(b[:])) ^ binary.LittleEndian.Uint64(b[8:]))
}

// open makes the flow of the packet k from the client behind link. fresh is
// true for the first packet of a connection; others belong to a connection
// older than the flow, which a draining backend may hold, too.
func (t *flowTable) open(link *Link, v *vip, k flowKey, fresh bool) (*flow, openResult) {
	backends := v.serving
	if !fresh {
		backends = v.Backends
	}
	for skip := 0; skip < maxPicks; skip++ {
		addr, ok := pick(backends, &k, skip)
		if !ok {
			if skip == 0 {
				return nil, openNoBackend
			}
			break
		}
		w := newFlow(link, k, addr)
		if !k.tcp() {
			w.set(flowEstablished)
		}
		if t.add(w) {
			return w, openOK
		}
	}
	return nil, openFull
}

// maxPicks bounds how many backends are tried when the reverse key of a flow is taken.
const maxPicks = 4

type openResult int

const (
	openOK openResult = iota
	openNoBackend
	openFull
)

func newFlow(link *Link, k flowKey, backend netip.Addr) *flow {
	w := &flow{fwd: k, rev: k.reverse(), backend: backend, link: link}
	w.rev.src = addrKey(backend)
	if w.rev.src == k.src {
		w.hairpin = true
		w.rev.dst = k.dst // the VIP stands for the client
	}
	return w
}
