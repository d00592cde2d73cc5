package docker

import (
	"context"
	"strconv"
	"time"

	"github.com/docker/docker/api/types/events"
)

const reconnectDelay = time.Second

// Run follows the engine's events until ctx ends. Controllers do not see ends of containers without it. An engine that is
// away is no error: Run waits for it.
func (e *Executor) Run(ctx context.Context) error {
	connected := true // so that the first failure is told
	for ctx.Err() == nil {
		err := e.follow(ctx, func() {
			if !connected {
				e.log.Info("engine is back")
			}
			connected = true
		})
		e.setInfo(nil)
		e.kick("")
		if ctx.Err() != nil {
			return nil
		}
		if connected {
			e.log.Warn("engine is away, waiting for it", "err", err)
		}
		connected = false
		select {
		case <-ctx.Done():
		case <-time.After(reconnectDelay):
		}
	}
	return nil
}

// follow reads one stream of events to its end.
func (e *Executor) follow(ctx context.Context, connected func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if _, err := e.engine(ctx); err != nil {
		return err
	}
	f := e.mine()
	f.Add("type", string(events.ContainerEventType))
	for _, action := range []string{"die", "health_status", "oom", "destroy", "start"} {
		f.Add("event", action)
	}
	// The engine answers before it subscribes; asking for a moment of the past closes that gap.
	since := strconv.FormatInt(time.Now().Add(-2*time.Second).Unix(), 10)
	messages, errs := e.api.Events(ctx, events.ListOptions{Since: since, Filters: f})
	connected()
	e.kick("")
	for {
		select {
		case m := <-messages:
			e.kick(m.Actor.Attributes[LabelTask])
		case err := <-errs:
			// The client's goroutine ends with this error, and sends nothing more.
			return wrap("follow the engine's events", err)
		}
	}
}

// watch returns a channel that gets a value when it is worth looking at the task's containers.
func (e *Executor) watch(taskID string) (ch <-chan struct{}, stop func()) {
	c := make(chan struct{}, 1)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.watchers[taskID] == nil {
		e.watchers[taskID] = map[chan struct{}]struct{}{}
	}
	e.watchers[taskID][c] = struct{}{}
	return c, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.watchers[taskID], c)
		if len(e.watchers[taskID]) == 0 {
			delete(e.watchers, taskID)
		}
	}
}

// kick wakes the watchers of a task, or with "" all.
func (e *Executor) kick(taskID string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for id, watchers := range e.watchers {
		if taskID != "" && id != taskID {
			continue
		}
		for c := range watchers {
			select {
			case c <- struct{}{}:
			default:
			}
		}
	}
}
