package task_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/swarm"
	"go.uber.org/goleak"

	"github.com/meshswarm/meshswarm/agent/task"
	"github.com/meshswarm/meshswarm/agent/task/tasktest"
	"github.com/meshswarm/meshswarm/raft/state"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// xor stands for the node's sealer.
type xor struct{}

func (xor) Seal(_, plain []byte) []byte {
	out := make([]byte, len(plain))
	for i := range plain {
		out[i] = plain[i] ^ 0x55
	}
	return out
}

func (x xor) Open(ad, sealed []byte) ([]byte, error) { return x.Seal(ad, sealed), nil }

// node is a worker over several lives, and what it reported.
type node struct {
	t      *testing.T
	engine *tasktest.Engine
	dir    string
	w      *task.Worker
	drain  func(context.Context, state.AssignedTask) error // for the next life
	stop   func()

	mu      sync.Mutex
	reports map[string][]swarm.TaskStatus
}

func newNode(t *testing.T) *node {
	n := &node{t: t, engine: tasktest.NewEngine(), dir: t.TempDir(), stop: func() {}, reports: map[string][]swarm.TaskStatus{}}
	n.start()
	t.Cleanup(func() { n.stop() })
	return n
}

func (n *node) start() {
	n.t.Helper()
	n.stop()
	w, err := task.NewWorker(task.Config{
		Executor: n.engine.Executor(), Report: n.report, Dir: n.dir, Sealer: xor{}, Retry: 10 * time.Millisecond, Drain: n.drain,
	})
	if err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	n.w, n.stop = w, func() {
		cancel()
		if err := <-ended; err != nil {
			n.t.Error(err)
		}
		n.stop = func() {}
	}
}

func (n *node) report(id string, st swarm.TaskStatus) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.reports[id] = append(n.reports[id], st)
}

// told lists what was reported of a task: "state message[: err]".
func (n *node) told(id string) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []string
	for _, st := range n.reports[id] {
		line := string(st.State) + " " + st.Message
		if st.Err != "" {
			line += ": " + st.Err
		}
		out = append(out, line)
	}
	return out
}

func (n *node) wait(id, last string) {
	n.t.Helper()
	n.poll(func() string {
		if got := n.told(id); len(got) == 0 || got[len(got)-1] != last {
			return fmt.Sprintf("reported %q, want %q", got, last)
		}
		return ""
	})
}

func (n *node) poll(f func() string) {
	n.t.Helper()
	last := ""
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if last = f(); last == "" {
			return
		}
	}
	n.t.Fatal(last)
}

func (n *node) assign(tasks ...state.AssignedTask) {
	all := map[string]state.AssignedTask{}
	for _, t := range tasks {
		all[t.Task.ID] = t
	}
	n.w.Assign(all)
}

func desired(t state.AssignedTask, s swarm.TaskState) state.AssignedTask {
	t.Task.DesiredState = s
	return t
}

var ladder = []string{"accepted accepted", "preparing preparing", "ready prepared", "starting starting", "running started"}

