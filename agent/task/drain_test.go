package task_test

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/agent/task/tasktest"
	"github.com/meshswarm/meshswarm/raft/state"
)

// drains is a Drain that tells of its calls and ends when it is told to, or with its context.
type drains struct {
	begun chan state.AssignedTask
	end   chan error
	ended chan error // why the context ended
}

func newDrains() *drains {
	return &drains{begun: make(chan state.AssignedTask, 10), end: make(chan error), ended: make(chan error, 10)}
}

func (d *drains) drain(ctx context.Context, t state.AssignedTask) error {
	d.begun <- t
	select {
	case err := <-d.end:
		return err
	case <-ctx.Done():
		d.ended <- context.Cause(ctx)
		return context.Cause(ctx)
	}
}

// drained starts a node with a running task in a network.
func drained(t *testing.T, grace time.Duration) (*node, *drains, state.AssignedTask) {
	t.Helper()
	n, d, at := newNode(t), newDrains(), networked("run")
	at.Spec.ContainerSpec.StopGracePeriod = &grace
	n.drain = d.drain
	n.start()
	n.assign(at)
	n.wait(at.Task.ID, "running started")
	return n, d, at
}

func networked(args ...string) state.AssignedTask {
	at := tasktest.NewTask(args...)
	at.Task.Networks = []state.Attachment{{NetworkID: "n", Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.1.2/24")}}}
	return at
}

func within[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(10 * time.Second):
		t.Fatal("not in time: ", what)
	}
	panic("unreachable")
}

// A task that is told to stop goes on until it is drained, whatever the drain says at its end.
func TestDrain(t *testing.T) {
	for name, err := range map[string]error{"drained": nil, "a drain that fails": errors.New("nobody answers")} {
		t.Run(name, func(t *testing.T) {
			n, d, at := drained(t, time.Minute)
			at.Task.Modified = 7
			n.assign(desired(at, swarm.TaskStateShutdown))
			if got := within(t, "drain", d.begun); got.Task.Modified != 7 || got.Task.DesiredState != swarm.TaskStateShutdown {
				t.Errorf("drain was told of %+v", got.Task)
			}
			at.Task.Modified = 9 // what else happens to it does not start another drain
			n.assign(desired(at, swarm.TaskStateRemove))
			if !n.engine.Running(at.Task.ID) {
				t.Error("the task was stopped before it was drained")
			}
			d.end <- err
			n.wait(at.Task.ID, "shutdown shutdown")
			if len(d.begun) != 0 {
				t.Error("a second drain")
			}
		})
	}
}

// The grace period bounds the drain.
func TestDrainIsBounded(t *testing.T) {
	n, d, at := drained(t, 50*time.Millisecond)
	n.assign(desired(at, swarm.TaskStateShutdown))
	within(t, "drain", d.begun)
	within(t, "end of the drain", d.ended)
	n.wait(at.Task.ID, "shutdown shutdown")
}

// When the node stops, or nobody knows the task any more, a drain that runs is cut short.
func TestDrainIsHurried(t *testing.T) {
	n, d, at := drained(t, time.Hour)
	n.assign(desired(at, swarm.TaskStateShutdown))
	within(t, "drain", d.begun)
	if err := n.w.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	within(t, "end of the drain", d.ended)
	n.wait(at.Task.ID, "shutdown shutdown")

	n, d, at = drained(t, time.Hour)
	n.assign(desired(at, swarm.TaskStateShutdown))
	within(t, "drain", d.begun)
	n.assign()
	within(t, "end of the drain", d.ended)
	n.poll(func() string {
		if left, _ := n.engine.Executor().Leftovers(t.Context()); len(left) != 0 {
			return "the task is left"
		}
		return ""
	})
}

// An agent that ends leaves the task running; its next life drains it anew.
func TestDrainAfterRestart(t *testing.T) {
	n, d, at := drained(t, time.Hour)
	n.assign(desired(at, swarm.TaskStateShutdown))
	within(t, "drain", d.begun)
	n.start()
	if !n.engine.Running(at.Task.ID) {
		t.Fatal("the end of the agent stopped the task")
	}
	n.assign(desired(at, swarm.TaskStateShutdown))
	within(t, "second drain", d.begun)
	d.end <- nil
	n.wait(at.Task.ID, "shutdown shutdown")
}

// What has no network, or does not run yet, has no flows.
func TestNothingToDrain(t *testing.T) {
	n, d := newNode(t), newDrains()
	n.drain = d.drain
	n.start()
	alone, held := tasktest.NewTask("run"), networked("run")
	n.assign(alone, desired(held, swarm.TaskStateReady))
	n.wait(alone.Task.ID, "running started")
	n.wait(held.Task.ID, "ready prepared")
	n.assign(desired(alone, swarm.TaskStateShutdown), desired(held, swarm.TaskStateShutdown))
	n.wait(alone.Task.ID, "shutdown shutdown")
	n.wait(held.Task.ID, "shutdown shutdown")
	if len(d.begun) != 0 {
		t.Error("a task without flows was drained")
	}
}
