package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// engine is a Docker engine of a test's own, which it may stop and start.
type engine struct {
	dir string
	cmd *exec.Cmd
}

func (e *engine) host() string { return "unix://" + filepath.Join(e.dir, "docker.sock") }

// newEngine starts an engine in a network namespace of its own, so that it does not touch the host's bridge.
func newEngine(t *testing.T) *engine {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root to start an engine that the test may stop; agent/docker's tests cover an engine that is away")
	}
	dir, err := os.MkdirTemp("", "mse")
	if err != nil {
		t.Fatal(err)
	}
	e := &engine{dir: dir}
	t.Cleanup(func() {
		e.stop(t)
		// The engine unmounts what its containers had; what is still busy is the next boot's.
		if err := os.RemoveAll(dir); err != nil {
			t.Logf("remove %s: %v", dir, err)
		}
	})
	e.start(t)
	return e
}

func (e *engine) start(t *testing.T) {
	t.Helper()
	log, err := os.OpenFile(filepath.Join(e.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	e.cmd = exec.Command("dockerd", "--host", e.host(), "--data-root", filepath.Join(e.dir, "data"), "--exec-root", filepath.Join(e.dir, "exec"),
		"--pidfile", filepath.Join(e.dir, "pid"), "--containerd-namespace", filepath.Base(e.dir), "--bridge=none", "--iptables=false", "--ip6tables=false")
	e.cmd.Stdout, e.cmd.Stderr = log, log
	e.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if err := e.cmd.Start(); err != nil {
		t.Fatalf("start an engine: %v", err)
	}
	eventually(t, 30*time.Second, "an engine of the test's own", func() error {
		out, err := runCommand("docker", []string{"DOCKER_HOST=" + e.host()}, "version")
		if err != nil {
			return fmt.Errorf("%s %w", out, err)
		}
		return nil
	})
}

func (e *engine) stop(t *testing.T) {
	t.Helper()
	if e.cmd == nil {
		return
	}
	if err := e.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Errorf("stop the engine: %v", err)
	}
	_ = e.cmd.Wait() // its exit code does not matter
	e.cmd = nil
}

// load copies an image out of the machine's engine.
func (e *engine) load(t *testing.T, image string) {
	t.Helper()
	out, err := runCommand("sh", nil, "-c", fmt.Sprintf("docker -H %s save %s | docker -H %s load", engineHost(t), image, e.host()))
	if err != nil {
		t.Fatalf("copy %s: %v\n%s", image, err, out)
	}
}

// TestEngineRestart takes the engine away: the nodes stay, their tasks say what they wait for, and all comes back by
// itself.
func TestEngineRestart(t *testing.T) {
	e := newEngine(t)
	e.load(t, imageProbe)
	l := newLabOn(t, e.host(), 2, 1)
	l.deploy(t, "--name", "probe", "--replicas", "2", "--restart-delay", "1s", "--publish", "8080:8080", imageProbe)

	e.stop(t)
	eventually(t, 20*time.Second, "the tasks tell that the engine is away", func() error {
		out := l.on(t, 1, "service", "ps", "--no-trunc", "probe")
		if !strings.Contains(out, "engine") {
			return fmt.Errorf("service ps says:\n%s", out)
		}
		return nil
	})
	if out := l.on(t, 1, "node", "ls", "--format", "{{.Hostname}} {{.Status}}"); strings.Count(out, "Ready") != 2 {
		t.Errorf("nodes without an engine:\n%s", out)
	}
	if out, err := l.tryDocker(1, "ps"); err == nil || !strings.Contains(out, "does not answer") {
		t.Errorf("docker ps without an engine: %v\n%s", err, out)
	}

	e.start(t)
	l.backTo(t, 60*time.Second, "probe", "2/2")
	for i := 1; i <= 2; i++ {
		if out, err := fetch(fmt.Sprintf("http://%s:8080/", addrOf(i)), 5*time.Second); err != nil {
			t.Errorf("node%d: %v %s", i, err, out)
		}
	}
}
