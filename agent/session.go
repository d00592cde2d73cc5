package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	timetypes "github.com/docker/docker/api/types/time"

	"github.com/meshswarm/meshswarm/agent/dispatch"
	"github.com/meshswarm/meshswarm/agent/task"
	"github.com/meshswarm/meshswarm/raft/state"
)

// sessionHandler is what a session does to the node: dispatch.Handler.
type sessionHandler struct {
	plane    *plane
	executor task.Executor
}

// Assign implements dispatch.Handler.
func (h sessionHandler) Assign(a state.Assignments, inForce func()) { h.plane.assign(a, inForce) }

// Logs implements dispatch.Handler.
func (h sessionHandler) Logs(ctx context.Context, req dispatch.LogRequest) (io.ReadCloser, error) {
	if _, ok := h.plane.get().Tasks[req.TaskID]; !ok {
		return nil, fmt.Errorf("task %s is not on this node", req.TaskID)
	}
	o, err := logOptions(req)
	if err != nil {
		return nil, err
	}
	out, _, err := h.executor.Logs(ctx, req.TaskID, o)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("task %s has no output on this node", req.TaskID)
	}
	return out, err
}

// logOptions reads Docker's form of log options.
func logOptions(req dispatch.LogRequest) (task.LogOptions, error) {
	in := req.Options
	o := task.LogOptions{Stdout: in.ShowStdout, Stderr: in.ShowStderr, Follow: in.Follow, Timestamps: in.Timestamps, Tail: -1}
	if in.Tail != "" && in.Tail != "all" {
		n, err := strconv.Atoi(in.Tail)
		if err != nil || n < 0 {
			return o, fmt.Errorf("tail %q is neither a number of lines nor all", in.Tail)
		}
		o.Tail = n
	}
	if in.Since != "" {
		s, ns, err := timetypes.ParseTimestamps(in.Since, 0)
		if err != nil {
			return o, fmt.Errorf("since %q: %w", in.Since, err)
		}
		o.Since = time.Unix(s, ns)
	}
	return o, nil
}
