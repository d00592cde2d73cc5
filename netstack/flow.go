package netstack

import (
	"encoding/binary"
	"math"
	"net/netip"
	"sync"
	"sync/atomic"
)

const (
	flowShards = 256
	// maxFlows bounds the flows of the node, maxLinkFlows those of one link.
	maxFlows     = 131072
	maxLinkFlows = 65536
	// evictScan bounds how many flows of a full shard are looked at to make room.
	evictScan = 32
)

// Idle seconds after which a flow is forgotten.
const (
	idleNew         = 60           // the backend has not answered
	idleEstablished = 24 * 60 * 60 // as TCP itself, a silent connection may stay for long
	idleHalfClosed  = 60 * 60      // one FIN
	idleClosed      = 10           // both FINs, or a RST
	idleDead        = 120          // the backend is gone, the client not yet told
	idleUDP         = 60
)

// Bits of flow.state.
const (
	flowEstablished = 1 << iota // the backend answered, or the flow was restored
	flowClientFIN
	flowServerFIN
	flowRST
	flowDead // the backend is gone
	flowGone // out of the table
)

// flowKey names one direction of a flow: IPv4 addresses take the first four
// bytes. It has no padding, so that maps hash it in one go.
type flowKey struct {
	src, dst     [16]byte
	sport, dport uint16
	proto        uint16 // 0x100 added for IPv6
}

func keyOf(ip []byte, h *ipInfo) flowKey {
	k := flowKey{sport: h.sport, dport: h.dport, proto: uint16(h.proto)}
	if h.v6 {
		copy(k.src[:], ip[8:24])
		copy(k.dst[:], ip[24:40])
		k.proto |= 0x100
		return k
	}
	copy(k.src[:], ip[12:16])
	copy(k.dst[:], ip[16:20])
	return k
}

func addrKey(a netip.Addr) (k [16]byte) {
	copy(k[:], a.AsSlice())
	return k
}

func (k *flowKey) v6() bool { return k.proto&0x100 != 0 }

func (k *flowKey) tcp() bool { return k.proto&0xff == protoTCP }

func (k *flowKey) width() int {
	if k.v6() {
		return 16
	}
	return 4
}

func (k *flowKey) reverse() flowKey {
	return flowKey{src: k.dst, dst: k.src, sport: k.dport, dport: k.sport, proto: k.proto}
}

// hash mixes the key; it is the same in every process, because the choice of
// a backend is made with it.
func (k *flowKey) hash() uint64 {
	h := uint64(k.sport)<<32 | uint64(k.dport)<<16 | uint64(k.proto)
	for i := 0; i < 16; i += 8 {
		h = mix(h ^ binary.LittleEndian.Uint64(k.src[i:]))
		h = mix(h ^ binary.LittleEndian.Uint64(k.dst[i:]))
	}
	return h
}

// mix is the finalizer of splitmix64.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// A flow is one connection of a local task to a VIP. The keys are immutable.
type flow struct {
	fwd flowKey // client → VIP, as the client sends
	rev flowKey // backend → client, as the backend sends; backend → VIP when it is the client itself
	// backend is rev.src.
	backend netip.Addr
	link    *Link // the client's
	// hairpin: the client is its own backend and sees the VIP as its peer in both roles.
	hairpin bool
	state   atomic.Uint32
	last    atomic.Int64 // seconds of the fabric's clock
	// clientNext and serverNext are the next sequence numbers of the two sides, for a reset.
	clientNext, serverNext atomic.Uint32
}

func (w *flow) set(bit uint32) { w.state.Or(bit) }

func (w *flow) is(bit uint32) bool { return w.state.Load()&bit != 0 }

// closed reports whether a SYN may start a new connection in w's place.
func (w *flow) closed() bool {
	s := w.state.Load()
	return s&(flowRST|flowDead|flowGone) != 0 || s&(flowClientFIN|flowServerFIN) == flowClientFIN|flowServerFIN
}

// idle returns after how many silent seconds w is forgotten.
func (w *flow) idle() int64 {
	s := w.state.Load()
	switch {
	case !w.fwd.tcp():
		return idleUDP
	case s&flowDead != 0:
		return idleDead
	case w.closed():
		return idleClosed
	case s&(flowClientFIN|flowServerFIN) != 0:
		return idleHalfClosed
	case s&flowEstablished != 0:
		return idleEstablished
	}
	return idleNew
}

