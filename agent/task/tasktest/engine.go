package tasktest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/agent/task"
	"github.com/meshswarm/meshswarm/raft/state"
)

// Engine is a container runtime in memory. Its containers do what ProgramArgs tells them. It outlives executors, as an
// engine outlives agents.
type Engine struct {
	mu         sync.Mutex
	away       bool
	containers map[string]*box
	changed    chan struct{} // closed and replaced at every change
	next       int
}

// box is a task's container and sandbox.
type box struct {
	id          string
	args        []string
	hasCheck    bool
	started     bool
	running     bool
	sandbox     bool
	healthy     bool
	code        int
	stopIgnored bool
}

// NewEngine returns an engine without containers.
func NewEngine() *Engine {
	return &Engine{containers: map[string]*box{}, changed: make(chan struct{})}
}

// SetAway makes the engine unreachable, or reachable again.
func (e *Engine) SetAway(away bool) {
	e.change(func() { e.away = away })
}

// KillSandbox ends a task's sandbox.
func (e *Engine) KillSandbox(taskID string) {
	e.change(func() { e.containers[taskID].sandbox = false })
}

// Exit ends a task's container with an exit code.
func (e *Engine) Exit(taskID string, code int) {
	e.change(func() { e.containers[taskID].running, e.containers[taskID].code = false, code })
}

// Sicken makes a task's health check fail from now on.
func (e *Engine) Sicken(taskID string) {
	e.change(func() { e.containers[taskID].healthy = false })
}

// Running tells whether a task's container runs.
func (e *Engine) Running(taskID string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	b := e.containers[taskID]
	return b != nil && b.running
}

// HasSandbox tells whether a task's sandbox runs.
func (e *Engine) HasSandbox(taskID string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	b := e.containers[taskID]
	return b != nil && b.sandbox
}

func (e *Engine) change(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f()
	close(e.changed)
	e.changed = make(chan struct{})
}

// Executor returns a new executor on the engine.
func (e *Engine) Executor() task.Executor { return executor{e} }

type executor struct{ e *Engine }

var errAway = errors.New("cannot connect to the engine")

// call runs f unless the engine is away.
func (e *Engine) call(ctx context.Context, f func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var err error
	e.change(func() {
		if e.away {
			err = task.Temporary(errAway)
			return
		}
		err = f()
	})
	return err
}

// look is call without a change.
func (e *Engine) look(f func() error) (<-chan struct{}, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.away {
		return e.changed, task.Temporary(errAway)
	}
	return e.changed, f()
}

func (x executor) Describe(ctx context.Context) (d swarm.NodeDescription, err error) {
	err = x.e.call(ctx, func() error {
		d = swarm.NodeDescription{
			Hostname: "node", Platform: swarm.Platform{Architecture: "x86_64", OS: "linux"},
			Resources: swarm.Resources{NanoCPUs: 2e9, MemoryBytes: 1 << 30}, Engine: swarm.EngineDescription{EngineVersion: "memory"},
		}
		return nil
	})
	return d, err
}

func (x executor) Controller(t state.AssignedTask) (task.Controller, error) {
	s := t.Spec.ContainerSpec
	if s == nil {
		return nil, errors.New("only services that run containers are supported")
	}
	if len(s.Secrets) > 0 {
		return nil, errors.New("secrets are not supported yet")
	}
	return &controller{e: x.e, t: t}, nil
}

func (x executor) Leftovers(ctx context.Context) (ids []string, err error) {
	err = x.e.call(ctx, func() error {
		ids = slices.Sorted(maps.Keys(x.e.containers))
		return nil
	})
	return ids, err
}

func (x executor) Remove(ctx context.Context, taskID string) error {
	return x.e.call(ctx, func() error {
		delete(x.e.containers, taskID)
		return nil
	})
}

