package sim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/agent/task"
	"github.com/meshswarm/meshswarm/raft/state"
)

// How long the simulated steps take, at least half of it.
const (
	prepareTime = 40 * time.Millisecond
	startTime   = 40 * time.Millisecond
	stopTime    = 20 * time.Millisecond
	exitTime    = 200 * time.Millisecond // a task that fails soon after its start
)

// engine is one machine's container runtime: a task.Executor whose containers are entries of a map. It outlives the agent.
type engine struct {
	world *world

	mu    sync.Mutex
	boxes map[string]*box
}

// box is a task's container.
type box struct {
	task    state.AssignedTask
	running bool
	over    bool
	ended   chan struct{} // closed when it ends by itself or is stopped
	err     error         // how it ended; set before ended is closed
}

func newEngine(w *world) *engine { return &engine{world: w, boxes: map[string]*box{}} }

// crash is the machine's power cut: nothing is left.
func (e *engine) crash() {
	e.mu.Lock()
	boxes := e.boxes
	e.boxes = map[string]*box{}
	e.mu.Unlock()
	for id, b := range boxes {
		e.end(b, errors.New("the machine went down"))
		e.world.stops(id)
	}
}

// end ends a container, once.
func (e *engine) end(b *box, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !b.over {
		b.over, b.running, b.err = true, false, err
		close(b.ended)
	}
}

func (e *engine) box(id string) *box {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.boxes[id]
}

// Describe implements task.Executor.
func (e *engine) Describe(context.Context) (swarm.NodeDescription, error) {
	return swarm.NodeDescription{}, nil
}

// Controller implements task.Executor.
func (e *engine) Controller(t state.AssignedTask) (task.Controller, error) {
	return &controller{e: e, t: t}, nil
}

// Leftovers implements task.Executor.
func (e *engine) Leftovers(context.Context) ([]string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var ids []string
	for id := range e.boxes {
		ids = append(ids, id)
	}
	return ids, nil
}

// Remove implements task.Executor.
func (e *engine) Remove(_ context.Context, id string) error {
	e.mu.Lock()
	b := e.boxes[id]
	delete(e.boxes, id)
	e.mu.Unlock()
	if b != nil {
		e.end(b, errors.New("removed"))
		e.world.stops(id)
	}
	return nil
}

// Logs implements task.Executor.
func (e *engine) Logs(_ context.Context, id string, _ task.LogOptions) (io.ReadCloser, bool, error) {
	return nil, false, fmt.Errorf("task %s: %w", id, fs.ErrNotExist)
}

// controller moves one task.
type controller struct {
	e *engine
	t state.AssignedTask
}

func (c *controller) id() string { return c.t.Task.ID }

// Prepare implements task.Controller.
func (c *controller) Prepare(ctx context.Context) error {
	if c.e.box(c.id()) != nil {
		return nil
	}
	if err := takes(ctx, prepareTime); err != nil {
		return err
	}
	if err := c.e.world.fails(opPrepare, &c.t.Task); err != nil {
		return err
	}
	c.e.mu.Lock()
	defer c.e.mu.Unlock()
	c.e.boxes[c.id()] = &box{task: c.t, ended: make(chan struct{})}
	return nil
}

// Start implements task.Controller.
func (c *controller) Start(ctx context.Context) error {
	b := c.e.box(c.id())
	if b == nil {
		return errors.New("the task's container is gone")
	}
	if err := takes(ctx, startTime); err != nil {
		return err
	}
	if err := c.e.world.fails(opStart, &c.t.Task); err != nil {
		return err
	}
	c.e.mu.Lock()
	begins := !b.running && !b.over && c.e.boxes[c.id()] == b
	b.running = b.running || begins
	c.e.mu.Unlock()
	if begins {
		c.e.world.starts(c.t)
	}
	if c.e.box(c.id()) != b {
		c.e.world.stops(c.id()) // the machine went down meanwhile
	}
	return nil
}

// Wait implements task.Controller.
func (c *controller) Wait(ctx context.Context) error {
	b := c.e.box(c.id())
	if b == nil {
		return errors.New("the task's container is gone")
	}
	if err := c.e.world.fails(opExit, &c.t.Task); err != nil {
		if err := takes(ctx, exitTime); err != nil {
			return err
		}
		c.e.end(b, err)
		c.e.world.stops(c.id())
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-b.ended:
		return b.err
	}
}

// Shutdown implements task.Controller.
func (c *controller) Shutdown(ctx context.Context) error {
	b := c.e.box(c.id())
	if b == nil {
		return nil
	}
	if err := takes(ctx, stopTime); err != nil {
		return err
	}
	c.e.end(b, errors.New("stopped"))
	c.e.world.stops(c.id())
	return nil
}

// Remove implements task.Controller.
func (c *controller) Remove(ctx context.Context) error { return c.e.Remove(ctx, c.id()) }

// Status implements task.Controller.
func (c *controller) Status(context.Context) (*swarm.ContainerStatus, error) {
	b := c.e.box(c.id())
	if b == nil {
		return nil, nil
	}
	st := &swarm.ContainerStatus{ContainerID: "container-of-" + c.id()}
	c.e.mu.Lock()
	defer c.e.mu.Unlock()
	if b.running {
		st.PID = 1
	}
	return st, nil
}

// takes lets between half of d and d pass.
func takes(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d/2 + rand.N(d/2))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