// flowTable holds the flows of all links. Each is found by both of its keys.
type flowTable struct {
	clock  atomic.Int64 // seconds
	count  atomic.Int64
	shards [flowShards]flowShard
	frags  fragTable
}

type flowShard struct {
	mu    sync.Mutex
	flows map[flowKey]*flow
}

func newFlowTable() *flowTable {
	t := &flowTable{}
	for i := range t.shards {
		t.shards[i].flows = make(map[flowKey]*flow)
	}
	t.frags.flows = make(map[fragKey]fragEntry)
	return t
}

func (t *flowTable) shard(k *flowKey) *flowShard { return &t.shards[k.hash()%flowShards] }

// lookup finds the flow of a packet and its direction.
func (t *flowTable) lookup(k *flowKey) (w *flow, forward bool) {
	s := t.shard(k)
	s.mu.Lock()
	w = s.flows[*k]
	s.mu.Unlock()
	if w == nil {
		return nil, false
	}
	return w, w.fwd == *k
}

// add puts w in, false when one of its keys is taken or there is no room. Only
// the client link's reader and restore call it for a link.
func (t *flowTable) add(w *flow) bool {
	if w.link.flows.Load() >= maxLinkFlows || t.count.Load() >= maxFlows {
		if !t.evict(t.shard(&w.fwd), w.link) {
			return false
		}
	}
	w.last.Store(t.clock.Load())
	if !t.shard(&w.rev).put(w.rev, w) {
		return false
	}
	if !t.shard(&w.fwd).put(w.fwd, w) {
		t.shard(&w.rev).drop(w.rev, w)
		return false
	}
	t.count.Add(1)
	w.link.flows.Add(1)
	return true
}

func (s *flowShard) put(k flowKey, w *flow) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.flows[k]; old != nil {
		return false
	}
	s.flows[k] = w
	return true
}

func (s *flowShard) drop(k flowKey, w *flow) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.flows[k] == w {
		delete(s.flows, k)
	}
}

// remove takes w out; it may be called twice.
func (t *flowTable) remove(w *flow) {
	if w.state.Or(flowGone)&flowGone != 0 {
		return
	}
	t.shard(&w.rev).drop(w.rev, w)
	t.shard(&w.fwd).drop(w.fwd, w)
	t.count.Add(-1)
	w.link.flows.Add(-1)
}

// evict makes room in the shard of a full table for a flow of link l.
func (t *flowTable) evict(s *flowShard, l *Link) bool {
	now, mine := t.clock.Load(), l.flows.Load()
	var victim *flow
	best := int64(math.MaxInt64)
	s.mu.Lock()
	n := 0
	for _, w := range s.flows {
		if rank, ok := w.yields(l, mine, w.last.Load()+w.idle()-now); ok && rank < best {
			victim, best = w, rank
		}
		if n++; n == evictScan {
			break
		}
	}
	s.mu.Unlock()
	if victim == nil {
		return false
	}
	t.remove(victim)
	return true
}

// yields reports whether w, with left seconds to live, may make room for a flow of link l, which has mine flows, and its rank: the lowest goes.
// A link takes from itself or from one that has as many, so that none can push out the rest, but first, and then established connections too,
// from one that has more than twice as many.
func (w *flow) yields(l *Link, mine, left int64) (rank int64, ok bool) {
	theirs := w.link.flows.Load()
	switch {
	case mine >= maxLinkFlows:
		return left, w.link == l && left < idleHalfClosed
	case theirs > 2*mine:
		return left, true
	}
	return left + idleEstablished, left < idleHalfClosed && (w.link == l || theirs >= mine)
}

// each calls fn for every flow, outside of the locks. buf is scratch.
func (t *flowTable) each(fn func(*flow)) {
	var buf []*flow
	for i := range t.shards {
		buf = t.shards[i].snapshot(buf[:0])
		for _, w := range buf {
			fn(w)
		}
	}
}

// snapshot returns the flows whose forward key is in the shard.
func (s *flowShard) snapshot(buf []*flow) []*flow {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, w := range s.flows {
		if w.fwd == k {
			buf = append(buf, w)
		}
	}
	return buf
}

// age moves the clock on and forgets the silent flows of one shard in sixteen.
func (t *flowTable) age(now int64) {
	t.clock.Store(now)
	var buf []*flow
	for i := int(now % 16); i < flowShards; i += 16 {
		buf = t.shards[i].snapshot(buf[:0])
		for _, w := range buf {
			if now-w.last.Load() > w.idle() {
				t.remove(w)
			}
		}
	}
	t.frags.age(now)
}
