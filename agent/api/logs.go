package api

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/backend"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/swarm"
	timetypes "github.com/docker/docker/api/types/time"

	"github.com/meshswarm/meshswarm/raft/state"
)

// maxLogStreams bounds the tasks of one log request.
const maxLogStreams = 1000

// ServiceLogs implements swarm.Backend. The stream ends when all tasks' logs have ended, or with ctx when following.
func (b *Backend) ServiceLogs(ctx context.Context, sel *backend.LogSelector, o *container.LogsOptions) (<-chan *backend.LogMessage, error) {
	c, v, err := b.view()
	if err != nil {
		return nil, err
	}
	opts, err := b.logOptions(o)
	if err != nil {
		return nil, err
	}
	services, tasks, err := resolveSelector(v, sel)
	if err != nil {
		return nil, fmt.Errorf("error making log selector: %w", err)
	}
	s := &logStream{
		cluster: c, opts: opts, services: services, tasks: tasks,
		out: make(chan *backend.LogMessage, 16), seen: map[string]bool{},
	}
	go s.run(ctx)
	return s.out, nil
}

// logOptions turns what the client sent into what the tasks' engines understand.
func (b *Backend) logOptions(o *container.LogsOptions) (LogOptions, error) {
	out := LogOptions{Follow: o.Follow, Stdout: o.ShowStdout, Stderr: o.ShowStderr, Timestamps: true, Tail: "all"}
	if o.Tail != "" && o.Tail != "all" {
		n, err := strconv.Atoi(o.Tail)
		if err != nil {
			return out, invalid(`tail value must be a positive integer or "all"`)
		}
		if n < 0 {
			return out, invalid("negative tail values not supported")
		}
		out.Tail = o.Tail
	}
	if o.Since != "" {
		ts, err := timetypes.GetTimestamp(o.Since, b.now())
		if err == nil {
			_, _, err = timetypes.ParseTimestamps(ts, 0)
		}
		if err != nil {
			return out, invalid("could not parse since timestamp: %w", err)
		}
		out.Since = ts
	}
	return out, nil
}

func resolveSelector(v state.View, sel *backend.LogSelector) (services, tasks []string, err error) {
	for _, term := range sel.Services {
		s, err := findService(v, term)
		if err != nil {
			return nil, nil, err
		}
		services = append(services, s.ID)
	}
	for _, term := range sel.Tasks {
		t, err := findTask(v, term)
		if err != nil {
			return nil, nil, err
		}
		tasks = append(tasks, t.ID)
	}
	return services, tasks, nil
}

// logStream merges the logs of tasks. run owns all goroutines: they have ended when out is closed.
type logStream struct {
	cluster         Cluster
	opts            LogOptions
	services, tasks []string
	out             chan *backend.LogMessage
	readers         sync.WaitGroup
	seen            map[string]bool // run's

	mu       sync.Mutex
	problems []string
}

func (s *logStream) run(ctx context.Context) {
	defer close(s.out)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if s.opts.Follow {
		s.follow(ctx)
		cancel()
	} else {
		s.start(ctx, s.cluster.Store().View())
	}
	s.readers.Wait()
	// Docker's client ends at the first error record, so it comes last.
	if len(s.problems) > 0 {
		slices.Sort(s.problems)
		s.send(ctx, &backend.LogMessage{Err: fmt.Errorf("warning: incomplete log stream. some logs could not be retrieved for the following reasons: %s",
			strings.Join(s.problems, ", "))})
	}
}

// follow starts the tasks there are and those that come, until ctx ends or, for single tasks, until all have ended.
func (s *logStream) follow(ctx context.Context) {
	if len(s.services) == 0 {
		ended := make(chan struct{})
		s.start(ctx, s.cluster.Store().View())
		go func() {
			defer close(ended)
			s.readers.Wait()
		}()
		select {
		case <-ended:
		case <-ctx.Done():
			<-ended
		}
		return
	}
	for ctx.Err() == nil {
		err := s.watch(ctx)
		if err != nil && !errors.Is(err, state.ErrLagged) {
			return
		}
	}
}

