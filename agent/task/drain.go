package task

import (
	"context"
	"errors"
	"time"

	"github.com/docker/docker/api/types/swarm"
)

const (
	// defaultGrace is how long a task may take to stop when its spec does not say: the engine's own.
	defaultGrace = 10 * time.Second
	// hurriedDrain is how long a drain may go on when the whole node stops.
	hurriedDrain = time.Second
)

var errDrainOver = errors.New("the time to drain is over")

// drain waits, once, until a running task can be stopped without a loss, but not for long.
func (r *runner) drain(ctx context.Context, o order) {
	if r.w.cfg.Drain == nil || r.drained || r.status.State != swarm.TaskStateRunning || len(o.task.Task.Networks) == 0 {
		return
	}
	grace := defaultGrace
	if c := o.task.Spec.ContainerSpec; c != nil && c.StopGracePeriod != nil {
		grace = *c.StopGracePeriod
	}
	drainCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	end := time.AfterFunc(grace, func() { cancel(errDrainOver) })
	defer end.Stop()
	hurried := time.AfterFunc(hurriedDrain, func() { cancel(errDrainOver) })
	hurried.Stop()
	defer hurried.Stop()
	once := false
	r.mu.Lock()
	r.hurry = func(o order) {
		switch {
		case o.remove: // the managers have forgotten it, and so do the other nodes
			cancel(errDrainOver)
		case o.stop && !once:
			once = true
			hurried.Reset(hurriedDrain)
		}
	}
	r.hurry(r.order)
	r.mu.Unlock()

	start := time.Now()
	err := r.w.cfg.Drain(drainCtx, o.task)
	r.mu.Lock()
	r.hurry = nil
	r.mu.Unlock()
	if ctx.Err() != nil {
		return // the agent ends; its next life drains again
	}
	r.drained = true
	if err != nil && !errors.Is(err, errDrainOver) && drainCtx.Err() == nil {
		r.log.Warn("draining a task", "err", err)
		return
	}
	r.log.Debug("task drained", "dur", time.Since(start), "err", err)
}
