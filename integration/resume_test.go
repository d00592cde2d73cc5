package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// soleNode is a node that `up` started, outside a lab.
type soleNode struct {
	*lab
	dir, host string
}

func newSoleNode(t *testing.T, l *lab) *soleNode {
	t.Helper()
	dir, err := os.MkdirTemp("", "msw")
	if err != nil {
		t.Fatal(err)
	}
	n := &soleNode{lab: l, dir: dir, host: "unix://" + filepath.Join(dir, "s")}
	t.Cleanup(func() {
		if t.Failed() {
			if b, err := os.ReadFile(filepath.Join(dir, "d", "log")); err == nil {
				t.Logf("the node's log:\n%s", b)
			}
		}
		if out, err := l.run("-H", n.host, "leave", "--force"); err != nil {
			t.Errorf("leave: %v\n%s", err, out)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return n
}

// up starts the node; only its folder and socket are always given.
func (n *soleNode) up(t *testing.T, args ...string) string {
	t.Helper()
	args = append([]string{"up", "--detach", "--data-dir", filepath.Join(n.dir, "d"), "--socket", filepath.Join(n.dir, "s")}, args...)
	out, err := n.run(args...)
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func (n *soleNode) do(t *testing.T, args ...string) string {
	t.Helper()
	out, err := n.run(append([]string{"-H", n.host}, args...)...)
	if err != nil {
		t.Fatalf("meshswarm %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(out)
}

// terminate is what a service manager does: SIGTERM.
func (n *soleNode) terminate(t *testing.T) { t.Helper(); n.end(t, syscall.SIGTERM) }

// end sends a signal that ends the node, and waits until it is gone.
func (n *soleNode) end(t *testing.T, sig syscall.Signal) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(n.dir, "d", "lock"))
	if err != nil {
		t.Fatal(err)
	}
	var owner struct{ PID int }
	if err := json.Unmarshal(b, &owner); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(owner.PID, sig); err != nil {
		t.Fatal(err)
	}
	eventually(t, 15*time.Second, "the node's end", func() error {
		if _, err := n.run("-H", n.host, "node", "ls"); err == nil {
			return fmt.Errorf("it still answers")
		}
		if _, err := os.Stat(fmt.Sprintf("/proc/%d/cmdline", owner.PID)); err == nil && syscall.Kill(owner.PID, 0) == nil && !zombie(owner.PID) {
			return fmt.Errorf("process %d is there", owner.PID)
		}
		return nil
	})
}

// zombie: in a container without an init the ended node has no parent that looks.
func zombie(pid int) bool {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(b), ") ")
	return strings.HasPrefix(rest, "Z")
}

// TestResume: SIGTERM leaves the tasks running, a later `up` without flags is the same node with the same tasks. All that
// beside another swarm on the same engine, which notices nothing.
func TestResume(t *testing.T) {
	l := newLab(t, 1, 1)
	l.deploy(t, "--name", "neighbour", "--replicas", "2", imageProbe)
	containers := func() string {
		return l.engineDo(t, "ps", "--no-trunc", "--format", "{{.ID}} {{.Names}}", "--filter", "label=meshswarm.swarm="+strings.TrimSpace(l.docker(t, 1, "info", "--format", "{{.Swarm.Cluster.ID}}")))
	}
	neighbours := containers()
	if strings.Count(neighbours, "\n") != 4 {
		t.Fatalf("two tasks with their sandboxes are not:\n%s", neighbours)
	}

	n := newSoleNode(t, l)
	flags := []string{"--listen-addr", "127.0.0.71:2477", "--advertise-addr", "127.0.0.71", "--data-path-port", "4879", "--publish-addr", "127.0.0.72",
		"--hostname", "sole", "--label", "disk=ssd", "--docker-host", l.engine}
	if out := n.up(t, flags...); !strings.Contains(out, "created swarm") || !strings.Contains(out, "up --join 127.0.0.71:2477 --token SWMTKN-1-") {
		t.Errorf("the first up says:\n%s", out)
	}
	n.do(t, "service", "create", "--name", "kept", "--publish", "8111:8080", "--constraint", "engine.labels.disk==ssd", imageProbe)
	kept := n.do(t, "service", "ps", "--no-trunc", "--format", "{{.Name}}.{{.ID}}", "kept")
	look := func() string {
		return n.do(t, "node", "inspect", "--format", "{{.ID}} {{.Description.Hostname}} {{.Description.Engine.Labels.disk}} {{.ManagerStatus.Addr}} {{.Status.Addr}}", "self") +
			"\n" + l.engineDo(t, "inspect", "--format", "{{.ID}} {{.State.StartedAt}} {{.State.Running}}", kept)
	}
	first := look()
	if !strings.Contains(first, " sole ssd 127.0.0.71:2477 127.0.0.71\n") {
		t.Errorf("the node says of itself: %s", first)
	}
	serves := func(addr string) {
		t.Helper()
		eventually(t, 15*time.Second, "the published port on "+addr, func() error {
			_, err := fetch("http://"+addr+":8111/", 5*time.Second)
			return err
		})
	}
	serves("127.0.0.72")

	n.terminate(t)
	if out := l.engineDo(t, "ps", "--format", "{{.Names}}", "--filter", "name="+kept); strings.Count(out, "\n") != 1 {
		t.Errorf("after SIGTERM the task is not running: %q", out)
	}
	if out := n.up(t); !strings.Contains(out, "is back in swarm") {
		t.Errorf("the second up says:\n%s", out)
	}
	if again := look(); again != first {
		t.Errorf("without flags it is another node:\n%s\nbefore:\n%s", again, first)
	}
	serves("127.0.0.72")

	// A flag given later holds from then on.
	n.terminate(t)
	n.up(t, "--publish-addr", "127.0.0.73")
	n.terminate(t)
	n.up(t)
	serves("127.0.0.73")
	if again := look(); again != first {
		t.Errorf("with another address for published ports it is another node:\n%s\nbefore:\n%s", again, first)
	}

	// Tokens.
	old := n.do(t, "join-token", "-q", "worker")
	if fresh := n.do(t, "join-token", "-q", "--rotate", "worker"); fresh == old || fresh != n.do(t, "join-token", "-q", "worker") {
		t.Errorf("rotated from %.12s… to %.12s…", old, fresh)
	}
	l.upRefused(t, "join-token", "--join", "127.0.0.71:2477", "--token", old)

	// Down stops the tasks and keeps the membership.
	n.do(t, "down")
	if out := l.engineDo(t, "ps", "-q", "--filter", "name="+kept); out != "" {
		t.Errorf("after `down` a task runs: %s", out)
	}
	n.up(t)
	eventually(t, 20*time.Second, "the service after `down` and `up`", func() error {
		if out := n.do(t, "service", "ls", "--format", "{{.Replicas}}"); out != "1/1" {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
	if now := containers(); now != neighbours {
		t.Errorf("the other swarm's containers:\n%s\nbefore:\n%s", now, neighbours)
	}
}

// TestRemovedNode: a dead node can be removed; when it comes back it stops what it ran, says what happened, and can join
// again once it has left.
func TestRemovedNode(t *testing.T) {
	l := newLab(t, 1, 1)
	join := func() []string {
		return []string{"--join", addrOf(1) + ":2377", "--token", strings.TrimSpace(l.on(t, 1, "join-token", "-q", "worker"))}
	}
	n := newSoleNode(t, l)
	n.up(t, append(join(), "--listen-addr", "127.0.0.76", "--publish-addr", "127.0.0.76", "--hostname", "lost", "--docker-host", l.engine)...)
	l.deploy(t, "--name", "probe", "--replicas", "2", "--replicas-max-per-node", "1", imageProbe)
	task := l.taskOn(t, "probe", "lost")
	id := strings.TrimSpace(l.on(t, 1, "node", "inspect", "--format", "{{.ID}}", "lost"))

	if out, err := l.run("-H", l.socket(1), "node", "rm", "lost"); err == nil || !strings.Contains(out, "is not down") {
		t.Errorf("a node that is up was removed: %v\n%s", err, out)
	}
	n.end(t, syscall.SIGKILL)
	eventually(t, 10*time.Second, "removal of the dead node", func() error {
		out, err := l.run("-H", l.socket(1), "node", "rm", "lost")
		if err != nil {
			return fmt.Errorf("%s %w", out, err)
		}
		return nil
	})
	if out := l.on(t, 1, "node", "ls", "-q"); strings.Contains(out, id) {
		t.Errorf("removed, and still listed:\n%s", out)
	}
	l.psShows(t, "probe", "Orphaned")
	if out := l.engineDo(t, "ps", "-q", "--filter", "name="+task); out == "" {
		t.Error("the dead node's task does not run on: nothing is left to be stopped")
	}

	n.up(t)
	eventually(t, 20*time.Second, "the returned node's tasks stopped", func() error {
		if out := l.engineDo(t, "ps", "-q", "--filter", "name="+task); out != "" {
			return fmt.Errorf("%s runs", task)
		}
		return nil
	})
	out, err := runCommand("docker", []string{"DOCKER_HOST=" + n.host}, "info", "--format", "{{.Swarm.LocalNodeState}} {{.Swarm.Error}}")
	if err != nil || !strings.HasPrefix(out, "error ") || !strings.Contains(out, "removed from the swarm") || !strings.Contains(out, "leave --force") {
		t.Errorf("the removed node says: %v %s", err, out)
	}
	if out := l.on(t, 1, "node", "ls", "-q"); strings.Contains(out, id) {
		t.Errorf("it is listed again:\n%s", out)
	}

	n.do(t, "leave", "--force")
	n.up(t, append(join(), "--listen-addr", "127.0.0.76", "--publish-addr", "127.0.0.76", "--hostname", "lost", "--docker-host", l.engine)...)
	l.backTo(t, 30*time.Second, "probe", "2/2 (max 1 per node)")
	if again := strings.TrimSpace(l.on(t, 1, "node", "inspect", "--format", "{{.ID}}", "lost")); again == id {
		t.Error("the node joined again under the identity that was removed")
	}
}