// watch starts tasks until the watch fails.
func (s *logStream) watch(ctx context.Context) error {
	v, w := s.cluster.Store().ViewAndWatch()
	defer w.Close()
	s.start(ctx, v)
	for {
		commits, err := w.Next(ctx)
		if err != nil {
			return err
		}
		for _, commit := range commits {
			for _, ch := range commit.Changes {
				if t, ok := ch.New.(*state.Task); ok && slices.Contains(s.services, t.ServiceID) {
					s.startTask(ctx, s.cluster.Store().View(), t)
				}
			}
		}
	}
}

func (s *logStream) start(ctx context.Context, v state.View) {
	for _, id := range s.services {
		for _, t := range v.TasksByService(id) {
			s.startTask(ctx, v, t)
		}
	}
	for _, id := range s.tasks {
		if t := v.Task(id); t != nil {
			s.startTask(ctx, v, t)
		}
	}
}

// hasLog tells whether a task has, or had, a container that was started.
func hasLog(t *state.Task) bool {
	if t.NodeID == "" || t.DesiredState == swarm.TaskStateRemove && state.Terminal(t.Status.State) {
		return false
	}
	switch t.Status.State {
	case swarm.TaskStateStarting, swarm.TaskStateRunning:
		return true
	}
	return state.Terminal(t.Status.State) && t.Status.ContainerStatus != nil && t.Status.ContainerStatus.ContainerID != ""
}

func (s *logStream) startTask(ctx context.Context, v state.View, t *state.Task) {
	if s.seen[t.ID] || !hasLog(t) {
		return
	}
	s.seen[t.ID] = true
	if len(s.seen) > maxLogStreams {
		if len(s.seen) == maxLogStreams+1 {
			s.problem(ctx, t, fmt.Sprintf("more than %d tasks", maxLogStreams))
		}
		return
	}
	node := v.Node(t.NodeID)
	name := t.NodeID
	if node != nil {
		name = nodeName(node)
		if node.Status.State == swarm.NodeStateDown {
			s.problem(ctx, t, fmt.Sprintf("node %s is not available", name))
			return
		}
	}
	s.readers.Go(func() { s.read(ctx, t, name) })
}

// read copies one task's log.
func (s *logStream) read(ctx context.Context, t *state.Task, nodeName string) {
	stream, tty, err := s.cluster.Logs(ctx, t.NodeID, t.ID, s.opts)
	if err != nil {
		if ctx.Err() == nil && !(cerrdefs.IsNotFound(err) && state.Terminal(t.Status.State)) {
			s.problem(ctx, t, fmt.Sprintf("task %s on node %s: %v", t.ID, nodeName, err))
		}
		return
	}
	unblock := context.AfterFunc(ctx, func() { stream.Close() })
	defer unblock()
	defer stream.Close()
	attrs := logAttrs(t)
	err = readLog(stream, tty, func(source string, at time.Time, line []byte) error {
		// Docker's writer sorts Attrs in place: each message needs its own.
		if !s.send(ctx, &backend.LogMessage{Source: source, Timestamp: at, Line: line, Attrs: slices.Clone(attrs)}) {
			return context.Cause(ctx)
		}
		return nil
	})
	if err != nil && ctx.Err() == nil {
		s.problem(ctx, t, fmt.Sprintf("task %s on node %s: %v", t.ID, nodeName, err))
	}
}

// logAttrs are what Docker's client needs to name a line's origin.
func logAttrs(t *state.Task) []backend.LogAttr {
	return []backend.LogAttr{
		{Key: "com.docker.swarm.node.id", Value: t.NodeID},
		{Key: "com.docker.swarm.service.id", Value: t.ServiceID},
		{Key: "com.docker.swarm.task.id", Value: t.ID},
	}
}

func (s *logStream) send(ctx context.Context, m *backend.LogMessage) bool {
	select {
	case s.out <- m:
		return true
	case <-ctx.Done():
		return false
	}
}

// problem reports logs that cannot be had. A followed stream gets a line in the task's name and goes on.
func (s *logStream) problem(ctx context.Context, t *state.Task, what string) {
	if !s.opts.Follow {
		s.mu.Lock()
		s.problems = append(s.problems, what)
		s.mu.Unlock()
		return
	}
	m := &backend.LogMessage{Source: "stderr", Timestamp: time.Now(), Attrs: logAttrs(t), Line: []byte("no log: " + what + "\n")}
	if !s.opts.Stderr {
		m.Source = "stdout"
	}
	s.send(ctx, m)
}
