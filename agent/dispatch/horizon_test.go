package dispatch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/docker/docker/api/types/swarm"
	"pgregory.net/rapid"
)

// What is stored now, every node must have in force before any of them is told so.
func TestKnown(t *testing.T) {
	f := newSwarm(t)
	m := f.startManager("m1").lead()
	n1, n2 := f.startNode("n1", m), f.startNode("n2", m)
	f.becomes("n1", swarm.NodeStateReady)
	f.becomes("n2", swarm.NodeStateReady)
	f.addNode("n3", swarm.NodeRoleWorker) // never seen: it sends nothing
	known := func(n *node, index uint64) chan error {
		done := make(chan error, 1)
		go func() { done <- n.client.Known(t.Context(), index) }()
		return done
	}
	if err := <-known(n1, f.store.Index()); err != nil {
		t.Fatal(err)
	}

	hold := make(chan struct{})
	n2.mu.Lock()
	n2.hold = hold
	n2.mu.Unlock()
	f.addNode("n4", swarm.NodeRoleWorker) // something that all are told
	index := f.store.Index()
	eventually(t, "n2 is told", func() bool { n2.mu.Lock(); defer n2.mu.Unlock(); return len(n2.last.Nodes) == 4 })
	eventually(t, "n1 is told", func() bool { n1.mu.Lock(); defer n1.mu.Unlock(); return len(n1.last.Nodes) == 4 })
	waits := known(n1, index)
	eventually(t, "n1 asks", func() bool {
		h := m.dispatcher.term.horizon
		h.mu.Lock()
		defer h.mu.Unlock()
		_, at, ok := h.asks.first()
		return ok && at == index
	})
	if err := <-known(n1, index-1); err != nil {
		t.Errorf("what was before is known: %v", err)
	}
	select {
	case err := <-waits:
		t.Errorf("known before n2 has it in force: %v", err)
	default:
	}
	short, cancel := context.WithCancelCause(t.Context())
	why := errors.New("long enough")
	cancel(why)
	if err := n1.client.Known(short, index); !errors.Is(err, why) {
		t.Errorf("a context that ended: %v", err)
	}
	close(hold)
	if err := <-waits; err != nil {
		t.Error(err)
	}

	// A node without a session holds everybody back until it is down.
	n2.stop()
	eventually(t, "one session", func() bool { return m.dispatcher.sessionCount() == 1 })
	f.addNode("n5", swarm.NodeRoleWorker)
	if s := f.nodeState("n2"); s != swarm.NodeStateReady {
		t.Fatalf("n2 is %s at once", s)
	}
	if err := <-known(n1, f.store.Index()); err != nil {
		t.Error(err)
	}
	if s := f.nodeState("n2"); s != swarm.NodeStateDown {
		t.Errorf("known while n2 is %s", s)
	}

	// The next leader knows nothing until the nodes have told it.
	m.stopTerm()
	waits = known(n1, f.store.Index()+1)
	m.lead()
	f.addNode("n6", swarm.NodeRoleWorker)
	if err := <-waits; err != nil {
		t.Error(err)
	}
}

// TestHorizon: whatever sessions and nodes do, the horizon is never beyond what a ready node has, and reaches the store
// when everything is in force.
func TestHorizon(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		h := newHorizon()
		w := &horizonWorld{h: h, index: 1, nodes: map[string]*modelNode{}}
		for _, id := range []string{"a", "b", "c"} {
			w.nodes[id] = &modelNode{id: id}
		}
		h.begin(1, nil)
		for range rapid.IntRange(1, 60).Draw(r, "steps") {
			w.step(r)
			for id, n := range w.nodes {
				if known := h.known(); n.ready && known > n.has(w.index) {
					r.Fatalf("horizon %d, but %s has %d of %d", known, id, n.has(w.index), w.index)
				}
			}
		}
		for _, n := range w.nodes {
			w.setReady(n, true)
			w.open(n)
			w.look(n)
			w.apply(n)
		}
		if h.known() != w.index || len(h.behind.entries.list) != 0 {
			r.Fatalf("horizon %d of %d when all have everything", h.known(), w.index)
		}
		s := w.nodes["a"].session
		h.ask(s, []uint64{w.index + 2, w.index + 1})
		h.advance(w.index+1, nil)
		if s.known != w.index+1 || !slices.Equal(s.asks, []uint64{w.index + 2}) {
			r.Fatalf("told %d of %d, still asks %v", s.known, w.index+1, s.asks)
		}
	})
}

// modelNode is a node that keeps, for each index of the store, whether it was concerned.
type modelNode struct {
	id        string
	ready     bool
	session   *session
	concerned []uint64 // all indexes with news for it
	deltas    []uint64 // sent in this session, not applied
	full      bool     // the session has sent the full assignments
	applied   uint64
	everFull  bool // what is in force comes from a session of this count
}

