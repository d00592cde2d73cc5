package sched

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/rafttest"
	"github.com/meshswarm/meshswarm/raft/state"
	"github.com/meshswarm/meshswarm/sched/schedtest"
)

// world is a swarm without machines: a store, a mind that thinks when told, and workers that do what they are told.
type world struct {
	t     testing.TB
	store *state.Store
	clock *schedtest.Clock
	mind  *mind
	ids   int

	ctx     context.Context
	commits chan []state.Commit
	stop    func()

	// interfere, if set, runs before each batch of the leader: somebody else is faster.
	interfere func()

	mu   sync.Mutex
	prop *rafttest.Proposer
	last uint64 // the last accepted index
}

var epoch = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

func newWorld(t testing.TB) *world {
	w := &world{t: t, store: state.New(), clock: schedtest.NewClock(epoch)}
	w.prop = rafttest.NewProposer(w.store)
	w.apply(state.Op{Action: state.Create, Object: &state.Cluster{
		ID: "swarm", DefaultAddrPool: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, SubnetSize: 24,
		MeshSubnet: netip.MustParsePrefix("100.127.0.0/16"),
	}})
	w.lead()
	return w
}

// lead begins a new term.
func (w *world) lead() {
	if w.stop != nil {
		w.stop()
	}
	leader, err := New(Config{Store: w.store, Proposer: w, Clock: w.clock, NewID: w.newID, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	view, watch := w.store.ViewAndWatch()
	w.ctx, w.commits = ctx, make(chan []state.Commit)
	w.mind = newMind(leader.cfg, leader.met, view)
	var reader sync.WaitGroup
	commits := w.commits
	reader.Go(func() {
		for {
			c, err := watch.Next(ctx)
			if err != nil {
				return
			}
			select {
			case commits <- c:
			case <-ctx.Done():
				return
			}
		}
	})
	w.stop = func() { cancel(); watch.Close(); reader.Wait() }
}

func (w *world) close() { w.stop() }

func (w *world) newID() string {
	w.ids++
	return fmt.Sprintf("t%02d", w.ids)
}

// Propose is the mind's way to the store.
func (w *world) Propose(ctx context.Context, b state.Batch) (uint64, error) {
	if len(b.Ops) > maxOps {
		return 0, fmt.Errorf("batch of %d changes", len(b.Ops))
	}
	if w.interfere != nil {
		w.interfere()
	}
	return w.propose(ctx, b)
}

func (w *world) propose(ctx context.Context, b state.Batch) (uint64, error) {
	index, err := w.prop.Propose(ctx, b)
	if err == nil {
		w.mu.Lock()
		w.last = max(w.last, index)
		w.mu.Unlock()
	}
	return index, err
}

func (w *world) seen() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last
}

// apply changes the store as somebody else would.
func (w *world) apply(ops ...state.Op) {
	w.t.Helper()
	if err := w.try(ops...); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) try(ops ...state.Op) error {
	_, err := w.propose(context.Background(), state.Batch{Ops: ops, Time: w.clock.Now()})
	return err
}

// settle thinks until there is nothing more to do now.
func (w *world) settle() {
	w.t.Helper()
	for range 1000 {
		if err := w.mind.echo(w.ctx, w.seen(), w.commits); err != nil {
			w.t.Fatal(err)
		}
		before := w.seen()
		if err := w.mind.pass(w.ctx, w.commits); err != nil {
			w.t.Fatal(err)
		}
		if w.seen() == before && w.mind.refusals == 0 {
			return
		}
	}
	w.t.Fatal("the leader does not come to rest")
}

// advance moves the clock from one thing that is due to the next.
func (w *world) advance(d time.Duration) {
	w.t.Helper()
	for end := w.clock.Now().Add(d); ; {
		at, ok := w.mind.board.nextWake()
		if !ok || at.After(end) {
			w.clock.Advance(end.Sub(w.clock.Now()))
			w.settle()
			return
		}
		w.clock.Advance(max(at.Sub(w.clock.Now()), 0))
		w.settle()
	}
}

// report changes a task's status as its node would; false if that would be a step back.
func (w *world) report(id string, s swarm.TaskState, message string) bool {
	w.t.Helper()
	t := w.store.View().Task(id)
	if t == nil || state.Terminal(t.Status.State) || state.Rank(t.Status.State) >= state.Rank(s) {
		return false
	}
	c := t.Clone()
	c.Status = swarm.TaskStatus{Timestamp: w.clock.Now(), State: s, Message: message}
	if s == swarm.TaskStateFailed || s == swarm.TaskStateRejected {
		c.Status.Message, c.Status.Err = string(s), message
	}
	c.AppliedAt = w.clock.Now()
	if s == swarm.TaskStateRunning && c.RunningAt.IsZero() {
		c.RunningAt = w.clock.Now()
	}
	err := w.try(state.Op{Action: state.Update, Object: c, Expected: t.Modified})
	if errors.Is(err, state.ErrSequence) {
		return w.report(id, s, message)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return true
}

// work has the nodes do all that they are told, step by step, until nothing changes any more.
func (w *world) work() {
	w.t.Helper()
	for w.settle(); ; w.settle() {
		did := false
		for _, t := range w.store.View().Tasks() {
			n := w.store.View().Node(t.NodeID)
			if n == nil || down(n) || state.Rank(t.Status.State) < state.Rank(swarm.TaskStateAssigned) || state.Terminal(t.Status.State) {
				continue
			}
			switch desired := state.Rank(t.DesiredState); {
			case desired >= state.Rank(swarm.TaskStateShutdown):
				did = w.report(t.ID, swarm.TaskStateShutdown, "shutdown") || did
			case desired == state.Rank(swarm.TaskStateReady):
				did = w.report(t.ID, swarm.TaskStateReady, "prepared") || did
			default:
				did = w.report(t.ID, swarm.TaskStateRunning, "started") || did
			}
		}
		if !did {
			return
		}
	}
}

// task finds the task that stands for a slot.
func (w *world) task(service string, slot int) *state.Task {
	w.t.Helper()
	return w.taskAt(service, placeName(state.Place{Slot: slot}))
}

// taskAt finds the task that stands for a place: a slot or a node.
func (w *world) taskAt(service, place string) *state.Task {
	w.t.Helper()
	v := w.store.View()
	s := v.ServiceByName(service)
	if s == nil {
		w.t.Fatalf("no service %s", service)
	}
	for _, t := range v.TasksByService(s.ID) {
		if live(t) && placeName(t.Place()) == place {
			return t
		}
	}
	w.t.Fatalf("nothing runs at %s of %s", place, service)
	return nil
}
