package sched

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/meshswarm/meshswarm/raft/state"
)

// Proposer changes the store. It returns once the batch is applied here, with the index that it got, or with an error of
// state.Store.Apply, or with an error that ends the term.
type Proposer interface {
	Propose(ctx context.Context, b state.Batch) (uint64, error)
}

// Config is what a Leader depends on.
type Config struct {
	Store    *state.Store
	Proposer Proposer
	Clock    Clock                 // nil = the machine's
	Logger   *slog.Logger          // nil = none
	Registry prometheus.Registerer // nil = none
	NewID    func() string         // nil = state.NewID
}

// Leader runs the leader's loops. It may Run one term after another, one at a time.
type Leader struct {
	cfg Config
	met *metrics
}

// New checks the dependencies.
func New(cfg Config) (*Leader, error) {
	if cfg.Store == nil || cfg.Proposer == nil {
		return nil, errors.New("sched: Config needs a Store and a Proposer")
	}
	if cfg.Clock == nil {
		cfg.Clock = wall{}
	}
	if cfg.NewID == nil {
		cfg.NewID = state.NewID
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.Logger = cfg.Logger.With("component", "sched")
	met, err := newMetrics(cfg.Registry)
	if err != nil {
		return nil, fmt.Errorf("register metrics of sched: %w", err)
	}
	return &Leader{cfg: cfg, met: met}, nil
}

// Run is one term of leadership: it returns nil when ctx ends, and an error when the store can no longer be changed.
func (l *Leader) Run(ctx context.Context) error {
	for {
		err := l.follow(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, state.ErrLagged):
			l.cfg.Logger.Warn("read the store anew", "err", err)
		default:
			return err
		}
	}
}

// follow works from one view of the store until its watch ends.
func (l *Leader) follow(ctx context.Context) error {
	view, watch := l.cfg.Store.ViewAndWatch()
	defer watch.Close()
	g, ctx := errgroup.WithContext(ctx)
	commits := make(chan []state.Commit)
	g.Go(func() error {
		for {
			c, err := watch.Next(ctx)
			if err != nil {
				return fmt.Errorf("follow the store: %w", err)
			}
			select {
			case commits <- c:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	})
	g.Go(func() error { return newMind(l.cfg, l.met, view).run(ctx, commits) })
	return g.Wait()
}
