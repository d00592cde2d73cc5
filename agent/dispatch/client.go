package dispatch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/docker/docker/api/types/swarm"
	"golang.org/x/sync/errgroup"

	"github.com/meshswarm/meshswarm/agent/rpc"
	"github.com/meshswarm/meshswarm/raft/state"
)

const (
	minBackoff = 100 * time.Millisecond
	maxBackoff = 2 * time.Second
	// openTimeout is for reaching a manager and its first answer.
	openTimeout = 2 * time.Second
	// maxHops bounds how often one attempt follows "the leader is at".
	maxHops = 3
)

// Handler is the node's side of a session.
type Handler interface {
	// Assign is told the whole assignments after each change, and calls inForce as soon as no packet of this node goes by
	// older ones; what else it does with them may take longer. Calls come one after another; when they come too fast, only
	// the last counts. a is shared: it must not be changed.
	Assign(a state.Assignments, inForce func())
	// Logs opens the output of a task of this node. The reader ends early when ctx does.
	Logs(ctx context.Context, req LogRequest) (io.ReadCloser, error)
}

// ClientConfig says what a Client needs.
type ClientConfig struct {
	RPC *rpc.Client
	// Managers lists the control addresses of all managers that the node knows of, the best guess first.
	Managers func() []string
	// Facts describes the node; it is asked at the beginning of each session and after Refresh.
	Facts   func() Facts
	Handler Handler
	// Patch applies a delta and returns the result; it must not change a (sched.Patch).
	Patch func(a state.Assignments, d state.Delta) state.Assignments
	// Renew, when set, is called when the leader says that the node needs a new certificate.
	Renew func()
	// Connected, when set, is called with the manager's address when a session begins, and with "" when it ends.
	Connected       func(addr string)
	Period, Timeout time.Duration // zero: the defaults
	Logger          *slog.Logger
}

// Client keeps a node's session with the leader, whoever that is.
type Client struct {
	cfg    ClientConfig
	log    *slog.Logger
	out    *outbox
	facts  chan struct{} // facts have changed
	again  chan struct{} // the session has to begin anew
	assign *mailbox
	common *common
}

// NewClient checks cfg.
func NewClient(cfg ClientConfig) (*Client, error) {
	if cfg.RPC == nil || cfg.Managers == nil || cfg.Facts == nil || cfg.Handler == nil || cfg.Patch == nil {
		return nil, errors.New("dispatch: a Client needs RPC, Managers, Facts, Handler and Patch")
	}
	if cfg.Period == 0 {
		cfg.Period = DefaultPeriod
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultTimeout
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Client{
		cfg: cfg, log: cfg.Logger.With("component", "session"), out: newOutbox(),
		facts: make(chan struct{}, 1), again: make(chan struct{}, 1), assign: newMailbox(),
		common: newCommon(),
	}, nil
}

// Report tells the leader the status of a task, now or as soon as there is a session. It never blocks. Of several
// statuses of one task the leader may see the last only.
func (c *Client) Report(taskID string, st swarm.TaskStatus) { c.out.put(taskID, st) }

// Unreported is the number of statuses that are not in the store yet, as far as the node knows.
func (c *Client) Unreported() int { return c.out.size() }

// Refresh sends the node's facts again: call it when they have changed.
func (c *Client) Refresh() {
	select {
	case c.facts <- struct{}{}:
	default:
	}
}

// Reconnect ends the present session and begins a new one at once: call it when the node's identity has changed, so that
// the leader sees the new certificate.
func (c *Client) Reconnect() {
	select {
	case c.again <- struct{}{}:
	default:
	}
}

// Run keeps a session until ctx ends. It returns rpc.ErrRemoved when the node is no longer a member; every other failure
// is tried again.
func (c *Client) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.deliver(ctx) })
	g.Go(func() error { return c.connect(ctx) })
	err := g.Wait()
	if errors.Is(err, rpc.ErrRemoved) {
		return err
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// connect goes from session to session.
func (c *Client) connect(ctx context.Context) error {
	backoff := minBackoff
	for attempt := 0; ctx.Err() == nil; attempt++ {
		addr := c.choose(attempt)
		welcomed, err := c.reach(ctx, addr)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, rpc.ErrRemoved):
			return fmt.Errorf("session with %s: %w", addr, err)
		case errors.Is(err, errReconnect):
			backoff = minBackoff
			continue
		case welcomed:
			c.log.Info("session ended", "addr", addr, "err", err)
			backoff = minBackoff
		default:
			c.log.Debug("no session", "addr", addr, "attempt", attempt, "err", err)
		}
		if err := pause(ctx, jitter(backoff)); err != nil {
			return nil
		}
		backoff = min(2*backoff, maxBackoff)
	}
	return nil
}

// choose goes around the managers, so that a dead one delays by one attempt only.
func (c *Client) choose(attempt int) string {
	managers := c.cfg.Managers()
	if len(managers) == 0 {
		return ""
	}
	return managers[attempt%len(managers)]
}

// reach has a session with the manager at addr, or with the leader that it names.
func (c *Client) reach(ctx context.Context, addr string) (welcomed bool, err error) {
	if addr == "" {
		return false, errors.New("no manager is known")
	}
	for range maxHops {
		welcomed, err = c.session(ctx, addr)
		var refusal *rpc.Error
		if welcomed || !errors.As(err, &refusal) || !errors.Is(err, rpc.ErrNotLeader) || refusal.Leader == "" || refusal.Leader == addr {
			return welcomed, err
		}
		addr = refusal.Leader
	}
	return welcomed, err
}

// deliver hands assignments to the node.
func (c *Client) deliver(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.assign.ready:
			if a, index, ok := c.assign.take(); ok {
				c.cfg.Handler.Assign(a, func() { c.common.apply(index) })
			}
		}
	}
}

// mailbox holds the newest assignments until somebody takes them.
type mailbox struct {
	ready chan struct{}

	mu    sync.Mutex
	a     state.Assignments
	index uint64 // of the store that a is by
	full  bool
}

func newMailbox() *mailbox { return &mailbox{ready: make(chan struct{}, 1)} }

func (m *mailbox) put(a state.Assignments, index uint64) {
	m.mu.Lock()
	m.a, m.index, m.full = a, index, true
	m.mu.Unlock()
	select {
	case m.ready <- struct{}{}:
	default:
	}
}

func (m *mailbox) take() (state.Assignments, uint64, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a, index, full := m.a, m.index, m.full
	m.a, m.full = state.Assignments{}, false
	return a, index, full
}

// jitter is between half of d and d.
func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d/2+1) }

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
