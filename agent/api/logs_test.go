package api

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/swarm"
	"github.com/docker/docker/pkg/stdcopy"

	"github.com/meshswarm/meshswarm/raft/state"
)

// engineLog is a log as an engine sends it: frames with a time in front.
func engineLog(lines ...string) []byte {
	var b bytes.Buffer
	for i, l := range lines {
		stream, text, _ := strings.Cut(l, ":")
		kind := stdcopy.Stdout
		if stream == "err" {
			kind = stdcopy.Stderr
		}
		fmt.Fprintf(stdcopy.NewStdWriter(&b, kind), "2026-01-02T03:04:0%d.000000001Z %s\n", i, text)
	}
	return b.Bytes()
}

func readAll(t *testing.T, rc io.ReadCloser) (stdout, stderr string, err error) {
	t.Helper()
	defer rc.Close()
	var o, e bytes.Buffer
	_, err = stdcopy.StdCopy(&o, &e, rc)
	return o.String(), e.String(), err
}

func TestServiceLogs(t *testing.T) {
	fc, c := startManager(t)
	id := create(t, c, spec("web"))
	addTask(t, fc, id, "task1", 1, swarm.TaskStateRunning, swarm.TaskStateRunning)
	addTask(t, fc, id, "task2", 2, swarm.TaskStatePending, swarm.TaskStateRunning)
	var asked LogOptions
	fc.onLogs(func(_ context.Context, node, task string, o LogOptions) (io.ReadCloser, bool, error) {
		asked = o
		if node != testWorker || task != "task1" {
			return nil, false, fmt.Errorf("asked for %s on %s", task, node)
		}
		return io.NopCloser(bytes.NewReader(engineLog("out:one", "err:two"))), false, nil
	})
	opts := container.LogsOptions{ShowStdout: true, ShowStderr: true, Details: true, Timestamps: true, Tail: "5", Since: "2026-01-01T00:00:00Z"}
	rc, err := c.ServiceLogs(t.Context(), "web", opts)
	if err != nil {
		t.Fatal(err)
	}
	out, errs, err := readAll(t, rc)
	details := fmt.Sprintf("com.docker.swarm.node.id=%s,com.docker.swarm.service.id=%s,com.docker.swarm.task.id=task1", testWorker, id)
	if err != nil || out != "2026-01-02T03:04:00.000000001Z "+details+" one\n" || errs != "2026-01-02T03:04:01.000000001Z "+details+" two\n" {
		t.Errorf("%q\n%q\n%v", out, errs, err)
	}
	if asked.Tail != "5" || !strings.HasPrefix(asked.Since, "1767225600.") || !asked.Timestamps || asked.Follow {
		t.Errorf("options: %+v", asked)
	}
	rc, err = c.TaskLogs(t.Context(), "task1", container.LogsOptions{ShowStderr: true})
	if err != nil {
		t.Fatal(err)
	}
	if out, errs, err := readAll(t, rc); err != nil || out != "" || errs != "two\n" {
		t.Errorf("%q %q %v", out, errs, err)
	}
	for tail, want := range map[string]string{"x": "positive integer", "-1": "negative tail"} {
		_, err := c.ServiceLogs(t.Context(), "web", container.LogsOptions{ShowStdout: true, Tail: tail})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("tail %s: %v", tail, err)
		}
	}
}

func TestServiceLogsOfLostNode(t *testing.T) {
	fc, c := startManager(t)
	id := create(t, c, spec("web"))
	addTask(t, fc, id, "task1", 1, swarm.TaskStateRunning, swarm.TaskStateRunning)
	addTask(t, fc, id, "task2", 2, swarm.TaskStateRunning, swarm.TaskStateRunning, func(t *state.Task) { t.NodeID = testNode })
	n := fc.store.View().Node(testWorker).Clone()
	n.Status.State = swarm.NodeStateDown
	fc.change(t, n)
	fc.onLogs(func(context.Context, string, string, LogOptions) (io.ReadCloser, bool, error) {
		return io.NopCloser(bytes.NewReader(engineLog("out:one"))), false, nil
	})
	rc, err := c.ServiceLogs(t.Context(), "web", container.LogsOptions{ShowStdout: true})
	if err != nil {
		t.Fatal(err)
	}
	out, _, err := readAll(t, rc)
	if out != "one\n" || err == nil || !strings.Contains(err.Error(), "incomplete log stream") || !strings.Contains(err.Error(), "node node2 is not available") {
		t.Errorf("%q, %v", out, err)
	}
}

