package raft_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/meshswarm/meshswarm/raft"
	"github.com/meshswarm/meshswarm/raft/rafttest"
)

// term records the calls of Lead's function on one manager.
type term struct {
	mu      sync.Mutex
	terms   []uint64
	running int
	causes  []error
	fail    error
}

func (x *term) run(ctx context.Context, n uint64) error {
	x.mu.Lock()
	x.terms = append(x.terms, n)
	x.running++
	overlap := x.running > 1
	fail := x.fail
	x.mu.Unlock()
	if overlap {
		panic("two terms at once")
	}
	if fail == nil {
		<-ctx.Done()
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.running--
	x.causes = append(x.causes, context.Cause(ctx))
	return fail
}

func (x *term) count() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return len(x.terms)
}

func (x *term) wait(t *testing.T, n int) {
	t.Helper()
	rafttest.Eventually(t, "a term", func() error {
		if got := x.count(); got < n {
			return fmt.Errorf("%d terms so far", got)
		}
		return nil
	})
}

func lead(t *testing.T, m *rafttest.Manager, x *term) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Raft.Lead(ctx, x.run) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, raft.ErrStopped) {
			t.Errorf("Lead: %v", err)
		}
	})
}

func TestLead(t *testing.T) {
	t.Parallel()
	c := rafttest.NewCluster(t, 3, nil)
	c.Propose(create("n1"))
	terms := map[*rafttest.Manager]*term{}
	for _, m := range c.Managers {
		terms[m] = &term{}
		lead(t, m, terms[m])
	}
	old := c.Leader()
	terms[old].wait(t, 1)
	c.Net.Isolate(old.Addr)
	next := c.Leader()
	terms[next].wait(t, 1)
	if next.Store.View().Node("n1") == nil {
		t.Error("led before all was applied")
	}
	rafttest.Eventually(t, "the old term ends", func() error {
		x := terms[old]
		x.mu.Lock()
		defer x.mu.Unlock()
		if x.running != 0 {
			return errors.New("still running")
		}
		if !errors.Is(x.causes[0], raft.ErrLeadershipLost) {
			return fmt.Errorf("cause %w", x.causes[0])
		}
		return nil
	})
	c.Net.Rejoin(old.Addr)
}

func TestLeadErrorGivesLeadershipUp(t *testing.T) {
	t.Parallel()
	c := rafttest.NewCluster(t, 3, nil)
	old := c.Leader()
	bad := &term{fail: errors.New("loop broke")}
	lead(t, old, bad)
	rafttest.Eventually(t, "another leader", func() error {
		if c.Leader() == old {
			return errors.New("same leader")
		}
		return nil
	})
	if bad.count() == 0 {
		t.Error("was never called")
	}
}

func TestLeadErrorWithoutOthersRunsAgain(t *testing.T) {
	t.Parallel()
	c := rafttest.NewCluster(t, 1, nil)
	bad := &term{fail: errors.New("loop broke")}
	lead(t, c.Leader(), bad)
	bad.wait(t, 2)
}

func TestServes(t *testing.T) {
	t.Parallel()
	c := rafttest.NewCluster(t, 3, nil)
	old := c.Leader() // it was asked to Verify
	x := &term{}
	lead(t, old, x)
	x.wait(t, 1)
	if !old.Raft.Serves() {
		t.Error("a leader that has caught up does not serve")
	}
	c.Net.Isolate(old.Addr)
	rafttest.Eventually(t, "the end of the term", func() error {
		if old.Raft.Serves() {
			return errors.New("still serves")
		}
		return nil
	})
	c.Net.Rejoin(old.Addr)
}
