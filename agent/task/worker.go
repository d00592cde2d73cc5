package task

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/docker/docker/api/types/swarm"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/meshswarm/meshswarm/raft/state"
)

// Config is what a Worker needs.
type Config struct {
	Executor Executor
	// Report is told each change of a task's status: a higher state, or the same state with another message. It is called
	// from many goroutines and must not block. Optional.
	Report func(taskID string, st swarm.TaskStatus)
	// Dir is where the record of statuses is kept; empty keeps none.
	Dir string
	// Sealer encrypts the record. Required with Dir.
	Sealer Sealer
	// Retry is the pause after a temporary error, 1 s when zero.
	Retry time.Duration
	// Drain is called, before the stop signal, for a running task with networks that is told to stop, with the task as it
	// was when the order came. It returns when no node sends the task new flows and its old ones are over. ctx ends after
	// the task's grace period, or a second after the whole node was told to stop. Its error is logged; the task stops
	// either way. nil: tasks stop at once.
	Drain    func(ctx context.Context, t state.AssignedTask) error
	Logger   *slog.Logger
	Registry prometheus.Registerer
}

// Sealer encrypts what lies on disk.
type Sealer interface {
	Seal(ad, plain []byte) []byte
	Open(ad, sealed []byte) ([]byte, error)
}

// Worker runs the tasks assigned to a node.
type Worker struct {
	cfg         Config
	log         *slog.Logger
	transitions *prometheus.CounterVec
	wake        chan struct{} // capacity 1: the assignment, or the set of runners, changed
	save        chan struct{} // capacity 1: the record changed

	mu       sync.Mutex
	assigned map[string]state.AssignedTask // nil until the first Assign
	runners  map[string]*runner
	statuses map[string]swarm.TaskStatus
	changed  chan struct{} // closed and replaced when a status changes
	stopping bool
}

// NewWorker checks the configuration.
func NewWorker(cfg Config) (*Worker, error) {
	if cfg.Executor == nil {
		return nil, errors.New("worker: no executor")
	}
	if cfg.Dir != "" && cfg.Sealer == nil {
		return nil, errors.New("worker: no sealer for the record")
	}
	if cfg.Retry <= 0 {
		cfg.Retry = time.Second
	}
	if cfg.Report == nil {
		cfg.Report = func(string, swarm.TaskStatus) {}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	w := &Worker{
		cfg: cfg, log: cfg.Logger.With("component", "task"),
		wake: make(chan struct{}, 1), save: make(chan struct{}, 1),
		runners: map[string]*runner{}, statuses: map[string]swarm.TaskStatus{}, changed: make(chan struct{}),
		transitions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "meshswarm_task_transitions_total", Help: "Task states reached on this node.",
		}, []string{"state"}),
	}
	if cfg.Registry != nil {
		if err := cfg.Registry.Register(w.transitions); err != nil {
			return nil, fmt.Errorf("worker: register metrics: %w", err)
		}
	}
	return w, nil
}

// Assign replaces the set of tasks. The first call also lets everything be removed that the executor has of other tasks:
// it must be a whole assignment, as new as the node has it. It may be called before Run and does not block.
func (w *Worker) Assign(tasks map[string]state.AssignedTask) {
	w.mu.Lock()
	w.assigned = maps.Clone(tasks)
	if w.assigned == nil {
		w.assigned = map[string]state.AssignedTask{}
	}
	w.mu.Unlock()
	kick(w.wake)
}

// Statuses returns the last status of each task, for a new session to report.
func (w *Worker) Statuses() map[string]swarm.TaskStatus {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := make(map[string]swarm.TaskStatus, len(w.runners))
	for id := range w.runners {
		if st, ok := w.statuses[id]; ok {
			out[id] = st
		}
	}
	return out
}

// Run runs the tasks until ctx ends. Tasks go on running after that; the next Run adopts them.
func (w *Worker) Run(ctx context.Context) error {
	statuses, err := w.load()
	if err != nil {
		// The record only saves work: without it tasks go on from what the managers know.
		w.log.Warn("task record is not usable, starting without", "err", err)
	}
	w.mu.Lock()
	maps.Copy(w.statuses, statuses)
	w.mu.Unlock()

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return w.saver(ctx) })
	g.Go(func() error {
		cleaned := false
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-w.wake:
			}
			if w.reconcile(ctx, g) && !cleaned {
				cleaned = true
				g.Go(func() error { return w.clean(ctx) })
			}
		}
	})
	err = g.Wait()
	w.store()
	return err
}

// reconcile brings the runners in line with the assignment. It returns false while there is none.
func (w *Worker) reconcile(ctx context.Context, g *errgroup.Group) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.assigned == nil {
		return false
	}
	for id, t := range w.assigned {
		if r := w.runners[id]; r != nil {
			r.update(order{task: t, stop: w.stopping})
			continue
		}
		r := newRunner(w, t, w.statuses[id], w.stopping)
		w.runners[id] = r
		w.statuses[id] = r.status
		g.Go(func() error {
			r.run(ctx)
			w.forget(r)
			return nil
		})
	}
	for id, r := range w.runners {
		if _, ok := w.assigned[id]; !ok {
			r.update(order{task: r.last(), remove: true})
		}
	}
	return true
}

// forget drops a runner that ended, and its status when the task was removed.
func (w *Worker) forget(r *runner) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !r.removed {
		return // the agent is ending
	}
	delete(w.runners, r.id)
	delete(w.statuses, r.id)
	w.notifyLocked()
	kick(w.wake) // it may have been assigned again meanwhile
}

// publish stores and reports a status.
func (w *Worker) publish(id string, st swarm.TaskStatus) {
	w.mu.Lock()
	w.statuses[id] = st
	w.notifyLocked()
	w.mu.Unlock()
	w.cfg.Report(id, st)
}

func (w *Worker) notifyLocked() {
	close(w.changed)
	w.changed = make(chan struct{})
	kick(w.save)
}

// clean removes what the executor has of tasks that are not assigned, once.
func (w *Worker) clean(ctx context.Context) error {
	for {
		ids, err := w.cfg.Executor.Leftovers(ctx)
		for _, id := range ids {
			w.mu.Lock()
			_, assigned := w.assigned[id]
			_, running := w.runners[id]
			w.mu.Unlock()
			if assigned || running {
				continue
			}
			w.log.Info("removing what is left of a task", "task", id)
			err = errors.Join(err, w.cfg.Executor.Remove(ctx, id))
		}
		if err == nil {
			break
		}
		w.log.Warn("removing leftovers", "err", err)
		if !sleep(ctx, w.cfg.Retry) {
			return nil
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for id := range w.statuses {
		if w.runners[id] == nil {
			delete(w.statuses, id)
		}
	}
	return nil
}

// Stop stops all tasks, also those assigned later, and returns when none runs any more. Run must be running.
func (w *Worker) Stop(ctx context.Context) error {
	w.mu.Lock()
	w.stopping = true
	w.mu.Unlock()
	kick(w.wake)
	for {
		w.mu.Lock()
		var left []string
		for id := range w.runners {
			if !terminal(w.statuses[id].State) {
				left = append(left, id)
			}
		}
		changed := w.changed
		w.mu.Unlock()
		if len(left) == 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			slices.Sort(left)
			return fmt.Errorf("stop tasks %s: %w", strings.Join(left, ", "), context.Cause(ctx))
		}
	}
}

func kick(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
