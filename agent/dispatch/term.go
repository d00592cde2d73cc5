package dispatch

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"time"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/agent/rpc"
	"github.com/meshswarm/meshswarm/raft/state"
	"github.com/meshswarm/meshswarm/sched"
)

// term is what a Dispatcher knows during one leadership.
type term struct {
	*Dispatcher
	ctx      context.Context // the term's, for handlers that are called from outside
	handlers sync.WaitGroup  // running handlers; Add under mu while not closed
	inbox    *inbox

	mu       sync.Mutex
	closed   bool
	sessions map[string]*session // by node ID
	// deadlines are when a node that is ready or new becomes down.
	deadlines map[string]time.Time
	reverse   map[string]*reverse // asked for and not answered yet, by ID
	openings  map[string]int      // reverse streams asked for or open, by node ID
	arrivals  limiter
	horizon   *horizon
	// assigner knows what each node has to be told.
	assigner *sched.Assigner
	turns    chan struct{} // of sessions that work out what to tell
	fulls    chan struct{} // of sessions that send everything
}

func newTerm(d *Dispatcher) *term {
	return &term{
		Dispatcher: d, sessions: map[string]*session{}, deadlines: map[string]time.Time{},
		reverse: map[string]*reverse{}, openings: map[string]int{}, inbox: newInbox(), horizon: newHorizon(),
		arrivals: limiter{limit: 20, window: 10 * time.Second},
		assigner: sched.NewAssigner(), turns: make(chan struct{}, runtime.GOMAXPROCS(0)), fulls: make(chan struct{}, maxFulls),
	}
}

var (
	errTermOver = errors.New("leadership ended")
	errReplaced = errors.New("node opened a newer session")
	errSilent   = errors.New("heartbeat failure")
	errGone     = errors.New("node was removed")
)

// begin counts a handler in, which calls handlers.Done at its end.
func (t *term) begin() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return rpc.ErrUnavailable.With("%v", errTermOver)
	}
	t.handlers.Add(1)
	return nil
}

func (t *term) close() {
	t.mu.Lock()
	t.closed = true
	sessions := t.sessions
	t.sessions = map[string]*session{}
	t.mu.Unlock()
	for _, s := range sessions {
		s.cancel(errTermOver)
	}
}

// enter makes s the session of its node and ends an older one.
func (t *term) enter(s *session) error {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return errTermOver
	}
	old := t.sessions[s.node]
	t.sessions[s.node] = s
	t.deadlines[s.node] = t.cfg.Clock.Now().Add(t.cfg.Timeout)
	t.horizon.enter(s)
	s.assignments = t.assigner.Subscribe(s.node)
	t.mu.Unlock()
	if old != nil {
		t.log.Debug("session replaced", "node", s.node, "addr", s.addr)
		old.cancel(errReplaced)
	}
	return nil
}

// leave forgets s. The node keeps its deadline: it may come back.
func (t *term) leave(s *session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sessions[s.node] == s {
		delete(t.sessions, s.node)
	}
	t.horizon.leave(s)
	if s.assignments != nil {
		s.assignments.Close()
	}
}

func (t *term) session(node string) *session {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sessions[node]
}

// alive moves the deadline of a node that was heard of in session s.
func (t *term) alive(s *session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sessions[s.node] == s {
		t.deadlines[s.node] = t.cfg.Clock.Now().Add(t.cfg.Timeout)
	}
}

// observe follows the store: it keeps the deadlines in step with the nodes that are there, and wakes the sessions that have
// something to tell.
func (t *term) observe(ctx context.Context) error {
	return t.cfg.Store.Follow(ctx, func(view state.View) {
		var ready []string
		for _, n := range view.Nodes() {
			t.expect(n, gracePeriods*t.cfg.Period)
			if NodeReady(n) {
				ready = append(ready, n.ID)
			}
		}
		t.assigner.Start(view)
		t.horizon.begin(view.Index(), ready)
		t.mu.Lock()
		defer t.mu.Unlock()
		for _, s := range t.sessions {
			s.poke()
		}
	}, func(commits []state.Commit) {
		for _, c := range commits {
			for _, change := range c.Changes {
				t.noteNode(change)
			}
		}
		concerned := t.assigner.Apply(commits)
		t.horizon.advance(t.assigner.Index(), concerned)
		t.poke(concerned...)
	})
}

// noteNode takes note of a change of a node.
func (t *term) noteNode(c state.Change) {
	if n, ok := c.New.(*state.Node); ok {
		grace := gracePeriods * t.cfg.Period
		if c.Old == nil {
			grace = joinGrace
		}
		t.expect(n, grace)
		t.horizon.setReady(n.ID, NodeReady(n))
		t.poke(n.ID) // its session holds it against what the node says of itself
		return
	}
	n, ok := c.Old.(*state.Node)
	if !ok || c.New != nil {
		return
	}
	t.horizon.setReady(n.ID, false)
	t.mu.Lock()
	delete(t.deadlines, n.ID)
	s := t.sessions[n.ID]
	t.mu.Unlock()
	if s != nil {
		s.cancel(errGone)
	}
}

// expect gives a node that should be alive and has no deadline yet one after grace.
func (t *term) expect(n *state.Node, grace time.Duration) {
	if n.Status.State == swarm.NodeStateDown {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.deadlines[n.ID]; !ok {
		t.deadlines[n.ID] = t.cfg.Clock.Now().Add(grace)
	}
}

// poke tells the sessions of these nodes that something has changed.
func (t *term) poke(nodes ...string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, id := range nodes {
		if s := t.sessions[id]; s != nil {
			s.poke()
		}
	}
}
