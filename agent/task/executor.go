package task

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

// Executor is a way to run tasks on this node.
type Executor interface {
	// Describe tells what the node is and has. An error means that the runtime cannot be reached.
	Describe(ctx context.Context) (swarm.NodeDescription, error)
	// Controller returns the one that runs a task. It does no IO. An error rejects the task.
	Controller(t state.AssignedTask) (Controller, error)
	// Leftovers lists the IDs of tasks of this node that the runtime still has something of.
	Leftovers(ctx context.Context) ([]string, error)
	// Remove removes all that is left of a task, running or not. It may be called for a task that does not exist.
	Remove(ctx context.Context, taskID string) error
	// Logs streams a task's output: raw when tty is true, else in the frames of Docker's stdcopy. os.ErrNotExist when the
	// node has nothing of the task.
	Logs(ctx context.Context, taskID string, o LogOptions) (r io.ReadCloser, tty bool, err error)
}

// Controller runs one task. Calls are made one at a time, except that Status may be called at any time, and any of them by
// a new Controller for the same task after a restart of the agent: each adopts what is already there. A cancelled ctx ends
// a call early; what it began is adopted by the next.
type Controller interface {
	// Prepare makes the task ready to start: image, sandbox, network, container.
	Prepare(ctx context.Context) error
	// Start starts the task and returns when it runs, and is healthy where it has a health check.
	Start(ctx context.Context) error
	// Wait returns when the task ended: nil after exit code 0, an *ExitError after another, any other error when the task
	// was ended because something it needs is gone. What it ended is stopped when it returns.
	Wait(ctx context.Context) error
	// Shutdown stops what runs (stop signal, grace period, kill) and frees the task's network. It is also called after a
	// task ended by itself. Its output stays readable.
	Shutdown(ctx context.Context) error
	// Remove removes everything, running or not.
	Remove(ctx context.Context) error
	// Status describes the container, nil while there is none.
	Status(ctx context.Context) (*swarm.ContainerStatus, error)
}

// LogOptions choose what Logs streams. The fields are those of Docker's container logs.
type LogOptions struct {
	Stdout, Stderr, Follow, Timestamps, Details bool
	Since                                       time.Time
	// Tail is the number of lines from the end; negative for all.
	Tail int
}

// ErrTemporary is wrapped by errors after which the same call may succeed later, such as an engine that is away.
var ErrTemporary = errors.New("temporary")

// Temporary makes err match ErrTemporary and keeps its text.
func Temporary(err error) error {
	if err == nil || errors.Is(err, ErrTemporary) {
		return err
	}
	return temporary{err}
}

type temporary struct{ error }

func (t temporary) Unwrap() []error { return []error{t.error, ErrTemporary} }

// ExitError tells that a task ended with an exit code other than 0. The text is Swarm's.
type ExitError struct {
	Code int
	// Cause is what brought the exit about, when that is known.
	Cause error
}

func (e *ExitError) Error() string {
	if e.Cause != nil {
		return fmt.Sprintf("task: non-zero exit (%d): %v", e.Code, e.Cause)
	}
	return fmt.Sprintf("task: non-zero exit (%d)", e.Code)
}

func (e *ExitError) Unwrap() error { return e.Cause }