func (x executor) Logs(ctx context.Context, taskID string, o task.LogOptions) (r io.ReadCloser, tty bool, err error) {
	err = x.e.call(ctx, func() error {
		b := x.e.containers[taskID]
		if b == nil {
			return fmt.Errorf("logs of task %s: %w", taskID, fs.ErrNotExist)
		}
		text := ""
		if b.args[0] == "say" && o.Stdout {
			text = b.args[1] + "\n"
			text = string([]byte{1, 0, 0, 0, 0, 0, 0, byte(len(text))}) + text
		}
		r = io.NopCloser(strings.NewReader(text))
		return nil
	})
	return r, false, err
}

type controller struct {
	e *Engine
	t state.AssignedTask
}

func (c *controller) Prepare(ctx context.Context) error {
	return c.e.call(ctx, func() error {
		if c.e.containers[c.t.Task.ID] != nil {
			return nil
		}
		s := c.t.Spec.ContainerSpec
		if s.Image != Image {
			return fmt.Errorf("image %s: not on this node and cannot be pulled: there is no registry", s.Image)
		}
		c.e.next++
		c.e.containers[c.t.Task.ID] = &box{id: "container" + strconv.Itoa(c.e.next), args: s.Args, sandbox: true, hasCheck: s.Healthcheck != nil}
		return nil
	})
}

func (c *controller) Start(ctx context.Context) error {
	err := c.e.call(ctx, func() error {
		b := c.e.containers[c.t.Task.ID]
		switch {
		case b == nil:
			return errors.New("the task's container is gone")
		case b.started:
			return nil
		case !b.sandbox:
			return errors.New("sandbox died: gone")
		}
		b.started, b.running = true, true
		b.stopIgnored = b.args[0] == "stubborn"
		b.healthy = b.args[0] == "sick"
		if b.args[0] == "exit" {
			code, err := strconv.Atoi(b.args[1])
			b.running, b.code = false, code
			return err
		}
		return nil
	})
	if err != nil {
		return err
	}
	var done bool
	_, err = c.e.look(func() error {
		done, err = c.ended()
		return err
	})
	if done && err == nil {
		return nil
	}
	return err
}

// ended tells whether the task ended, and how. A container that has to go is stopped. The engine is locked.
func (c *controller) ended() (bool, error) {
	b := c.e.containers[c.t.Task.ID]
	switch {
	case b == nil:
		return true, errors.New("the task's container is gone")
	case !b.running && b.code == 0:
		return true, nil
	case !b.running:
		return true, &task.ExitError{Code: b.code}
	case !b.sandbox:
		b.running = false
		return true, errors.New("sandbox died: exit code 137")
	case b.hasCheck && !b.healthy:
		b.running, b.code = false, 137
		return true, &task.ExitError{Code: 137, Cause: errors.New("dockerexec: unhealthy container")}
	}
	return false, nil
}

func (c *controller) Wait(ctx context.Context) error {
	for {
		done := false
		changed, err := c.e.look(func() (err error) {
			done, err = c.ended()
			return err
		})
		if done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-changed:
		}
	}
}

func (c *controller) Shutdown(ctx context.Context) error {
	return c.e.call(ctx, func() error {
		b := c.e.containers[c.t.Task.ID]
		if b == nil {
			return nil
		}
		if b.running {
			b.running = false
			if b.stopIgnored {
				b.code = 137
			}
		}
		b.sandbox = false
		return nil
	})
}

func (c *controller) Remove(ctx context.Context) error { return executor{c.e}.Remove(ctx, c.t.Task.ID) }

func (c *controller) Status(context.Context) (st *swarm.ContainerStatus, err error) {
	_, err = c.e.look(func() error {
		if b := c.e.containers[c.t.Task.ID]; b != nil {
			st = &swarm.ContainerStatus{ContainerID: b.id, ExitCode: b.code}
			if b.running {
				st.PID = 1
			}
		}
		return nil
	})
	return st, err
}

// poll waits until f returns "", and fails with its last answer.
func poll(t interface {
	Helper()
	Fatal(...any)
}, f func() string) {
	t.Helper()
	last := ""
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if last = f(); last == "" {
			return
		}
	}
	t.Fatal("waited in vain: ", last)
}
