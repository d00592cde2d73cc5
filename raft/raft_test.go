package raft_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/meshswarm/meshswarm/raft"
	"github.com/meshswarm/meshswarm/raft/rafttest"
	"github.com/meshswarm/meshswarm/raft/state"
)

func create(id string) state.Batch {
	n := &state.Node{ID: id}
	n.Spec.Labels = map[string]string{"canary": "canary-" + id}
	return state.Batch{Time: time.Unix(1700000000, 0), Ops: []state.Op{{Action: state.Create, Object: n}}}
}

// sees waits until a manager's store has a node.
func sees(t *testing.T, m *rafttest.Manager, id string) {
	t.Helper()
	rafttest.Eventually(t, m.ID+" sees "+id, func() error {
		if m.Store.View().Node(id) == nil {
			return fmt.Errorf("not there at index %d", m.Store.Index())
		}
		return nil
	})
}

// leaderless tells that a call failed because the leadership moved, which on a busy machine it may at any time.
func leaderless(err error) bool {
	return errors.Is(err, raft.ErrNotLeader) || errors.Is(err, raft.ErrLeadershipLost)
}

// onLeader runs a call on whoever leads, again when the leadership moves meanwhile.
func onLeader(c *rafttest.Cluster, what string, call func(*raft.Raft) error) (last error) {
	c.Eventually(what, func() error {
		if last = call(c.Leader().Raft); leaderless(last) {
			return last
		}
		return nil
	})
	return last
}

func snapshotOf(t *testing.T, s *state.Store) string {
	t.Helper()
	var buf bytes.Buffer
	if err := s.View().Snapshot(&buf); err != nil {
		t.Fatal(err)
	}
	return buf.String()
}

