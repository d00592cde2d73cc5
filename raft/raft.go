package raft

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	hraft "github.com/hashicorp/raft"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/meshswarm/meshswarm/raft/state"
)

// Stream carries the connections between managers. Whoever gives it has authenticated both ends (mTLS, role, membership)
// before a connection comes out of Accept or Dial. Run closes it at its end.
type Stream interface {
	net.Listener
	Dial(addr string, timeout time.Duration) (net.Conn, error)
}

// Sealer encrypts and authenticates what goes to disk; ad must be the same for both. What Seal adds must have the same
// length for all inputs.
type Sealer interface {
	Seal(ad, plain []byte) []byte
	Open(ad, sealed []byte) ([]byte, error)
}

// Config is what a Raft needs. The first six fields are required.
type Config struct {
	// NodeID is this manager's identity for good.
	NodeID string
	// Addr is host:port where the other managers reach Stream.
	Addr string
	// Dir holds the log and the snapshots; made when missing. One process at a time.
	Dir string
	// Store must be empty; only Raft applies to it.
	Store  *state.Store
	Stream Stream
	Sealer Sealer

	// Bootstrap makes this manager the first of a new cluster when Dir holds none. Without it, a manager with an empty
	// Dir waits until a leader adds it (AddManager).
	Bootstrap bool

	Logger   *slog.Logger          // nil: discard
	Registry prometheus.Registerer // nil: none

	// HeartbeatTimeout is how long a follower goes without its leader before it asks for an election, and how long a leader
	// goes without a majority before it steps down. ElectionTimeout is how long an election may take. Default 1 s each. The
	// same on all managers.
	HeartbeatTimeout time.Duration
	ElectionTimeout  time.Duration
	// SnapshotThreshold is how many log entries make a snapshot worth it, and how many are kept after one. Default 4096.
	SnapshotThreshold uint64
}

const (
	defaultTimeout           = time.Second
	defaultSnapshotThreshold = 4096
	drainTimeout             = 500 * time.Millisecond
)

// Raft is one manager's part in the cluster's memory. All methods are safe for concurrent use.
type Raft struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics

	running atomic.Bool
	ready   chan struct{}
	stopped chan struct{}
	gate    gate
	// faults is for tests: it comes between the log and the disk.
	faults func(hraft.LogStore) hraft.LogStore

	// node is set once, before ready is closed.
	node   *hraft.Raft
	stream *stream

	mu sync.Mutex
	// lead is the present leadership, or the present lack of one. Never nil.
	lead *leadership
}

// New checks the configuration. It does no IO.
func New(cfg Config) (*Raft, error) {
	switch {
	case cfg.NodeID == "":
		return nil, errors.New("raft: no node ID")
	case cfg.Dir == "":
		return nil, errors.New("raft: no directory")
	case cfg.Store == nil || cfg.Stream == nil || cfg.Sealer == nil:
		return nil, errors.New("raft: store, stream and sealer are required")
	case cfg.Store.Index() != 0:
		return nil, errors.New("raft: the store must be empty")
	}
	if err := checkAddr(cfg.Addr); err != nil {
		return nil, fmt.Errorf("raft: own address: %w", err)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.HeartbeatTimeout = orDefault(cfg.HeartbeatTimeout, defaultTimeout)
	cfg.ElectionTimeout = orDefault(cfg.ElectionTimeout, defaultTimeout)
	if cfg.SnapshotThreshold == 0 {
		cfg.SnapshotThreshold = defaultSnapshotThreshold
	}
	r := &Raft{
		cfg:     cfg,
		log:     cfg.Logger.With("component", "raft"),
		ready:   make(chan struct{}),
		stopped: make(chan struct{}),
		lead:    newLeadership(false),
	}
	r.metrics = newMetrics(r)
	return r, nil
}

func orDefault(d, def time.Duration) time.Duration {
	if d <= 0 {
		return def
	}
	return d
}

func checkAddr(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || host == "" || port == "" {
		return fmt.Errorf("address %q is not host:port", addr)
	}
	return nil
}

// Ready is closed when the storage is open and all of its content is in the store's hands: from then on Propose, Leader
// and Members make sense. It stays open when Run fails before.
func (r *Raft) Ready() <-chan struct{} { return r.ready }

// Run opens the storage and takes part in the cluster until ctx ends (nil) or the storage fails (an error). A failed
// write is never retried and nothing is acknowledged after it: the process should end, and start again from the disk.
// Run works once.
func (r *Raft) Run(ctx context.Context) error {
	if r.running.Swap(true) {
		return errors.New("raft: Run works once")
	}
	defer close(r.stopped)
	if err := r.metrics.register(r.cfg.Registry); err != nil {
		_ = r.cfg.Stream.Close()
		return fmt.Errorf("register raft metrics: %w", err)
	}
	defer r.metrics.unregister(r.cfg.Registry)
	s, err := r.open()
	if err != nil {
		_ = r.cfg.Stream.Close()
		return err
	}
	r.node, r.stream = s.node, s.stream
	r.gate.open()
	close(r.ready)

	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.watchLeadership(gctx, s.notify) })
	g.Go(func() error {
		select {
		case <-s.fuse.blown:
			return s.fuse.Err()
		case <-gctx.Done():
			return nil
		}
	})
	err = g.Wait()
	r.drain()
	closeErr := s.close()
	if err == nil {
		err = closeErr
	}
	return err
}

// drain refuses new calls and gives those under way a moment to end.
func (r *Raft) drain() {
	timer := time.NewTimer(drainTimeout)
	defer timer.Stop()
	select {
	case <-r.gate.shut():
	case <-timer.C:
	}
}

// Leader tells the leader's node ID and address, "" while none is known. It may be outdated: only Verify, on the leader,
// is certain.
func (r *Raft) Leader() (id, addr string) {
	if !r.isReady() {
		return "", ""
	}
	a, i := r.node.LeaderWithID()
	return string(i), string(a)
}

// IsLeader tells whether this manager holds itself for the leader.
func (r *Raft) IsLeader() bool {
	return r.isReady() && r.node.State() == hraft.Leader
}

// Serves tells whether this manager holds itself for the leader and its store has all that was committed before its term.
// Until then, which after a restart takes as long as replaying the log, what the store shows may be long past. A running
// Lead sees to it.
func (r *Raft) Serves() bool {
	return r.IsLeader() && r.leadership().barrier(r.node.CurrentTerm()) != 0
}

func (r *Raft) isReady() bool {
	select {
	case <-r.ready:
		return true
	default:
		return false
	}
}
