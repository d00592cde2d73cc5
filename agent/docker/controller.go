package docker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/swarm"
	"golang.org/x/sync/errgroup"

	"github.com/meshswarm/meshswarm/agent/task"
	"github.com/meshswarm/meshswarm/raft/state"
)

const (
	defaultGrace = 10 * time.Second // the engine's own
	killMargin   = 15 * time.Second // what the engine may take beyond the grace period
)

var (
	errGone      = errors.New("the task's container is gone")
	errUnhealthy = errors.New("dockerexec: unhealthy container") // Swarm's text
	errMemory    = errors.New("out of memory: the container reached its memory limit, or the node ran out")
)

// controller runs one task.
type controller struct {
	e    *Executor
	id   string
	name string
	task state.AssignedTask
	log  *slog.Logger

	attached bool // this life of the agent connected the sandbox

	mu      sync.Mutex
	fresh   swarm.ContainerStatus
	freshAt time.Time
}

// Prepare implements task.Controller.
func (c *controller) Prepare(ctx context.Context) error {
	spec, err := c.expand(ctx)
	if err != nil {
		return err
	}
	found, box, hasImage, err := c.survey(ctx, spec)
	if err != nil {
		return err
	}
	if found != nil {
		dead := c.judgeSandbox(box)
		if dead == nil {
			return c.adopt(ctx)
		}
		// The container belongs to a namespace that is gone: make both anew.
		if err := c.e.removeContainer(ctx, found.ID); err != nil {
			return err
		}
	}
	if !hasImage {
		if err := c.e.fetchImage(ctx, imageName(spec.Image)); err != nil {
			return err
		}
	}
	if err := c.ensureSandbox(ctx, spec, box); err != nil {
		return err
	}
	// The sandbox sets up its devices meanwhile.
	var g errgroup.Group
	g.Go(func() error { return c.adopt(ctx) })
	g.Go(func() error { return c.create(ctx, spec) })
	return g.Wait()
}

// survey asks the engine for all that the task may have already, at once.
func (c *controller) survey(ctx context.Context, spec *swarm.ContainerSpec) (found, box *container.InspectResponse, hasImage bool, err error) {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		found, err = c.inspect(ctx)
		return err
	})
	g.Go(func() (err error) {
		box, err = c.e.inspect(ctx, sandboxName(c.id), c.id)
		return err
	})
	g.Go(func() (err error) {
		hasImage, err = c.e.hasImage(ctx, imageName(spec.Image))
		return err
	})
	err = g.Wait()
	return found, box, hasImage, err
}

// create makes the task's container.
func (c *controller) create(ctx context.Context, spec *swarm.ContainerSpec) error {
	info, err := c.e.engine(ctx)
	if err != nil {
		return err
	}
	if err := checkLimits(c.task.Spec.Resources, info); err != nil {
		return err
	}
	if err := c.checkVersion(spec); err != nil {
		return err
	}
	if err := c.writeNames(ctx, spec); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	host := c.hostConfig(spec)
	mountNames(host, c.nameMounts(spec), info)
	made, err := c.e.api.ContainerCreate(ctx, c.containerConfig(spec), host, nil, nil, c.name)
	if cerrdefs.IsConflict(err) {
		if found, ferr := c.inspect(ctx); ferr != nil {
			return ferr
		} else if found != nil {
			return nil // an earlier attempt that was cut off
		}
	}
	if err != nil {
		return wrap("create container", err)
	}
	for _, w := range made.Warnings {
		c.log.Warn("the engine warns about the task's container", "warning", w)
	}
	c.saw(swarm.ContainerStatus{ContainerID: made.ID})
	return nil
}

// Start implements task.Controller.
func (c *controller) Start(ctx context.Context) error {
	kicked, stop := c.e.watch(c.id)
	defer stop()
	found, err := c.inspect(ctx)
	if err != nil {
		return err
	}
	if found == nil {
		return errGone
	}
	if found.State.Status == container.StateCreated {
		if err := c.adopt(ctx); err != nil {
			return err
		}
		if err := c.start(ctx, found.ID); err != nil {
			return err
		}
	}
	for {
		done, err := c.started(ctx)
		if done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-kicked:
		}
	}
}

func (c *controller) start(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	return wrap("start container", c.e.api.ContainerStart(ctx, id, container.StartOptions{}))
}

// started looks once whether a container that was started counts as running.
func (c *controller) started(ctx context.Context) (bool, error) {
	found, err := c.look(ctx)
	if err != nil {
		return false, err
	}
	if !found.State.Running {
		return true, exitError(found.State, nil) // exit code 0: Wait tells
	}
	if err := c.adopt(ctx); err != nil {
		return false, err
	}
	h := found.State.Health
	if h == nil || h.Status == container.NoHealthcheck || h.Status == container.Healthy {
		c.saw(statusOf(found))
		return true, nil
	}
	if h.Status == container.Unhealthy {
		return false, c.unhealthy(ctx)
	}
	return false, nil
}