func TestFollowServiceLogs(t *testing.T) {
	fc, c := startManager(t)
	id := create(t, c, spec("web"))
	addTask(t, fc, id, "task1", 1, swarm.TaskStateRunning, swarm.TaskStateRunning)
	var mu sync.Mutex
	writers := map[string]*io.PipeWriter{}
	fc.onLogs(func(_ context.Context, _, task string, _ LogOptions) (io.ReadCloser, bool, error) {
		if task == "lost" {
			return nil, false, errors.New("no session")
		}
		r, w := io.Pipe()
		mu.Lock()
		writers[task] = w
		mu.Unlock()
		return r, false, nil
	})
	writer := func(task string) *io.PipeWriter {
		var w *io.PipeWriter
		waitFor(t, "the log of "+task, func() bool {
			mu.Lock()
			defer mu.Unlock()
			w = writers[task]
			return w != nil
		})
		return w
	}
	ctx, cancel := context.WithCancel(t.Context())
	rc, err := c.ServiceLogs(ctx, "web", container.LogsOptions{ShowStdout: true, ShowStderr: true, Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	lines := make(chan string, 10)
	go func() {
		defer close(lines)
		_, _ = stdcopy.StdCopy(chanWriter(lines), chanWriter(lines), rc)
	}()
	expect := func(want string) {
		t.Helper()
		select {
		case got := <-lines:
			if !strings.Contains(got, want) {
				t.Errorf("%q, want %q", got, want)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("no %q", want)
		}
	}
	if _, err := writer("task1").Write(engineLog("out:first")); err != nil {
		t.Fatal(err)
	}
	expect("first")
	addTask(t, fc, id, "task2", 2, swarm.TaskStateRunning, swarm.TaskStateRunning) // joins the stream
	if _, err := writer("task2").Write(engineLog("out:second")); err != nil {
		t.Fatal(err)
	}
	expect("second")
	addTask(t, fc, id, "lost", 3, swarm.TaskStateRunning, swarm.TaskStateRunning)
	expect("no log: task lost on node node2: no session")
	cancel()
	for range lines {
	}
	waitFor(t, "the node's side to end", func() bool {
		_, err := writer("task2").Write([]byte("x"))
		return errors.Is(err, io.ErrClosedPipe)
	})
}

type chanWriter chan<- string

func (w chanWriter) Write(b []byte) (int, error) {
	w <- string(b)
	return len(b), nil
}

func TestReadLog(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 0, 1, time.UTC)
	bad := make([]byte, frameHeader)
	binary.BigEndian.PutUint32(bad[4:], maxFrame+1)
	for _, tt := range []struct {
		name, in string
		tty      bool
		want     string
		fails    bool
	}{
		{name: "frames", in: string(engineLog("out:a", "err:b")), want: "stdout a\nstderr b\n"},
		{name: "empty"},
		{name: "tty", tty: true, in: at.Format(time.RFC3339Nano) + " a\r\nno time\n", want: "stdout a\r\nstdout no time\n"},
		{name: "long line of a tty", tty: true, in: strings.Repeat("x", maxLine+5), want: "stdout " + strings.Repeat("x", maxLine) + "stdout xxxxx"},
		{name: "cut header", in: "\x01\x00\x00", fails: true},
		{name: "cut body", in: "\x01\x00\x00\x00\x00\x00\x00\x09abc", fails: true},
		{name: "too large", in: string(bad), fails: true},
		{name: "unknown stream", in: "\x07\x00\x00\x00\x00\x00\x00\x01a", fails: true},
		{name: "error of the engine", in: "\x03\x00\x00\x00\x00\x00\x00\x04oops", fails: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got strings.Builder
			err := readLog(strings.NewReader(tt.in), tt.tty, func(source string, _ time.Time, line []byte) error {
				got.WriteString(source + " " + string(line))
				return nil
			})
			if (err != nil) != tt.fails || got.String() != tt.want {
				t.Errorf("%.80q, %v", got.String(), err)
			}
		})
	}
}

func FuzzReadLog(f *testing.F) {
	f.Add(engineLog("out:a", "err:b"), false)
	f.Add([]byte("2026-01-02T03:04:05Z line\n"), true)
	f.Add([]byte("\x01\x00\x00\x00\xff\xff\xff\xff"), false)
	f.Fuzz(func(_ *testing.T, data []byte, tty bool) {
		_ = readLog(bytes.NewReader(data), tty, func(string, time.Time, []byte) error { return nil })
	})
}

func FuzzCopyContainers(f *testing.F) {
	f.Add([]byte(`[{"Id":"a","Labels":{"meshswarm.sandbox":""}},{"Id":"b"}]`), 1)
	f.Add([]byte(`[{`), 0)
	f.Fuzz(func(_ *testing.T, data []byte, limit int) {
		_ = copyContainers(io.Discard, bytes.NewReader(data), limit)
	})
}
