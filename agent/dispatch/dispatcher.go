package dispatch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/meshswarm/meshswarm/agent/rpc"
	"github.com/meshswarm/meshswarm/raft/state"
)

// Config says what a Dispatcher needs.
type Config struct {
	Store    *state.Store
	Proposer Proposer
	// Leader gives the control address of the leader, "" when there is none: nodes that ask while this manager does not
	// lead are sent there.
	Leader func() string
	// Clock decides about silence; nil means the machine's.
	Clock           Clock
	Period, Timeout time.Duration // zero: the defaults
	Logger          *slog.Logger
	Registry        prometheus.Registerer
}

// Dispatcher serves the sessions of all nodes while this manager leads. It is made once; its handlers stay registered, and
// each Run is one term of leadership. Between terms the handlers tell nodes where the leader is.
type Dispatcher struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics

	mu   sync.Mutex
	term *term // nil while this manager does not lead
}

// New checks cfg.
func New(cfg Config) (*Dispatcher, error) {
	switch {
	case cfg.Store == nil, cfg.Proposer == nil, cfg.Leader == nil:
		return nil, errors.New("dispatch: a Dispatcher needs Store, Proposer and Leader")
	}
	if cfg.Clock == nil {
		cfg.Clock = wall{}
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
	d := &Dispatcher{cfg: cfg, log: cfg.Logger.With("component", "dispatch")}
	var err error
	d.metrics, err = newMetrics(cfg.Registry, d.sessionCount)
	return d, err
}

// Run serves one term: until ctx ends, or until something fails that makes leadership pointless. All sessions have ended
// when it returns.
func (d *Dispatcher) Run(ctx context.Context) error {
	t := newTerm(d)
	g, ctx := errgroup.WithContext(ctx)
	t.ctx = ctx
	d.mu.Lock()
	if d.term != nil {
		d.mu.Unlock()
		return errors.New("dispatch: Run is running already")
	}
	d.term = t
	d.mu.Unlock()
	g.Go(func() error { return t.observe(ctx) })
	g.Go(func() error { return t.beat(ctx) })
	g.Go(func() error { return t.collect(ctx) })
	g.Go(func() error {
		<-ctx.Done()
		d.mu.Lock()
		d.term = nil
		d.mu.Unlock()
		t.close()
		return nil
	})
	err := g.Wait()
	t.handlers.Wait()
	if err != nil {
		return fmt.Errorf("dispatch: %w", err)
	}
	return nil
}

// current is the present term, or the refusal that sends a node to the leader.
func (d *Dispatcher) current() (*term, error) {
	d.mu.Lock()
	t := d.term
	d.mu.Unlock()
	if t == nil {
		return nil, rpc.NotLeader(d.cfg.Leader())
	}
	return t, nil
}

func (d *Dispatcher) sessionCount() int {
	t, err := d.current()
	if err != nil {
		return 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.sessions)
}

// Register puts the Dispatcher's routes on the control port.
func (d *Dispatcher) Register(s *rpc.Server) {
	s.HandleStream("POST "+rpc.PathSession, rpc.AccessMember, http.HandlerFunc(d.ServeSession))
	s.HandleStream("POST "+rpc.PathReverse+"{id}", rpc.AccessMember, http.HandlerFunc(d.ServeReverse))
}
