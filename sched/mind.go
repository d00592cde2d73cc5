package sched

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meshswarm/meshswarm/raft/state"
)

const (
	// After a refusal batches get smaller, down to minOps, so that one object that changes often stops fewer others.
	minOps = 8
	// inFlight is how many batches of one pass wait for consensus at a time. They touch different objects.
	inFlight = 8
	// A refused pass is thought again when the commit that got in its way arrives, or after this long, doubling.
	refusedFirst = 20 * time.Millisecond
	refusedLast  = time.Second
	// So many refusals in a row are worth an operator's look.
	oddRefusals = 8
)

// mind is the thinking goroutine of one term. Everything in it belongs to that goroutine.
type mind struct {
	proposer Proposer
	clock    Clock
	log      *slog.Logger
	met      *metrics
	board    *board

	enforcer     *enforcer
	orchestrator *orchestrator
	allocator    *allocator
	scheduler    *scheduler
	reaper       *reaper

	refusals int // passes in a row that were refused
}

func newMind(cfg Config, met *metrics, v state.View) *mind {
	b := newBoard(v, now(cfg.Clock))
	a := &allocator{b: b}
	return &mind{
		proposer: cfg.Proposer, clock: cfg.Clock, log: cfg.Logger, met: met, board: b,
		enforcer:     &enforcer{b: b, log: cfg.Logger},
		orchestrator: &orchestrator{b: b, newID: cfg.NewID, allocator: a, updater: &updater{b: b, newID: cfg.NewID, log: cfg.Logger}, log: cfg.Logger},
		allocator:    a,
		scheduler:    &scheduler{b: b},
		reaper:       &reaper{b: b, log: cfg.Logger},
	}
}

// now is the time as the store will keep it.
func now(c Clock) time.Time { return c.Now().UTC().Round(0) }

// run thinks whenever there is something to think about.
func (m *mind) run(ctx context.Context, commits <-chan []state.Commit) error {
	for {
		for m.board.news = true; m.board.news; {
			m.board.news = false
			if err := m.pass(ctx, commits); err != nil {
				return err
			}
		}
		fired, stop := m.timer()
		select {
		case c := <-commits:
			m.take(c, commits)
		case <-fired:
		case <-ctx.Done():
			stop()
			return context.Cause(ctx)
		}
		stop()
	}
}

// take brings the board up to date with c and with whatever else is waiting.
func (m *mind) take(c []state.Commit, more <-chan []state.Commit) {
	for {
		m.board.take(c)
		select {
		case c = <-more:
		default:
			return
		}
	}
}

// timer fires when the next thing is due.
func (m *mind) timer() (<-chan time.Time, func()) {
	at, ok := m.board.nextWake()
	d := at.Sub(now(m.clock))
	if m.refusals > 0 {
		if b := backoff(m.refusals); !ok || b < d {
			d, ok = b, true
		}
	}
	if !ok {
		return nil, func() {}
	}
	return m.clock.Timer(max(d, 0))
}

func backoff(n int) time.Duration {
	d := refusedFirst
	for ; n > 1 && d < refusedLast; n-- {
		d *= 2
	}
	return min(d, refusedLast)
}

// pass thinks once and commits the result.
func (m *mind) pass(ctx context.Context, commits <-chan []state.Commit) error {
	start := time.Now()
	b := m.board
	b.begin(now(m.clock))
	m.orchestrator.orphan()
	m.enforcer.run()
	m.allocator.networks()
	m.allocator.nodes()
	m.orchestrator.run()
	m.allocator.tasks()
	m.scheduler.run()
	m.reaper.run()
	early, late := b.end(max(minOps, maxOps>>m.refusals))
	m.met.pass.Observe(time.Since(start).Seconds())
	m.met.pending.Set(float64(len(b.unallocated) + len(b.unassigned)))
	if len(early)+len(late) == 0 {
		m.refusals = 0
		return nil
	}
	last, ok, err := m.propose(ctx, early)
	if err != nil {
		return err
	}
	if ok {
		var end uint64
		end, ok, err = m.propose(ctx, late)
		last = max(last, end)
	} else {
		m.revert(late)
	}
	if err != nil {
		return err
	}
	if m.refusals++; ok {
		m.refusals = 0
	}
	return m.echo(ctx, last, commits)
}

// propose has batches applied, and takes those off the board that were refused. It returns the index of the last one
// accepted, and whether all were.
func (m *mind) propose(ctx context.Context, batches []batch) (last uint64, ok bool, err error) {
	index := make([]uint64, len(batches))
	errs := make([]error, len(batches))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(inFlight)
	for i, b := range batches {
		g.Go(func() error {
			index[i], errs[i] = m.proposer.Propose(gctx, b.Batch)
			if errs[i] != nil && !refusal(errs[i]) {
				return fmt.Errorf("propose %d changes: %w", len(b.Ops), errs[i])
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return 0, false, err
	}
	ok = true
	for i, b := range batches {
		m.met.changes.Add(float64(len(b.Ops)))
		if errs[i] == nil {
			last = max(last, index[i])
			continue
		}
		level := slog.LevelDebug
		if m.refusals >= oddRefusals {
			level = slog.LevelWarn
		}
		m.log.Log(ctx, level, "store refused a batch", "attempt", m.refusals+1, "err", errs[i])
		m.met.refused.Inc()
		m.revert(batches[i : i+1])
		ok = false
	}
	return last, ok, nil
}

func (m *mind) revert(batches []batch) {
	for _, b := range batches {
		m.board.revert(b)
	}
}

// echo waits until the board has seen what the store made of the drafts.
func (m *mind) echo(ctx context.Context, last uint64, commits <-chan []state.Commit) error {
	for m.board.index < last {
		select {
		case c := <-commits:
			m.take(c, commits)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// refusal tells whether the store said no to what the batch wants, as opposed to not being there.
func refusal(err error) bool {
	for _, e := range []error{state.ErrSequence, state.ErrTaken, state.ErrNotFound, state.ErrExists, state.ErrNameConflict} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
