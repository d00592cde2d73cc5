package integration

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// replicas reads "running/wanted" of a service.
func (l *lab) replicas(node int, service string) (string, error) {
	out, err := l.run("-H", l.socket(node), "service", "ls", "--filter", "name="+service, "--format", "{{.Replicas}}")
	return strings.TrimSpace(out), err
}

// backTo waits until a service has all its replicas.
func (l *lab) backTo(t *testing.T, limit time.Duration, service, want string) {
	t.Helper()
	eventually(t, limit, service+" back at "+want, func() error {
		got, err := l.replicas(1, service)
		if err != nil || got != want {
			return fmt.Errorf("%s %w", got, errOr(err))
		}
		return nil
	})
}

func errOr(err error) error {
	if err == nil {
		return fmt.Errorf("so far")
	}
	return err
}

// taskOn gives the container name (service.slot.task) of a running task on a node.
func (l *lab) taskOn(t *testing.T, service, node string) string {
	t.Helper()
	out := l.on(t, 1, "service", "ps", service, "--filter", "desired-state=running", "--no-trunc", "--format", "{{.Node}} {{.Name}}.{{.ID}} {{.CurrentState}}")
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) > 2 && f[0] == node && f[2] == "Running" {
			return f[1]
		}
	}
	t.Fatalf("no task of %s on %s:\n%s", service, node, out)
	return ""
}

// engine runs the docker command against the engine itself, behind the nodes' backs.
func (l *lab) engineDo(t *testing.T, args ...string) string {
	t.Helper()
	out, err := runCommand("docker", []string{"DOCKER_HOST=" + l.engine}, args...)
	if err != nil {
		t.Fatalf("docker %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// TestFailures kills a container and a worker under load and brings the worker back. Requests on the surviving nodes
// fail only on connections that the dead one carried; the tasks are back within 10 s.
func TestFailures(t *testing.T) {
	l := newLab(t, 3, 1)
	l.deploy(t, "--name", "probe", "--replicas", "6", "--restart-delay", "1s", "--publish", "8080:8080", imageProbe)

	t.Run("container", func(t *testing.T) {
		_, stop := startLoad(t, 8080, "/", 1, 2, 3)
		victim := l.taskOn(t, "probe", "node2")
		l.engineDo(t, "kill", victim)
		dead := time.Now()
		eventually(t, 10*time.Second, "a replacement", func() error {
			out := l.on(t, 1, "service", "ps", "probe", "--filter", "desired-state=running", "--no-trunc")
			if strings.Contains(out, victim[strings.LastIndexByte(victim, '.')+1:]) {
				return fmt.Errorf("the dead task is still wanted")
			}
			return nil
		})
		l.backTo(t, time.Until(dead.Add(10*time.Second)), "probe", "6/6")
		t.Logf("six replicas again %v after the container's death", time.Since(dead).Round(100*time.Millisecond))
		checkFailures(t, stop(), dead)
	})

	t.Run("node", func(t *testing.T) {
		_, stop := startLoad(t, 8080, "/", 1, 2)
		l.lab(t, "kill", "node3")
		dead := time.Now()
		eventually(t, 10*time.Second, "node3 down and its tasks elsewhere", func() error {
			out := l.on(t, 1, "service", "ps", "probe", "--filter", "desired-state=running", "--format", "{{.Node}}")
			if strings.Contains(out, "node3") {
				return fmt.Errorf("tasks on:\n%s", out)
			}
			return nil
		})
		l.backTo(t, time.Until(dead.Add(10*time.Second)), "probe", "6/6")
		t.Logf("six replicas again %v after the node's death", time.Since(dead).Round(100*time.Millisecond))
		checkFailures(t, stop(), dead)
	})

	t.Run("return", func(t *testing.T) {
		_, stop := startLoad(t, 8080, "/", 1, 2)
		back := time.Now()
		l.lab(t, "start", "node3")
		eventually(t, 20*time.Second, "node3 ready", func() error {
			out := l.on(t, 1, "node", "ls", "--format", "{{.Hostname}} {{.Status}}")
			if !strings.Contains(out, "node3 Ready") {
				return fmt.Errorf("%s", out)
			}
			return nil
		})
		// What it ran before has a replacement elsewhere: it stops it.
		eventually(t, 20*time.Second, "six containers in all", func() error {
			out := l.engineDo(t, "ps", "-q", "--filter", "label=com.docker.swarm.service.name=probe")
			if n := len(strings.Fields(out)); n != 6 {
				return fmt.Errorf("%d containers", n)
			}
			return nil
		})
		if out, err := fetch(fmt.Sprintf("http://%s:8080/", addrOf(3)), 5*time.Second); err != nil {
			t.Errorf("the returned node does not serve: %v %s", err, out)
		}
		checkFailures(t, stop(), back.Add(-time.Hour)) // nothing died: nothing may fail
	})
}

// TestAgentRestart kills agents while tasks talk: the containers stay, and so do their connections.
func TestAgentRestart(t *testing.T) {
	l := newLab(t, 2, 1)
	l.on(t, 1, "network", "create", "app")
	l.deploy(t, "--name", "server", "--network", "app", "--constraint", "node.hostname==node2", imageProbe)
	l.deploy(t, "--name", "client", "--network", "app", "--constraint", "node.hostname==node1", imageProbe)
	client := l.taskOn(t, "client", "node1")
	server := l.taskOn(t, "server", "node2")
	// Docker reports a container's start with nanoseconds: the same text is the same run.
	started := func() string {
		return l.engineDo(t, "inspect", "--format", "{{.Id}} {{.State.StartedAt}}", client, server)
	}
	before := started()

	lines, held := l.hold(t, client, "server:7000")
	select {
	case line := <-lines:
		if !strings.HasPrefix(line, "holding") {
			t.Fatalf("the holder says %q", line)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("no connection")
	}
	for _, node := range []string{"node1", "node2"} {
		l.lab(t, "kill", node)
		l.lab(t, "start", node)
		eventually(t, 20*time.Second, "answers after the restart of "+node, func() error {
			out, err := runCommand("docker", []string{"DOCKER_HOST=" + l.engine}, "exec", client, "/probe", "tcp", "server:7000")
			if err != nil {
				return fmt.Errorf("%s %w", out, err)
			}
			return nil
		})
	}
	select {
	case err := <-held:
		t.Fatalf("the connection ended: %v", err)
	default:
	}
	// The file tells the holder to end; it must have got all its answers.
	l.engineDo(t, "cp", "/etc/hostname", client+":/stop")
	select {
	case line := <-lines:
		if !strings.HasPrefix(line, "held") {
			t.Errorf("the connection broke: %s", line)
		}
	case <-time.After(40 * time.Second):
		t.Error("the connection hangs")
	}
	if after := started(); after != before {
		t.Errorf("containers before and after the restarts:\n%s\n%s", before, after)
	}
}

// hold runs the probe's holder in a container until /stop is there. lines is what it prints; held gets the end of the
// command.
func (l *lab) hold(t *testing.T, container, addr string) (lines <-chan string, held <-chan error) {
	t.Helper()
	cmd := exec.Command("docker", "exec", container, "/probe", "hold", addr, "/stop")
	cmd.Env = append(os.Environ(), "DOCKER_HOST="+l.engine)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said, ended := make(chan string, 16), make(chan error, 1)
	go func() {
		for s := bufio.NewScanner(out); s.Scan(); {
			said <- s.Text()
		}
		ended <- cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it has ended, unless the test failed
	})
	return said, ended
}