func TestLadder(t *testing.T) {
	health := &container.HealthConfig{Test: []string{"CMD", "/program", "check", "/f"}}
	for _, c := range []struct {
		name string
		make func(*state.AssignedTask)
		args []string
		want []string
	}{
		{"runs", nil, []string{"run"}, ladder},
		{"completes", nil, []string{"exit", "0"}, append(slices.Clone(ladder), "complete finished")},
		{"fails", nil, []string{"exit", "3"}, append(slices.Clone(ladder[:4]), "failed starting: task: non-zero exit (3)")},
		{"is unhealthy", func(a *state.AssignedTask) { a.Spec.ContainerSpec.Healthcheck = health }, []string{"run"},
			append(slices.Clone(ladder[:4]), "failed starting: task: non-zero exit (137): dockerexec: unhealthy container")},
		{"is held", func(a *state.AssignedTask) { a.Task.DesiredState = swarm.TaskStateReady }, []string{"run"}, ladder[:3]},
		{"has no image", func(a *state.AssignedTask) { a.Spec.ContainerSpec.Image = "other" }, []string{"run"},
			append(slices.Clone(ladder[:2]), "rejected preparing: image other: not on this node and cannot be pulled: there is no registry")},
		{"asks for secrets", func(a *state.AssignedTask) { a.Spec.ContainerSpec.Secrets = []*swarm.SecretReference{{}} }, []string{"run"},
			[]string{"rejected : secrets are not supported yet"}},
		{"is a job", func(a *state.AssignedTask) { a.Task.DesiredState = swarm.TaskStateComplete }, []string{"exit", "0"},
			append(slices.Clone(ladder), "complete finished")},
		{"is a job that fails", func(a *state.AssignedTask) { a.Task.DesiredState = swarm.TaskStateComplete }, []string{"exit", "3"},
			append(slices.Clone(ladder[:4]), "failed starting: task: non-zero exit (3)")},
		{"is stopped before it began", func(a *state.AssignedTask) { a.Task.DesiredState = swarm.TaskStateShutdown }, []string{"run"},
			[]string{"shutdown shutdown"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n, at := newNode(t), tasktest.NewTask(c.args...)
			if c.make != nil {
				c.make(&at)
			}
			n.assign(at)
			n.wait(at.Task.ID, c.want[len(c.want)-1])
			if got := n.told(at.Task.ID); !slices.Equal(got, c.want) {
				t.Errorf("reported %q, want %q", got, c.want)
			}
		})
	}
}

func TestHeldTaskStarts(t *testing.T) {
	n, at := newNode(t), tasktest.NewTask("run")
	n.assign(desired(at, swarm.TaskStateReady))
	n.wait(at.Task.ID, "ready prepared")
	n.assign(at)
	n.wait(at.Task.ID, "running started")
}

func TestShutdownAndRemove(t *testing.T) {
	n, at := newNode(t), tasktest.NewTask("run")
	n.assign(at)
	n.wait(at.Task.ID, "running started")
	n.assign(desired(at, swarm.TaskStateShutdown))
	n.wait(at.Task.ID, "shutdown shutdown")
	if n.engine.Running(at.Task.ID) || n.engine.HasSandbox(at.Task.ID) {
		t.Error("the task goes on")
	}
	if left, _ := n.engine.Executor().Leftovers(t.Context()); len(left) != 1 {
		t.Error("a stopped task's container is gone before its task")
	}
	n.assign()
	n.poll(func() string {
		if left, _ := n.engine.Executor().Leftovers(t.Context()); len(left) != 0 || len(n.w.Statuses()) != 0 {
			return fmt.Sprintf("left: %v, statuses %v", left, n.w.Statuses())
		}
		return ""
	})
}

// A running task that leaves the assignment is stopped and removed.
func TestUnassigned(t *testing.T) {
	n, at := newNode(t), tasktest.NewTask("run")
	n.assign(at)
	n.wait(at.Task.ID, "running started")
	n.assign()
	n.poll(func() string {
		if left, _ := n.engine.Executor().Leftovers(t.Context()); len(left) != 0 {
			return fmt.Sprint("left: ", left)
		}
		return ""
	})
}

