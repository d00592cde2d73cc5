package tasktest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/swarm"
	"github.com/docker/docker/pkg/stdcopy"

	"github.com/meshswarm/meshswarm/agent/task"
	"github.com/meshswarm/meshswarm/raft/state"
)

// Image is the image that the suite's tasks run. Its entrypoint understands: run (until SIGTERM), stubborn (ignores
// SIGTERM), exit N, say TEXT (on standard output, then run), sick FILE (has FILE until SIGHUP), check FILE (is it there).
const Image = "meshswarm-test/program:latest"

// Subject is an executor under test.
type Subject struct {
	// New starts another life of the agent on the same runtime. The lives before it have ended.
	New func(t *testing.T) task.Executor
	// KillSandbox ends the sandbox of a task; Sicken makes a "sick" program unhealthy.
	KillSandbox, Sicken func(t *testing.T, taskID string)
	// SetAway makes the runtime unreachable. Optional.
	SetAway func(away bool)
}

// NewTask returns a task that runs the suite's program.
func NewTask(args ...string) state.AssignedTask {
	grace := time.Second
	return state.AssignedTask{
		Task: state.Task{
			ID: state.NewID(), ServiceID: "service1", ServiceName: "web", Slot: 1, NodeID: "node1",
			DesiredState: swarm.TaskStateRunning, Status: swarm.TaskStatus{State: swarm.TaskStateAssigned},
		},
		Spec: swarm.TaskSpec{ContainerSpec: &swarm.ContainerSpec{Image: Image, Args: args, StopGracePeriod: &grace}},
	}
}

// Suite tests what every executor has to do.
func Suite(t *testing.T, s Subject) {
	for _, c := range []struct {
		name string
		test func(*testing.T, Subject)
	}{
		{"life", testLife}, {"exit code", testExit}, {"health", testHealth}, {"stubborn", testStubborn}, {"sandbox dies", testSandbox},
		{"adopt", testAdopt}, {"cancelled wait", testCancel}, {"refused", testRefused}, {"leftovers", testLeftovers}, {"logs", testLogs},
		{"describe", testDescribe}, {"away", testAway},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, s) })
	}
}

// started prepares and starts a task, and removes it at the end of the test.
func started(t *testing.T, e task.Executor, at state.AssignedTask) task.Controller {
	t.Helper()
	c := made(t, e, at)
	must(t, "prepare", c.Prepare(t.Context()))
	must(t, "start", c.Start(t.Context()))
	return c
}

func made(t *testing.T, e task.Executor, at state.AssignedTask) task.Controller {
	t.Helper()
	c, err := e.Controller(at)
	must(t, "controller", err)
	t.Cleanup(func() {
		if err := c.Remove(context.Background()); err != nil {
			t.Errorf("remove: %v", err)
		}
	})
	return c
}

func must(t *testing.T, doing string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", doing, err)
	}
}

func status(t *testing.T, c task.Controller) swarm.ContainerStatus {
	t.Helper()
	st, err := c.Status(t.Context())
	must(t, "status", err)
	if st == nil {
		t.Fatal("status: there is no container")
	}
	return *st
}

func testLife(t *testing.T, s Subject) {
	e, at := s.New(t), NewTask("say", "hello")
	c := made(t, e, at)
	if st, err := c.Status(t.Context()); err != nil || st != nil {
		t.Errorf("status before prepare: %v, %v", st, err)
	}
	for range 2 { // every call may be made again
		must(t, "prepare", c.Prepare(t.Context()))
	}
	if st := status(t, c); st.ContainerID == "" || st.PID != 0 {
		t.Errorf("status when prepared: %+v", st)
	}
	for range 2 {
		must(t, "start", c.Start(t.Context()))
	}
	if st := status(t, c); st.PID == 0 {
		t.Errorf("status when running: %+v", st)
	}
	poll(t, func() string { return saidHello(t, e, at.Task.ID) }) // it has its signal handler
	for range 2 {
		must(t, "shutdown", c.Shutdown(t.Context()))
	}
	if st := status(t, c); st.PID != 0 || st.ExitCode != 0 {
		t.Errorf("status after shutdown: %+v", st)
	}
	for range 2 {
		must(t, "remove", c.Remove(t.Context()))
	}
	if st, err := c.Status(t.Context()); err != nil || st != nil {
		t.Errorf("status after remove: %v, %v", st, err)
	}
}

