package dispatch

import (
	"math"
	"slices"
	"sync"
)

// horizon works out up to which index of the store every node that is ready has its assignments in force, and tells the
// sessions that asked for it.
//
// A node has everything up to the store's index while nothing that concerns it is on its way. When something is, it has
// what it said last. A node without a session holds the horizon where it was when the session ended, until it has taken
// in its assignments in a new one, or is down.
type horizon struct {
	mu    sync.Mutex
	index uint64 // of the store, as far as it was looked at
	nodes map[string]*standing
	// behind are the ready nodes that may not have everything, with what they have.
	behind *queue[string]
	// asks are the sessions that wait, with the lowest index they wait for.
	asks *queue[*session]
}

// standing is what is known of one node.
type standing struct {
	ready   bool     // it counts
	session *session // nil: none
	// due is the latest index whose changes concern the node; unsent before its session has sent anything.
	due uint64
	// seen is the index up to which its session has looked; what there was to tell is in the deltas up to sent.
	seen, sent uint64
	// applied is what it has in force at least.
	applied uint64
}

// unsent is an index that no delta has: the session owes the node its full assignments.
const unsent = math.MaxUint64

func newHorizon() *horizon {
	return &horizon{nodes: map[string]*standing{}, behind: newQueue[string](), asks: newQueue[*session]()}
}

// has is the index up to which the node has everything, at least.
func (st *standing) has() uint64 {
	if st.applied >= st.sent {
		return st.seen
	}
	return st.applied
}

// current tells whether nothing that concerns the node is on its way: it has the store, also as it grows.
func (st *standing) current() bool { return st.session != nil && st.has() >= st.due }

// owe notes that changes up to index concern the node.
func (st *standing) owe(index uint64) {
	if st.sent != unsent {
		st.due = index
	}
}

// of finds or makes a node's standing. It needs mu.
func (h *horizon) of(node string) *standing {
	st := h.nodes[node]
	if st == nil {
		st = &standing{sent: unsent, due: unsent}
		h.nodes[node] = st
	}
	return st
}

// settle takes note of a change of one node. It needs mu.
func (h *horizon) settle(node string, st *standing) {
	if !st.ready || st.current() {
		h.behind.drop(node)
	} else {
		h.behind.set(node, st.has())
	}
	if !st.ready && st.session == nil {
		delete(h.nodes, node)
	}
}

// tell answers the sessions whose index is reached. It needs mu.
func (h *horizon) tell() {
	known := h.known()
	for {
		s, index, ok := h.asks.first()
		if !ok || index > known {
			return
		}
		i, _ := slices.BinarySearch(s.asks, known+1)
		s.asks = slices.Delete(s.asks, 0, i)
		if len(s.asks) == 0 {
			h.asks.drop(s)
		} else {
			h.asks.set(s, s.asks[0])
		}
		s.note(func() { s.known = known })
	}
}

// known is the horizon. It needs mu.
func (h *horizon) known() uint64 {
	if _, has, ok := h.behind.first(); ok {
		return min(has, h.index)
	}
	return h.index
}

// begin starts a term's count: these nodes are ready, and nothing is known of what they have.
func (h *horizon) begin(index uint64, ready []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.index = index
	counts := map[string]bool{}
	for _, id := range ready {
		counts[id] = true
		h.of(id)
	}
	for id, st := range h.nodes {
		st.ready = counts[id]
		st.owe(index)
		h.settle(id, st)
	}
	h.tell()
}

// setReady says whether a node counts.
func (h *horizon) setReady(node string, ready bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	st := h.nodes[node]
	if st == nil && !ready {
		return
	}
	st = h.of(node)
	st.ready = ready
	h.settle(node, st)
	h.tell()
}

// advance says that the store was looked at up to index, and which nodes its changes since the last time concern.
func (h *horizon) advance(index uint64, concerned []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, id := range concerned {
		st := h.nodes[id]
		if st == nil {
			continue
		}
		if st.current() {
			// What it has is the store as it was till now.
			st.seen = max(st.seen, h.index)
			st.applied = max(st.applied, min(st.sent, h.index))
		}
		st.owe(index)
	}
	h.index = index
	for _, id := range concerned {
		if st := h.nodes[id]; st != nil {
			h.settle(id, st)
		}
	}
	h.tell()
}

// enter says that a node has a new session: it has what it is about to be told, nothing else.
func (h *horizon) enter(s *session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	st := h.of(s.node)
	if st.session != nil {
		h.asks.drop(st.session)
	}
	st.session, st.seen, st.sent, st.applied, st.due = s, 0, unsent, 0, unsent
	h.settle(s.node, st)
}

// leave says that a session has ended. Its node keeps what it has.
func (h *horizon) leave(s *session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asks.drop(s)
	st := h.nodes[s.node]
	if st == nil || st.session != s {
		return
	}
	has := st.has()
	if st.current() {
		has = max(has, h.index)
	}
	st.session, st.applied, st.sent, st.seen, st.due = nil, has, unsent, 0, unsent
	h.settle(s.node, st)
}

// looked says that a session has looked at the store up to index; sends tells whether it is about to send a delta.
func (h *horizon) looked(s *session, index uint64, sends bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	st := h.nodes[s.node]
	if st == nil || st.session != s {
		return
	}
	if st.applied >= st.sent {
		st.applied = max(st.applied, st.seen)
	}
	if sends && st.sent == unsent {
		st.due = index
	}
	st.seen = index
	if sends {
		st.sent = index
	}
	h.settle(s.node, st)
	h.tell()
}

// applied says what a node has in force.
func (h *horizon) applied(s *session, index uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	st := h.nodes[s.node]
	if st == nil || st.session != s || st.sent == unsent {
		return
	}
	st.applied = min(max(st.applied, index), st.sent)
	h.settle(s.node, st)
	h.tell()
}

// maxAsks bounds what one session waits for. Beyond it the lower ones wait for a higher one.
const maxAsks = 256

// ask is answered through s.known when every node has the store up to each index.
func (h *horizon) ask(s *session, indexes []uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if st := h.nodes[s.node]; st == nil || st.session != s {
		return
	}
	s.asks = append(s.asks, indexes...)
	slices.Sort(s.asks)
	s.asks = slices.Compact(s.asks)
	s.asks = s.asks[max(0, len(s.asks)-maxAsks):]
	if len(s.asks) > 0 {
		h.asks.set(s, s.asks[0])
	}
	h.tell()
}