func TestNewChecksConfig(t *testing.T) {
	t.Parallel()
	net := rafttest.NewNetwork()
	good := func() raft.Config {
		return raft.Config{NodeID: "a", Addr: "10.0.0.1:2377", Dir: "x", Store: state.New(), Stream: net.Listen("a"), Sealer: rafttest.NewSealer()}
	}
	if _, err := raft.New(good()); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*raft.Config){
		"no id":      func(c *raft.Config) { c.NodeID = "" },
		"no dir":     func(c *raft.Config) { c.Dir = "" },
		"no store":   func(c *raft.Config) { c.Store = nil },
		"no stream":  func(c *raft.Config) { c.Stream = nil },
		"no sealer":  func(c *raft.Config) { c.Sealer = nil },
		"no port":    func(c *raft.Config) { c.Addr = "10.0.0.1" },
		"used store": func(c *raft.Config) { _ = c.Store.Apply(1, create("n")) },
	} {
		c := good()
		spoil(&c)
		if _, err := raft.New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestBeforeRun(t *testing.T) {
	t.Parallel()
	r, err := raft.New(raft.Config{NodeID: "a", Addr: "a:1", Dir: t.TempDir(), Store: state.New(), Stream: rafttest.NewNetwork().Listen("a:1"), Sealer: rafttest.NewSealer()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Propose(t.Context(), create("n")); !errors.Is(err, raft.ErrStopped) {
		t.Errorf("propose: %v", err)
	}
	if id, _ := r.Leader(); id != "" || r.IsLeader() || r.Members() != nil {
		t.Error("knows something")
	}
	if err := r.Verify(t.Context()); !errors.Is(err, raft.ErrStopped) {
		t.Errorf("verify: %v", err)
	}
}

func TestSingleManager(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	c := rafttest.NewCluster(t, 1, func(cfg *raft.Config) { cfg.Registry = reg })
	m := c.Leader()
	index, err := m.Raft.Propose(t.Context(), create("n1"))
	if err != nil || m.Store.Index() != index || m.Store.View().Node("n1") == nil {
		t.Fatalf("propose: %d, %v", index, err)
	}
	if _, err := m.Raft.Propose(t.Context(), create("n1")); !errors.Is(err, state.ErrExists) {
		t.Errorf("second create: %v", err)
	}
	big := create("n2")
	big.Ops[0].Object.(*state.Node).Spec.Labels["x"] = strings.Repeat("x", state.MaxBatch)
	if _, err := m.Raft.Propose(t.Context(), big); !errors.Is(err, raft.ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
	if err := m.Raft.RemoveManager(t.Context(), m.ID); !errors.Is(err, raft.ErrLastManager) {
		t.Errorf("remove: %v", err)
	}
	if err := m.Raft.TransferLeadership(t.Context()); err == nil {
		t.Error("leadership transferred to nobody")
	}
	if id, addr := m.Raft.Leader(); id != m.ID || addr != m.Addr {
		t.Errorf("leader %q at %q", id, addr)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.Raft.Propose(ctx, create("n3")); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if families, err := reg.Gather(); err != nil || len(families) == 0 {
		t.Errorf("metrics: %v, %v", families, err)
	}
	if err := c.Kill(0); err != nil {
		t.Errorf("Run: %v", err)
	}
	if _, err := m.Raft.Propose(t.Context(), create("n4")); !errors.Is(err, raft.ErrStopped) {
		t.Errorf("after the end: %v", err)
	}
	if families, _ := reg.Gather(); len(families) != 0 {
		t.Error("metrics outlive Run")
	}
}

func TestRestartFromDisk(t *testing.T) {
	t.Parallel()
	c := rafttest.NewCluster(t, 1, nil)
	m := c.Managers[0]
	if !raft.Exists(m.Dir) {
		t.Error("running state does not exist")
	}
	for i := range 20 {
		c.Propose(create(fmt.Sprintf("n%d", i)))
		if i == 10 {
			if err := m.Raft.Snapshot(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	before := snapshotOf(t, m.Store)
	if err := c.Kill(0); err != nil {
		t.Fatal(err)
	}
	if !raft.Exists(m.Dir) || raft.Exists(t.TempDir()) {
		t.Error("Exists is wrong")
	}
	c.Start(0)
	c.Leader()
	if after := snapshotOf(t, m.Store); after != before {
		t.Errorf("after restart:\n%s\nbefore:\n%s", after, before)
	}
}

func TestRestartWithOtherAddress(t *testing.T) {
	t.Parallel()
	c := rafttest.NewCluster(t, 1, nil)
	m := c.Managers[0]
	c.Leader()
	_ = c.Kill(0)
	m.Addr = "10.99.1.1:2377"
	c.Start(0)
	rafttest.Eventually(t, "address corrected", func() error {
		if got := m.Raft.Members(); len(got) != 1 || got[0].Addr != m.Addr {
			return fmt.Errorf("members %v", got)
		}
		return nil
	})
}

func TestDirectoryInUse(t *testing.T) {
	t.Parallel()
	c := rafttest.NewCluster(t, 1, nil)
	m := c.Managers[0]
	r, err := raft.New(raft.Config{NodeID: "b", Addr: "b:1", Dir: m.Dir, Store: state.New(), Stream: c.Net.Listen("b:1"), Sealer: m.Sealer})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("Run: %v", err)
	}
}

func TestWrongKey(t *testing.T) {
	t.Parallel()
	c := rafttest.NewCluster(t, 1, nil)
	m := c.Managers[0]
	c.Propose(create("n1"))
	_ = c.Kill(0)
	r, err := raft.New(raft.Config{NodeID: m.ID, Addr: m.Addr, Dir: m.Dir, Store: state.New(), Stream: c.Net.Listen(m.Addr), Sealer: rafttest.NewSealer()})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "read log entry") {
		t.Errorf("Run: %v", err)
	}
}

func TestNothingInClear(t *testing.T) {
	t.Parallel()
	c := rafttest.NewCluster(t, 1, nil)
	m := c.Managers[0]
	c.Propose(create("n1"))
	if err := m.Raft.Snapshot(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.Propose(create("n2"))
	_ = c.Kill(0)
	files := 0
	err := filepath.WalkDir(m.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		files++
		data, err := os.ReadFile(path)
		if bytes.Contains(data, []byte("canary")) {
			t.Errorf("%s has content in clear", path)
		}
		return err
	})
	if err != nil || files < 3 {
		t.Fatalf("%d files, %v", files, err)
	}
}

func TestLeaderKilled(t *testing.T) {
	t.Parallel()
	c := rafttest.NewCluster(t, 3, nil)
	c.Propose(create("n1"))
	old := c.Leader()
	var follower *rafttest.Manager
	for _, m := range c.Managers {
		sees(t, m, "n1")
		if m != old {
			follower = m
		}
	}
	if _, err := follower.Raft.Propose(t.Context(), create("x")); !errors.Is(err, raft.ErrNotLeader) {
		t.Errorf("propose to a follower: %v", err)
	}
	if err := c.Kill(c.Index(old)); err != nil {
		t.Fatal(err)
	}
	c.Propose(create("n2"))
	if now := c.Leader(); now == old {
		t.Fatal("a dead leader leads")
	}
	c.Start(c.Index(old))
	sees(t, old, "n2")
	c.Propose(create("n3"))
	for _, m := range c.Managers {
		sees(t, m, "n3")
	}
	if a, b := snapshotOf(t, c.Managers[0].Store), snapshotOf(t, c.Managers[2].Store); a != b {
		t.Errorf("stores differ:\n%s\n%s", a, b)
	}
}

func TestMajorityLost(t *testing.T) {
	t.Parallel()
	c := rafttest.NewCluster(t, 3, nil)
	leader := c.Leader()
	for i, m := range c.Managers {
		if m != leader {
			_ = c.Kill(i)
		}
	}
	rafttest.Eventually(t, "no leader", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := leader.Raft.Propose(ctx, create("x"))
		if !errors.Is(err, raft.ErrNoLeader) {
			return fmt.Errorf("propose: %w", err)
		}
		return nil
	})
}

func TestPartition(t *testing.T) {
	t.Parallel()
	c := rafttest.NewCluster(t, 3, nil)
	c.Propose(create("n1"))
	old := c.Leader()
	c.Net.Isolate(old.Addr)
	rafttest.Eventually(t, "the isolated leader steps down", func() error {
		if old.Raft.IsLeader() {
			return errors.New("still leads")
		}
		return nil
	})
	if err := old.Raft.Verify(t.Context()); !errors.Is(err, raft.ErrNotLeader) {
		t.Errorf("verify in the minority: %v", err)
	}
	c.Propose(create("n2"))
	if old.Store.View().Node("n2") != nil {
		t.Error("the minority saw a write")
	}
	c.Net.Rejoin(old.Addr)
	sees(t, old, "n2")
	c.Propose(create("n3"))
	for _, m := range c.Managers {
		sees(t, m, "n3")
	}
}

func TestCatchUpBySnapshot(t *testing.T) {
	t.Parallel()
	c := rafttest.NewCluster(t, 3, func(cfg *raft.Config) { cfg.SnapshotThreshold = 8 })
	behind := -1
	for i, m := range c.Managers {
		if m != c.Leader() {
			behind = i
		}
	}
	_ = c.Kill(behind)
	for i := range 100 {
		b := create(fmt.Sprintf("n%d", i))
		b.Ops[0].Object.(*state.Node).Description.Hostname = strings.Repeat("h", 4000)
		c.Propose(b)
	}
	for i, m := range c.Managers {
		if i != behind {
			if err := m.Raft.Snapshot(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	m := c.Managers[behind]
	c.Start(behind)
	sees(t, m, "n0")
	sees(t, m, "n99")
	if snaps, _ := filepath.Glob(filepath.Join(m.Dir, "snapshots", "*", "state.bin")); len(snaps) == 0 {
		t.Error("caught up without a snapshot")
	}
	want := snapshotOf(t, c.Leader().Store)
	if got := snapshotOf(t, m.Store); got != want {
		t.Error("another store than the leader's")
	}
	_ = c.Kill(behind)
	c.Start(behind)
	sees(t, m, "n99")
}

func TestMembers(t *testing.T) {
	t.Parallel()
	c := rafttest.NewCluster(t, 3, nil)
	if n := len(c.Leader().Raft.Members()); n != 3 {
		t.Fatalf("%d members", n)
	}
	add := func(id, addr string, limit time.Duration) func(*raft.Raft) error {
		return func(r *raft.Raft) error {
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			return r.AddManager(ctx, id, addr)
		}
	}
	if err := onLeader(c, "same address", add("other", c.Managers[1].Addr, time.Minute)); err == nil {
		t.Error("two managers at one address")
	}
	if err := onLeader(c, "ghost", add("ghost", "10.99.0.99:2377", time.Second)); err == nil {
		t.Error("a manager that does not answer was added")
	}
	if n := len(c.Leader().Raft.Members()); n != 3 {
		t.Errorf("%d members after a failed add", n)
	}
	leader := c.Leader()
	var out *rafttest.Manager
	for _, m := range c.Managers {
		if m != leader {
			out = m
		}
	}
	remove := func(id string) func(*raft.Raft) error {
		return func(r *raft.Raft) error { return r.RemoveManager(t.Context(), id) }
	}
	for range 2 { // the second time there is nothing to remove
		if err := onLeader(c, "remove", remove(out.ID)); err != nil {
			t.Fatal(err)
		}
	}
	if err := onLeader(c, "remove the leader", remove(leader.ID)); err != nil {
		t.Fatalf("remove the leader: %v", err)
	}
	if now := c.Leader(); now == leader || now == out {
		t.Errorf("%s leads", now.ID)
	}
}

func TestTransferLeadership(t *testing.T) {
	t.Parallel()
	c := rafttest.NewCluster(t, 3, nil)
	c.Eventually("transfer", func() error {
		old := c.Leader()
		if err := old.Raft.TransferLeadership(t.Context()); err != nil {
			return err
		}
		if c.Leader() == old {
			return errors.New("same leader")
		}
		return nil
	})
}

func TestConcurrentProposals(t *testing.T) {
	t.Parallel()
	c := rafttest.NewCluster(t, 3, nil)
	m := c.Leader()
	const callers, each = 50, 10
	var wg sync.WaitGroup
	began := time.Now()
	for i := range callers {
		wg.Go(func() {
			for j := range each {
				b := create(fmt.Sprintf("n%d-%d", i, j))
				_, err := m.Raft.Propose(t.Context(), b)
				if leaderless(err) { // a busy machine; it may have been made all the same
					err = onLeader(c, "propose", func(r *raft.Raft) error {
						if _, err := r.Propose(t.Context(), b); !errors.Is(err, state.ErrExists) {
							return err
						}
						return nil
					})
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d proposals by %d callers in %v", callers*each, callers, time.Since(began))
	if n := len(c.Leader().Store.View().Nodes()); n != callers*each {
		t.Errorf("%d nodes", n)
	}
}