func testExit(t *testing.T, s Subject) {
	e := s.New(t)
	c := started(t, e, NewTask("exit", "0"))
	if err := c.Wait(t.Context()); err != nil {
		t.Errorf("exit code 0: %v", err)
	}
	c = made(t, e, NewTask("exit", "3"))
	must(t, "prepare", c.Prepare(t.Context()))
	err := c.Start(t.Context())
	if err == nil {
		err = c.Wait(t.Context())
	}
	var exit *task.ExitError
	if !errors.As(err, &exit) || exit.Code != 3 || err.Error() != "task: non-zero exit (3)" {
		t.Errorf("exit code 3: %v", err)
	}
	if st := status(t, c); st.ExitCode != 3 {
		t.Errorf("status: %+v", st)
	}
	must(t, "shutdown after the end", c.Shutdown(t.Context()))
}

func testHealth(t *testing.T, s Subject) {
	e := s.New(t)
	check := func(file string) *container.HealthConfig {
		return &container.HealthConfig{Test: []string{"CMD", "/program", "check", file}, Interval: 100 * time.Millisecond, Timeout: 5 * time.Second, Retries: 2}
	}
	never := NewTask("run")
	never.Spec.ContainerSpec.Healthcheck = check("/never")
	c := made(t, e, never)
	must(t, "prepare", c.Prepare(t.Context()))
	if err := c.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "unhealthy container") {
		t.Errorf("a container that is never healthy: %v", err)
	}
	if st := status(t, c); st.PID != 0 {
		t.Errorf("an unhealthy container goes on: %+v", st)
	}

	sick := NewTask("sick", "/health")
	sick.Spec.ContainerSpec.Healthcheck = check("/health")
	c = started(t, e, sick)
	ended := waitFor(t, c)
	s.Sicken(t, sick.Task.ID)
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "unhealthy container") {
		t.Errorf("a container that becomes unhealthy: %v", err)
	}
}

func waitFor(t *testing.T, c task.Controller) <-chan error {
	ended := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	go func() {
		defer cancel()
		ended <- c.Wait(ctx)
	}()
	return ended
}

func testStubborn(t *testing.T, s Subject) {
	c := started(t, s.New(t), NewTask("stubborn"))
	begin := time.Now()
	must(t, "shutdown", c.Shutdown(t.Context()))
	if took := time.Since(begin); took > 9*time.Second {
		t.Errorf("shutdown took %v with a grace period of 1 s", took)
	}
	if st := status(t, c); st.PID != 0 || st.ExitCode != 137 {
		t.Errorf("status: %+v", st)
	}
}

func testSandbox(t *testing.T, s Subject) {
	at := NewTask("run")
	c := started(t, s.New(t), at)
	ended := waitFor(t, c)
	s.KillSandbox(t, at.Task.ID)
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "sandbox died") {
		t.Errorf("wait: %v", err)
	}
	if st := status(t, c); st.PID != 0 {
		t.Errorf("the task goes on: %+v", st)
	}
}

func testAdopt(t *testing.T, s Subject) {
	at := NewTask("say", "hello")
	before := status(t, started(t, s.New(t), at))

	e := s.New(t)
	poll(t, func() string { return saidHello(t, e, at.Task.ID) })
	c, err := e.Controller(at)
	must(t, "controller", err)
	ended := waitFor(t, c)
	if now := status(t, c); now != before {
		t.Errorf("another container: %+v, was %+v", now, before)
	}
	other, err := e.Controller(at)
	must(t, "controller", err)
	must(t, "prepare", other.Prepare(t.Context()))
	must(t, "start", other.Start(t.Context()))
	must(t, "shutdown", other.Shutdown(t.Context()))
	if err := <-ended; err != nil {
		t.Errorf("wait: %v", err)
	}
}

