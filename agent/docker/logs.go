package docker

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"time"

	"github.com/docker/docker/api/types/container"

	"github.com/meshswarm/meshswarm/agent/task"
)

// Logs implements task.Executor.
func (e *Executor) Logs(ctx context.Context, taskID string, o task.LogOptions) (r io.ReadCloser, tty bool, err error) {
	list, err := e.list(ctx, taskID)
	if err != nil {
		return nil, false, err
	}
	for _, c := range list {
		if _, ok := c.Labels[LabelSandbox]; ok {
			continue
		}
		found, err := e.api.ContainerInspect(ctx, c.ID)
		if err != nil {
			return nil, false, wrap("inspect container", err)
		}
		body, err := e.api.ContainerLogs(ctx, c.ID, logOptions(o))
		if err != nil {
			return nil, false, wrap("read logs", err)
		}
		return body, found.Config != nil && found.Config.Tty, nil
	}
	return nil, false, fmt.Errorf("logs of task %s: this node has no container of it: %w", taskID, fs.ErrNotExist)
}

func logOptions(o task.LogOptions) container.LogsOptions {
	out := container.LogsOptions{
		ShowStdout: o.Stdout, ShowStderr: o.Stderr, Follow: o.Follow, Timestamps: o.Timestamps, Details: o.Details, Tail: "all",
	}
	if o.Tail >= 0 {
		out.Tail = strconv.Itoa(o.Tail)
	}
	if !o.Since.IsZero() {
		out.Since = o.Since.Format(time.RFC3339Nano)
	}
	return out
}