// Wait implements task.Controller.
func (c *controller) Wait(ctx context.Context) error {
	c.seen()
	kicked, stop := c.e.watch(c.id)
	defer stop()
	for {
		found, err := c.look(ctx)
		if err != nil {
			return err
		}
		switch {
		case found.State.Status == container.StateCreated:
			return errors.New("the task's container was never started")
		case !found.State.Running:
			return exitError(found.State, nil)
		case found.State.Health != nil && found.State.Health.Status == container.Unhealthy:
			return c.unhealthy(ctx)
		}
		if err := c.adopt(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-kicked:
		}
	}
}

// look inspects both containers. A running task whose sandbox is dead is stopped.
func (c *controller) look(ctx context.Context) (*container.InspectResponse, error) {
	var found *container.InspectResponse
	var err, dead error
	var wg sync.WaitGroup
	wg.Go(func() { dead = c.sandboxAlive(ctx) })
	found, err = c.inspect(ctx)
	wg.Wait()
	if err != nil {
		return nil, err
	}
	if found == nil {
		return nil, errGone
	}
	if !found.State.Running {
		return found, nil
	}
	if dead == nil || !errors.Is(dead, errSandboxDied) {
		return found, dead
	}
	// The engine may have been stopping both: then the task's own end is the better answer.
	if again, err := c.inspect(ctx); err == nil && again != nil && !again.State.Running {
		return again, nil
	}
	if err := c.stop(ctx); err != nil {
		return nil, err
	}
	return nil, dead
}

// unhealthy stops a container whose health check says so.
func (c *controller) unhealthy(ctx context.Context) error {
	if err := c.stop(ctx); err != nil {
		return err
	}
	found, err := c.inspect(ctx)
	if err != nil {
		return err
	}
	st := &container.State{}
	if found != nil {
		st = found.State
	}
	return exitError(st, errUnhealthy)
}

// exitError is nil for exit code 0 without a cause.
func exitError(st *container.State, cause error) error {
	if cause == nil && st.OOMKilled {
		cause = errMemory
	}
	if cause == nil && st.Error != "" {
		cause = errors.New(st.Error)
	}
	if st.ExitCode == 0 && cause == nil {
		return nil
	}
	return &task.ExitError{Code: st.ExitCode, Cause: cause}
}

// Shutdown implements task.Controller.
func (c *controller) Shutdown(ctx context.Context) error {
	if err := c.stop(ctx); err != nil {
		return err
	}
	c.farewell(ctx)
	return c.removeSandbox(ctx)
}

// stop stops the task's container: stop signal, grace period, kill.
func (c *controller) stop(ctx context.Context) error {
	c.seen()
	found, err := c.inspect(ctx)
	if err != nil || found == nil || !found.State.Running {
		return err
	}
	grace := defaultGrace
	if g := c.task.Spec.ContainerSpec.StopGracePeriod; g != nil {
		grace = *g
	}
	stopCtx, cancel := context.WithTimeout(ctx, grace+killMargin)
	defer cancel()
	err = c.e.api.ContainerStop(stopCtx, found.ID, container.StopOptions{})
	if err == nil || cerrdefs.IsNotFound(err) {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	c.log.Warn("container did not stop, killing it", "err", err)
	killCtx, cancelKill := context.WithTimeout(ctx, callTimeout)
	defer cancelKill()
	if kerr := c.e.api.ContainerKill(killCtx, found.ID, "KILL"); kerr != nil && !cerrdefs.IsNotFound(kerr) && !cerrdefs.IsConflict(kerr) {
		return wrap("stop container", errors.Join(err, kerr))
	}
	return nil
}

// Remove implements task.Controller.
func (c *controller) Remove(ctx context.Context) error {
	c.seen()
	c.attached = false
	return c.e.Remove(ctx, c.id)
}

// inspect finds the task's container; nil when there is none.
func (c *controller) inspect(ctx context.Context) (*container.InspectResponse, error) {
	return c.e.inspect(ctx, c.name, c.id)
}

// inspect finds a container by its name; nil when there is none. One that is not the task's is an error.
func (e *Executor) inspect(ctx context.Context, name, taskID string) (*container.InspectResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	found, err := e.api.ContainerInspect(ctx, name)
	switch {
	case cerrdefs.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, wrap("inspect container", err)
	case found.ContainerJSONBase == nil || found.State == nil || found.Config == nil:
		return nil, fmt.Errorf("inspect container %s: the engine's answer is incomplete", name)
	case !e.owns(found.Config.Labels, taskID):
		return nil, fmt.Errorf("container name %s is taken by a container that is not this task's: remove or rename it", name)
	}
	return &found, nil
}

// removeContainer removes a container with its anonymous volumes, running or not.
func (e *Executor) removeContainer(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err := e.api.ContainerRemove(ctx, id, container.RemoveOptions{Force: true, RemoveVolumes: true})
	switch {
	case err == nil, cerrdefs.IsNotFound(err):
		return nil
	case cerrdefs.IsConflict(err): // somebody else's removal is under way
		return task.Temporary(wrap("remove container", err))
	}
	return wrap("remove container", err)
}

func (e *Executor) removeDir(taskID string) error {
	if err := os.RemoveAll(e.dir(taskID)); err != nil {
		return fmt.Errorf("remove the sandbox's folder: %w", err)
	}
	return nil
}
