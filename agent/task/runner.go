package task

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

// errOrder is the cause that ends a step early: the task is to stop.
var errOrder = errors.New("the task is to stop")

// order is what a runner is told.
type order struct {
	task   state.AssignedTask
	stop   bool // the node goes down
	remove bool // the task left the assignment
}

func (o order) stops() bool {
	return o.stop || o.remove || state.Rank(o.task.Task.DesiredState) >= state.Rank(swarm.TaskStateShutdown)
}

// runner moves one task.
type runner struct {
	id   string
	w    *Worker
	log  *slog.Logger
	wake chan struct{} // capacity 1: there is a new order

	// Only the goroutine of run uses these.
	status  swarm.TaskStatus
	ctl     Controller
	release bool // the task ended, but its network may not be freed yet
	drained bool // the drain is over
	removed bool

	mu     sync.Mutex
	order  order
	cancel context.CancelCauseFunc // of the step that runs, nil when none or when it stops the task
	hurry  func(order)             // shortens the drain that runs, nil when none does
}

func newRunner(w *Worker, t state.AssignedTask, known swarm.TaskStatus, stop bool) *runner {
	r := &runner{
		id: t.Task.ID, w: w, wake: make(chan struct{}, 1), order: order{task: t, stop: stop},
		log: w.log.With("task", t.Task.ID, "service", t.Task.ServiceName, "slot", t.Task.Slot), status: t.Task.Status,
	}
	if state.Rank(known.State) >= state.Rank(r.status.State) && known.State != "" {
		r.status = known
	}
	// An earlier life may have ended between the task's end and the end of its sandbox.
	r.release = terminal(r.status.State)
	return r
}

// update gives a new order, and ends a step that it makes pointless.
func (r *runner) update(o order) {
	r.mu.Lock()
	r.order = o
	if o.stops() && r.cancel != nil {
		r.cancel(errOrder)
	}
	if r.hurry != nil {
		r.hurry(o)
	}
	r.mu.Unlock()
	kick(r.wake)
}

func (r *runner) last() state.AssignedTask {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.order.task
}

// run takes step after step until ctx ends or the task was removed.
func (r *runner) run(ctx context.Context) {
	r.log.Debug("task assigned", "state", r.status.State)
	if known := r.last().Task.Status; r.status.State != known.State {
		r.w.cfg.Report(r.id, r.status) // the managers may not have heard of it
	}
	for ctx.Err() == nil {
		r.mu.Lock()
		o := r.order
		r.mu.Unlock()
		err := r.advance(ctx, o)
		switch {
		case r.removed:
			return
		case errors.Is(err, errIdle):
			select {
			case <-ctx.Done():
			case <-r.wake:
			}
		case err != nil && ctx.Err() == nil && !errors.Is(err, errOrder):
			r.pause(ctx)
		}
	}
}

// pause waits before a step is tried again, or until there is a new order.
func (r *runner) pause(ctx context.Context) {
	t := time.NewTimer(r.w.cfg.Retry)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-r.wake:
	case <-t.C:
	}
}

// step runs f in a context that an order to stop cancels.
func (r *runner) step(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r.mu.Lock()
	if r.order.stops() {
		cancel(errOrder)
	}
	r.cancel = cancel
	r.mu.Unlock()
	err := f(ctx)
	r.mu.Lock()
	r.cancel = nil
	r.mu.Unlock()
	if errors.Is(context.Cause(ctx), errOrder) && err != nil {
		return errOrder
	}
	return err
}

// controller makes the controller at first use.
func (r *runner) controller() (Controller, error) {
	if r.ctl != nil {
		return r.ctl, nil
	}
	c, err := r.w.cfg.Executor.Controller(r.last())
	if err != nil {
		return nil, err
	}
	r.ctl = c
	return c, nil
}

// set moves the task to a state.
func (r *runner) set(ctx context.Context, to swarm.TaskState, message, errText string) {
	st := swarm.TaskStatus{Timestamp: time.Now().UTC(), State: to, Message: message, Err: errText, ContainerStatus: r.status.ContainerStatus}
	if r.ctl != nil && state.Rank(to) > state.Rank(swarm.TaskStateReady) {
		if cs, err := r.ctl.Status(ctx); err == nil && cs != nil {
			st.ContainerStatus = cs
		}
	}
	r.status = st
	r.w.transitions.WithLabelValues(string(to)).Inc()
	level := slog.LevelDebug
	if errText != "" {
		level = slog.LevelInfo
	}
	r.log.Log(ctx, level, "task "+message, "state", to, "err", errText)
	r.w.publish(r.id, st)
}

// complain keeps the state and says why it does not change.
func (r *runner) complain(errText string) {
	if r.status.Err == errText {
		return
	}
	r.status.Err = errText
	if errText != "" {
		r.log.Warn("task waits", "state", r.status.State, "err", errText)
	}
	r.w.publish(r.id, r.status)
}
