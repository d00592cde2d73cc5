package netstack

import "sync"

const (
	// maxFrags bounds the fragmented packets under way to or from VIPs.
	maxFrags = 4096
	// fragIdle is how many seconds the fragments of a packet may take (Linux: ipfrag_time).
	fragIdle = 30
)

// fragKey names a fragmented packet, before its rewrite.
type fragKey struct {
	src, dst [16]byte
	id       uint32
	proto    uint16
}

type fragEntry struct {
	w       *flow
	forward bool
	at      int64
}

// fragTable remembers the flow of a first fragment for the later ones, which
// have no ports. Fragments that come before the first are lost, as with any
// stateless translator; Linux sends them in order.
type fragTable struct {
	mu    sync.Mutex
	flows map[fragKey]fragEntry
}

func fragKeyOf(ip []byte, h *ipInfo) fragKey {
	k := keyOf(ip, h)
	return fragKey{src: k.src, dst: k.dst, id: h.fragID, proto: k.proto}
}

func (t *fragTable) remember(ip []byte, h *ipInfo, w *flow, forward bool, now int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.flows) < maxFrags {
		t.flows[fragKeyOf(ip, h)] = fragEntry{w: w, forward: forward, at: now}
	}
}

func (t *fragTable) lookup(ip []byte, h *ipInfo) (*flow, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.flows[fragKeyOf(ip, h)]
	return e.w, e.forward
}

func (t *fragTable) age(now int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, e := range t.flows {
		if now-e.at > fragIdle {
			delete(t.flows, k)
		}
	}
}