// has is the highest index all of whose changes the node has in force.
func (n *modelNode) has(store uint64) uint64 {
	if !n.everFull {
		return 0
	}
	for _, c := range n.concerned {
		if c > n.applied {
			return c - 1
		}
	}
	return store
}

type horizonWorld struct {
	h     *horizon
	index uint64
	nodes map[string]*modelNode
}

func (w *horizonWorld) step(r *rapid.T) {
	n := w.nodes[rapid.SampledFrom([]string{"a", "b", "c"}).Draw(r, "node")]
	switch rapid.SampledFrom([]string{"commit", "ready", "down", "open", "close", "look", "apply"}).Draw(r, "what") {
	case "commit":
		w.index++
		var concerned []string
		for _, id := range []string{"a", "b", "c"} {
			if rapid.Bool().Draw(r, fmt.Sprint("concerns ", id)) {
				concerned = append(concerned, id)
				w.nodes[id].concerned = append(w.nodes[id].concerned, w.index)
			}
		}
		// The session may be faster than the count.
		if rapid.Bool().Draw(r, "early look") {
			w.look(n)
		}
		w.h.advance(w.index, concerned)
	case "ready":
		w.setReady(n, true)
	case "down":
		w.setReady(n, false)
	case "open":
		w.open(n)
	case "close":
		if n.session != nil {
			w.h.leave(n.session)
			n.session = nil
		}
	case "look":
		w.look(n)
	case "apply":
		w.apply(n)
	}
}

func (w *horizonWorld) setReady(n *modelNode, ready bool) {
	if ready && n.session == nil {
		return // a node becomes ready by its session
	}
	n.ready = ready
	w.h.setReady(n.id, ready)
}

func (w *horizonWorld) open(n *modelNode) {
	n.session = &session{node: n.id, wake: make(chan struct{}, 1)}
	n.deltas, n.full = nil, false
	w.h.enter(n.session)
}

func (w *horizonWorld) look(n *modelNode) {
	if n.session == nil {
		return
	}
	last := n.applied
	if len(n.deltas) > 0 {
		last = n.deltas[len(n.deltas)-1]
	}
	news := !n.full || slices.ContainsFunc(n.concerned, func(c uint64) bool { return c > last && c <= w.index })
	if news {
		n.deltas = append(n.deltas, w.index)
		n.full = true
	}
	w.h.looked(n.session, w.index, news)
}

func (w *horizonWorld) apply(n *modelNode) {
	if n.session == nil || len(n.deltas) == 0 {
		return
	}
	n.applied, n.everFull = n.deltas[len(n.deltas)-1], true
	n.deltas = nil
	w.h.applied(n.session, n.applied)
}

func TestAsksAreBounded(t *testing.T) {
	h := newHorizon()
	s := &session{node: "a", wake: make(chan struct{}, 1)}
	h.enter(s)
	h.setReady("a", true)
	for i := range uint64(3 * maxAsks) {
		h.ask(s, []uint64{i + 1, i + 1})
	}
	if len(s.asks) != maxAsks || s.asks[0] != 2*maxAsks+1 {
		t.Errorf("%d asks from %d", len(s.asks), s.asks[0])
	}
	h.leave(s)
	if _, _, ok := h.asks.first(); ok {
		t.Error("an ended session is still answered")
	}
	h.setReady("a", false)
	if len(h.nodes) != 0 {
		t.Errorf("%d nodes are remembered", len(h.nodes))
	}
}

// A node that says that it has what it was never sent does not move the horizon.
func TestKnownDoesNotTrustTooMuch(t *testing.T) {
	f := newSwarm(t)
	m := f.startManager("m1").lead()
	n := f.startNode("n1", m)
	f.becomes("n1", swarm.NodeStateReady)
	f.addNode("liar", swarm.NodeRoleWorker)
	r := m.raw("liar")
	f.becomes("liar", swarm.NodeStateReady)
	r.until("full", func(d downMessage) bool { return d.Delta != nil })
	r.send(upMessage{Applied: 1 << 60})
	eventually(t, "the claim is heard", func() bool {
		h := m.dispatcher.term.horizon
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.nodes["liar"].current()
	})
	f.addNode("n2", swarm.NodeRoleWorker)
	index := f.store.Index()
	r.until("delta", func(d downMessage) bool { return d.Delta != nil && d.Delta.Index >= index })
	eventually(t, "n1 is told", func() bool { n.mu.Lock(); defer n.mu.Unlock(); return len(n.last.Nodes) == 3 })
	done := make(chan error, 1)
	go func() { done <- n.client.Known(t.Context(), index) }()
	for begin := time.Now(); time.Since(begin) < DefaultPeriod; { // less than the liar's silence takes
		if err := r.Send(nil); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-done:
			t.Fatalf("known although the other node has not said so: %v", err)
		case <-time.After(DefaultPeriod / 10):
		}
	}
	r.send(upMessage{Applied: index})
	if err := <-done; err != nil {
		t.Error(err)
	}
}