func testCancel(t *testing.T, s Subject) {
	c := started(t, s.New(t), NewTask("run"))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := c.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("wait: %v", err)
	}
	if st := status(t, c); st.PID == 0 {
		t.Errorf("cancelling wait stopped the task: %+v", st)
	}
}

func testRefused(t *testing.T, s Subject) {
	e := s.New(t)
	secret := NewTask("run")
	secret.Spec.ContainerSpec.Secrets = []*swarm.SecretReference{{SecretName: "s"}}
	if _, err := e.Controller(secret); err == nil || !strings.Contains(err.Error(), "secrets are not supported yet") {
		t.Errorf("secrets: %v", err)
	}
	missing := NewTask("run")
	missing.Spec.ContainerSpec.Image = "127.0.0.1:1/no/such:image"
	err := made(t, e, missing).Prepare(t.Context())
	if err == nil || !strings.Contains(err.Error(), "image 127.0.0.1:1/no/such:image: not on this node and cannot be pulled: ") {
		t.Errorf("missing image: %v", err)
	}
	if errors.Is(err, task.ErrTemporary) {
		t.Error("a missing image is taken for an engine that is away")
	}
}

func testLeftovers(t *testing.T, s Subject) {
	at := NewTask("run")
	started(t, s.New(t), at)
	e := s.New(t)
	ids, err := e.Leftovers(t.Context())
	must(t, "leftovers", err)
	if !slices.Contains(ids, at.Task.ID) {
		t.Errorf("leftovers: %v", ids)
	}
	for range 2 {
		must(t, "remove", e.Remove(t.Context(), at.Task.ID))
	}
	ids, err = e.Leftovers(t.Context())
	must(t, "leftovers", err)
	if slices.Contains(ids, at.Task.ID) {
		t.Errorf("leftovers after remove: %v", ids)
	}
}

func testLogs(t *testing.T, s Subject) {
	e, at := s.New(t), NewTask("say", "hello")
	if _, _, err := e.Logs(t.Context(), at.Task.ID, task.LogOptions{Stdout: true, Tail: -1}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("logs of no task: %v", err)
	}
	c := started(t, e, at)
	poll(t, func() string { return saidHello(t, e, at.Task.ID) })
	must(t, "shutdown", c.Shutdown(t.Context()))
	poll(t, func() string { return saidHello(t, e, at.Task.ID) })
}

// saidHello is empty once the task's output is what "say hello" says.
func saidHello(t *testing.T, e task.Executor, taskID string) string {
	t.Helper()
	r, tty, err := e.Logs(t.Context(), taskID, task.LogOptions{Stdout: true, Tail: -1})
	must(t, "logs", err)
	defer r.Close()
	var out strings.Builder
	if _, err := stdcopy.StdCopy(&out, &out, r); err != nil || tty {
		return fmt.Sprintf("logs cannot be read: tty %v, %v", tty, err)
	}
	if out.String() != "hello\n" {
		return fmt.Sprintf("logs: %q", out.String())
	}
	return ""
}

func testDescribe(t *testing.T, s Subject) {
	d, err := s.New(t).Describe(t.Context())
	must(t, "describe", err)
	if d.Hostname == "" || d.Platform.OS != "linux" || d.Platform.Architecture == "" || d.Resources.NanoCPUs < 1e9 || d.Resources.MemoryBytes == 0 || d.Engine.EngineVersion == "" {
		t.Errorf("description: %+v", d)
	}
}

func testAway(t *testing.T, s Subject) {
	if s.SetAway == nil {
		t.Skip("this runtime cannot be made unreachable")
	}
	e := s.New(t)
	c := started(t, e, NewTask("run"))
	s.SetAway(true)
	for _, err := range []error{c.Wait(t.Context()), c.Prepare(t.Context()), c.Start(t.Context()), c.Shutdown(t.Context())} {
		if !errors.Is(err, task.ErrTemporary) {
			t.Errorf("away: %v", err)
		}
	}
	if _, err := e.Describe(t.Context()); err == nil {
		t.Error("an unreachable runtime describes itself")
	}
	s.SetAway(false)
	must(t, "shutdown", c.Shutdown(t.Context()))
}
