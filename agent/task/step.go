package task

import (
	"context"
	"errors"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

// errIdle: nothing to do until there is a new order.
var errIdle = errors.New("nothing to do")

func terminal(s swarm.TaskState) bool { return state.Rank(s) >= state.Rank(swarm.TaskStateComplete) }

// advance makes one move. nil: moved, look again. errIdle, errOrder, or an error after which the move is tried again.
func (r *runner) advance(ctx context.Context, o order) error {
	switch {
	case o.remove:
		return r.remove(ctx)
	case terminal(r.status.State):
		return r.free(ctx)
	case o.stops():
		return r.shutdown(ctx, o)
	}
	return r.climb(ctx, o)
}

// climb takes the task one state up.
func (r *runner) climb(ctx context.Context, o order) error {
	ctl, err := r.controller()
	if err != nil {
		return r.fail(ctx, err)
	}
	switch r.status.State {
	case swarm.TaskStateAccepted:
		r.set(ctx, swarm.TaskStatePreparing, "preparing", "")
		return nil
	case swarm.TaskStatePreparing:
		return r.try(ctx, ctl.Prepare, swarm.TaskStateReady, "prepared")
	case swarm.TaskStateReady:
		if state.Rank(o.task.Task.DesiredState) <= state.Rank(swarm.TaskStateReady) {
			return errIdle
		}
		r.set(ctx, swarm.TaskStateStarting, "starting", "")
		return nil
	case swarm.TaskStateStarting:
		return r.try(ctx, ctl.Start, swarm.TaskStateRunning, "started")
	case swarm.TaskStateRunning:
		return r.watch(ctx, ctl)
	}
	r.set(ctx, swarm.TaskStateAccepted, "accepted", "")
	return nil
}

// try makes a move that can go wrong.
func (r *runner) try(ctx context.Context, f func(context.Context) error, to swarm.TaskState, message string) error {
	if err := r.step(ctx, f); err != nil {
		return r.fail(ctx, err)
	}
	r.set(ctx, to, message, "")
	return nil
}

// watch waits for the end of a running task.
func (r *runner) watch(ctx context.Context, ctl Controller) error {
	if r.status.Err != "" {
		if _, err := ctl.Status(ctx); err != nil {
			return r.fail(ctx, Temporary(err))
		}
		r.complain("")
	}
	if err := r.step(ctx, ctl.Wait); err != nil {
		return r.fail(ctx, err)
	}
	return r.end(ctx, swarm.TaskStateComplete, "finished", "")
}

// fail decides what an error means.
func (r *runner) fail(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, errOrder) || ctx.Err() != nil:
		return errOrder
	case errors.Is(err, ErrTemporary), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		r.complain(err.Error())
		return err
	}
	to := swarm.TaskStateFailed
	if state.Rank(r.status.State) < state.Rank(swarm.TaskStateStarting) {
		to = swarm.TaskStateRejected
	}
	return r.end(ctx, to, r.status.Message, err.Error())
}

// end brings a task that ended by itself to its last state. Its network is freed first, because the managers give its
// addresses to others as soon as they hear of it; when that does not work at once it is tried again after the report.
func (r *runner) end(ctx context.Context, to swarm.TaskState, message, errText string) error {
	r.release = true
	err := r.freeOnce(ctx)
	if err != nil {
		r.log.Warn("freeing the network of an ended task", "err", err)
	}
	r.set(ctx, to, message, errText)
	return nil
}

// free frees what an ended task still holds.
func (r *runner) free(ctx context.Context) error {
	if !r.release {
		return errIdle
	}
	if err := r.freeOnce(ctx); err != nil {
		return err
	}
	return errIdle
}

func (r *runner) freeOnce(ctx context.Context) error {
	ctl, err := r.controller()
	if err == nil {
		err = ctl.Shutdown(ctx)
		if err != nil {
			return err
		}
	}
	r.release = false
	return nil
}

// shutdown stops a task that was told to stop.
func (r *runner) shutdown(ctx context.Context, o order) error {
	ctl, err := r.controller()
	if err != nil { // a task that cannot run here does not run here
		r.set(ctx, swarm.TaskStateShutdown, "shutdown", "")
		return nil
	}
	if r.drain(ctx, o); ctx.Err() != nil {
		return errOrder
	}
	if err := ctl.Shutdown(ctx); err != nil {
		if ctx.Err() != nil {
			return errOrder
		}
		r.complain(err.Error())
		return err
	}
	r.set(ctx, swarm.TaskStateShutdown, "shutdown", "")
	return nil
}

// remove ends a task that is no longer assigned. Nobody wants to hear of it any more.
func (r *runner) remove(ctx context.Context) error {
	ctl, err := r.controller()
	if err != nil {
		if err := r.w.cfg.Executor.Remove(ctx, r.id); err != nil {
			return err
		}
		r.removed = true
		return nil
	}
	if !terminal(r.status.State) {
		if err := ctl.Shutdown(ctx); err != nil {
			r.log.Warn("stopping a task that is no longer assigned", "err", err)
			return err
		}
		r.status.State = swarm.TaskStateShutdown
	}
	if err := ctl.Remove(ctx); err != nil {
		r.log.Warn("removing a task", "err", err)
		return err
	}
	r.removed = true
	return nil
}
