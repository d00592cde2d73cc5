package sim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meshswarm/meshswarm/agent/dispatch"
	"github.com/meshswarm/meshswarm/agent/rpc"
	"github.com/meshswarm/meshswarm/raft"
	"github.com/meshswarm/meshswarm/raft/rafttest"
	"github.com/meshswarm/meshswarm/raft/state"
	"github.com/meshswarm/meshswarm/sched"
	"github.com/meshswarm/meshswarm/secrets"
)

// manager is one of the swarm's managers, over several lives. It is put together as package agent does.
type manager struct {
	t        testing.TB
	id, addr string
	dir      string
	identity *secrets.Identity
	sealer   *rafttest.Sealer
	suspects *suspects
	conns    int // allowed on the control port
	slack    time.Duration
	log      *slog.Logger
	// first is the swarm's first batch, for the manager that creates it.
	first *state.Batch

	mu   sync.Mutex
	life *life // nil while it is down
}

// life is a manager's parts between start and end.
type life struct {
	store      *state.Store
	raft       *raft.Raft
	server     *rpc.Server
	client     *rpc.Client
	guard      *dispatch.Guard
	dispatcher *dispatch.Dispatcher
	leader     *sched.Leader
	audit      *audit
	cancel     context.CancelFunc
	ended      chan error
}

// start begins a life with what the disk holds.
func (m *manager) start() {
	m.t.Helper()
	l, err := m.construct()
	if err != nil {
		m.t.Fatalf("start %s: %v", m.id, err)
	}
	ln, err := rpc.Listen(m.addr)
	if err != nil {
		m.t.Fatalf("start %s: %v", m.id, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel, l.ended = cancel, make(chan error, 1)
	go func() { l.ended <- m.run(ctx, l, ln) }()
	m.mu.Lock()
	m.life = l
	m.mu.Unlock()
}

func (m *manager) construct() (*life, error) {
	l := &life{store: state.New()}
	l.audit = newAudit(m.id, m.suspects)
	identity := func() *secrets.Identity { return m.identity }
	var err error
	l.server, err = rpc.NewServer(rpc.ServerConfig{
		Identity: identity, Logger: m.log, Limits: rpc.Limits{Conns: m.conns},
		Allowed: func(p secrets.Peer, a rpc.Access) error { return l.guard.Allowed(p, a) },
	})
	if err != nil {
		return nil, err
	}
	l.guard = dispatch.NewGuard(l.store, l.server.Cut, m.log)
	l.client, err = rpc.NewClient(rpc.ClientConfig{Identity: identity, Allowed: l.guard.Allowed})
	if err != nil {
		return nil, err
	}
	l.raft, err = raft.New(raft.Config{
		NodeID: m.id, Addr: m.addr, Dir: m.dir, Store: l.store, Stream: l.server.RaftStream(m.addr, l.client), Sealer: m.sealer,
		Bootstrap: m.first != nil, Logger: m.log, HeartbeatTimeout: m.slack * time.Second, ElectionTimeout: m.slack * time.Second,
	})
	if err != nil {
		return nil, err
	}
	l.dispatcher, err = dispatch.New(dispatch.Config{
		Store: l.store, Proposer: l.raft, Logger: m.log,
		Period: m.slack * dispatch.DefaultPeriod, Timeout: m.slack * dispatch.DefaultTimeout,
		Leader: func() string { _, addr := l.raft.Leader(); return addr },
	})
	if err != nil {
		return nil, err
	}
	l.dispatcher.Register(l.server)
	l.leader, err = sched.New(sched.Config{Store: l.store, Proposer: l.raft, Logger: m.log})
	return l, err
}

func (m *manager) run(ctx context.Context, l *life, ln net.Listener) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return l.server.Run(ctx, ln) })
	g.Go(func() error { return l.raft.Run(ctx) })
	g.Go(func() error { return l.guard.Run(ctx) })
	g.Go(func() error { return l.store.Follow(ctx, l.audit.begin, l.audit.commits) })
	g.Go(func() error {
		err := l.raft.Lead(ctx, func(ctx context.Context, _ uint64) error { return m.term(ctx, l) })
		if errors.Is(err, raft.ErrStopped) {
			return nil
		}
		return err
	})
	err := g.Wait()
	l.client.Close()
	return err
}

// term is one term of leadership.
func (m *manager) term(ctx context.Context, l *life) error {
	if l.store.View().Cluster() == nil {
		if m.first == nil {
			return errors.New("leads an empty cluster that it did not create")
		}
		if _, err := l.raft.Propose(ctx, *m.first); err != nil {
			return fmt.Errorf("create the swarm: %w", err)
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return l.leader.Run(ctx) })
	g.Go(func() error { return l.dispatcher.Run(ctx) })
	return g.Wait()
}

// alive is the present life, nil if there is none.
func (m *manager) alive() *life {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.life
}

// kill ends the present life and tells how.
func (m *manager) kill() error {
	m.mu.Lock()
	l := m.life
	m.life = nil
	m.mu.Unlock()
	if l == nil {
		return nil
	}
	l.cancel()
	return <-l.ended
}