func TestEndsFreeTheNetwork(t *testing.T) {
	n, at := newNode(t), tasktest.NewTask("run")
	n.assign(at)
	n.wait(at.Task.ID, "running started")
	n.engine.Exit(at.Task.ID, 1)
	n.wait(at.Task.ID, "failed started: task: non-zero exit (1)")
	if n.engine.HasSandbox(at.Task.ID) {
		t.Error("the sandbox outlives its task")
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	last := n.reports[at.Task.ID][len(n.reports[at.Task.ID])-1]
	if last.ContainerStatus == nil || last.ContainerStatus.ExitCode != 1 || last.ContainerStatus.ContainerID == "" || last.Timestamp.IsZero() {
		t.Errorf("last report: %+v", last)
	}
}

func TestSandboxDies(t *testing.T) {
	n, at := newNode(t), tasktest.NewTask("run")
	n.assign(at)
	n.wait(at.Task.ID, "running started")
	n.engine.KillSandbox(at.Task.ID)
	n.wait(at.Task.ID, "failed started: sandbox died: exit code 137")
}

func TestEngineAway(t *testing.T) {
	n, at := newNode(t), tasktest.NewTask("run")
	n.engine.SetAway(true)
	n.assign(at)
	n.wait(at.Task.ID, "preparing preparing: cannot connect to the engine")
	n.engine.SetAway(false)
	n.wait(at.Task.ID, "running started")
	n.engine.SetAway(true)
	n.wait(at.Task.ID, "running started: cannot connect to the engine")
	n.engine.SetAway(false)
	n.wait(at.Task.ID, "running started")
	n.engine.SetAway(true)
	n.assign(desired(at, swarm.TaskStateShutdown))
	n.wait(at.Task.ID, "running started: cannot connect to the engine")
	n.engine.SetAway(false)
	n.wait(at.Task.ID, "shutdown shutdown")
}

// A restarted agent goes on where it was, from its own record or from what the managers know.
func TestRestart(t *testing.T) {
	n, at := newNode(t), tasktest.NewTask("run")
	n.assign(at)
	n.wait(at.Task.ID, "running started")
	before := len(n.told(at.Task.ID))
	n.start()
	n.assign(at) // the managers last heard of ASSIGNED
	n.poll(func() string {
		if got := n.told(at.Task.ID)[before:]; !slices.Equal(got, []string{"running started"}) {
			return fmt.Sprintf("reported %q again", got)
		}
		return ""
	})
	n.stop()
	if err := os.Remove(filepath.Join(n.dir, "tasks.sealed")); err != nil {
		t.Fatal(err)
	}
	n.start()
	at.Task.Status.State = swarm.TaskStateRunning
	n.assign(at)
	n.engine.Exit(at.Task.ID, 2)
	n.wait(at.Task.ID, "failed : task: non-zero exit (2)")
}

func TestUnusableRecord(t *testing.T) {
	n := newNode(t)
	n.stop()
	if err := os.WriteFile(filepath.Join(n.dir, "tasks.sealed"), []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	n.start()
	at := tasktest.NewTask("run")
	n.assign(at)
	n.wait(at.Task.ID, "running started")
}

func TestRecordIsSealed(t *testing.T) {
	n, at := newNode(t), tasktest.NewTask("run")
	n.assign(at)
	n.wait(at.Task.ID, "running started")
	n.stop()
	b, err := os.ReadFile(filepath.Join(n.dir, "tasks.sealed"))
	if err != nil || strings.Contains(string(b), at.Task.ID) {
		t.Errorf("%v, or the record is in clear", err)
	}
}

// What earlier lives left behind is removed, but only once the node knows its assignment.
func TestLeftovers(t *testing.T) {
	n, left, kept := newNode(t), tasktest.NewTask("run"), tasktest.NewTask("run")
	n.assign(left, kept)
	n.wait(left.Task.ID, "running started")
	n.wait(kept.Task.ID, "running started")
	n.start()
	if !n.engine.Running(left.Task.ID) {
		t.Fatal("a restart stopped a task")
	}
	n.assign(kept)
	n.poll(func() string {
		if ids, _ := n.engine.Executor().Leftovers(t.Context()); !slices.Equal(ids, []string{kept.Task.ID}) {
			return fmt.Sprint("left: ", ids)
		}
		return ""
	})
}

func TestStop(t *testing.T) {
	n, a, b := newNode(t), tasktest.NewTask("run"), tasktest.NewTask("run")
	n.assign(a, b)
	n.wait(a.Task.ID, "running started")
	n.wait(b.Task.ID, "running started")
	n.engine.SetAway(true)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := n.w.Stop(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), a.Task.ID) {
		t.Errorf("engine away: %v", err)
	}
	n.engine.SetAway(false)
	if err := n.w.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n.engine.Running(a.Task.ID) || n.engine.Running(b.Task.ID) {
		t.Error("a task goes on")
	}
	n.wait(a.Task.ID, "shutdown shutdown")
}

func TestNewWorkerChecks(t *testing.T) {
	if _, err := task.NewWorker(task.Config{}); err == nil {
		t.Error("a worker without executor")
	}
	if _, err := task.NewWorker(task.Config{Executor: tasktest.NewEngine().Executor(), Dir: "/nowhere"}); err == nil {
		t.Error("a record without sealer")
	}
}
