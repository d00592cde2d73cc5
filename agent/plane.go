package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"sync"
	"time"

	"github.com/meshswarm/meshswarm/mesh"
	"github.com/meshswarm/meshswarm/netstack"
	"github.com/meshswarm/meshswarm/raft/state"
)

// plane holds what the leader assigned last, and makes it true: tables of the data plane first, then peers, then tasks,
// so that a task never starts before its packets have a way.
type plane struct {
	self   string
	tables func(*netstack.Tables)
	peers  func([]mesh.Peer) error
	tasks  func(map[string]state.AssignedTask)
	save   func(state.Assignments) error
	// common waits until all nodes have the store up to an index in force (dispatch.Client.Known).
	common func(ctx context.Context, index uint64) error
	log    *slog.Logger

	dirty chan struct{} // capacity 1: there is something to save

	// applying makes changes one after another: the newest assignments must also be the last that are applied.
	applying sync.Mutex

	mu      sync.Mutex
	current state.Assignments
	synced  chan struct{} // closed with the first assignments of a session
	isFresh bool
}

func newPlane(self string, log *slog.Logger) *plane {
	return &plane{self: self, log: log, dirty: make(chan struct{}, 1), synced: make(chan struct{})}
}

// restore applies what was on disk: the data plane works before a manager is found. The tasks go on as they were.
func (p *plane) restore(a state.Assignments) {
	if len(a.Nodes) == 0 {
		return
	}
	p.apply(a, func() {})
}

// assign takes new assignments from a session, and calls inForce when packets go by them. Which tasks there are is on disk
// before the worker hears of it: after a crash the assignments on disk know every container that this node has made, and
// nothing is taken for a leftover.
func (p *plane) assign(a state.Assignments, inForce func()) {
	had := p.get().Tasks
	p.apply(a, func() {
		inForce()
		if sameTasks(had, a.Tasks) {
			return
		}
		if err := p.save(a); err != nil {
			p.log.Warn("keep the assignments on disk", "err", err)
		}
	})
	p.mu.Lock()
	first := !p.isFresh
	p.isFresh = true
	p.mu.Unlock()
	if first {
		close(p.synced)
	}
	select {
	case p.dirty <- struct{}{}:
	default:
	}
}

// apply makes a true; between is called after the packets' part, before the tasks'.
func (p *plane) apply(a state.Assignments, between func()) {
	p.applying.Lock()
	defer p.applying.Unlock()
	p.mu.Lock()
	p.current = a
	p.mu.Unlock()
	v := view{Assignments: a, self: p.self, meshSubnet: meshSubnet}
	p.tables(v.tables())
	peers, err := v.peers()
	if err == nil {
		err = p.peers(peers)
	}
	if err != nil {
		p.log.Error("set the mesh's peers", "err", err)
	}
	between()
	p.tasks(a.Tasks)
}

// known blocks until every node of the swarm that is not down has its tables by the store as it was at index, or by a newer
// one, or until ctx ends; then it returns ctx's cause. While the leader is away nobody knows, and it waits.
func (p *plane) known(ctx context.Context, index uint64) error { return p.common(ctx, index) }

// clear forgets all assignments, also those on disk: the node is no member any more.
func (p *plane) clear(path string) error {
	p.apply(state.Assignments{}, func() {})
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget the assignments: %w", err)
	}
	return nil
}

func sameTasks(a, b map[string]state.AssignedTask) bool {
	if len(a) != len(b) {
		return false
	}
	for id := range a {
		if _, ok := b[id]; !ok {
			return false
		}
	}
	return true
}

// get returns the assignments; they are shared and must not be changed.
func (p *plane) get() state.Assignments {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.current
}

// network looks an assigned network up, for sandboxes.
func (p *plane) network(id string) (state.AssignedNetwork, bool) {
	n, ok := p.get().Networks[id]
	return n, ok
}

// managers are the control addresses that the assignments tell.
func (p *plane) managers() []string {
	var out []string
	for n := range maps.Values(p.get().Nodes) {
		if n.ControlAddr != "" {
			out = append(out, n.ControlAddr)
		}
	}
	return out
}

// saveEvery is the shortest time between two writes of the assignments.
const saveEvery = time.Second

// run keeps the newest assignments on disk.
func (p *plane) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return p.saveNow()
		case <-p.dirty:
		}
		if err := p.saveNow(); err != nil {
			p.log.Warn("keep the assignments on disk", "err", err)
		}
		select {
		case <-ctx.Done():
			return p.saveNow()
		case <-time.After(saveEvery):
		}
	}
}

func (p *plane) saveNow() error {
	a := p.get()
	if len(a.Nodes) == 0 {
		return nil
	}
	return p.save(a)
}
