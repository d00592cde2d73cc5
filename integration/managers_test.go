package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestManagers: three managers answer alike, survive the death of their leader, and take it back.
func TestManagers(t *testing.T) {
	l := newLab(t, 3, 3)
	l.on(t, 2, "service", "create", "--name", "first", "--replicas", "3", "--publish", "8087:8080", imageProbe)
	for i := 1; i <= 3; i++ {
		// What was written through one manager is read through any, at once.
		if got, err := l.replicas(i, "first"); err != nil || got != "3/3" {
			t.Errorf("through node%d: %s %v", i, got, err)
		}
		out := l.on(t, i, "node", "ls", "--format", "{{.Hostname}} {{.ManagerStatus}}")
		if strings.Count(out, "Leader") != 1 || strings.Count(out, "Reachable") != 2 {
			t.Errorf("node ls through node%d:\n%s", i, out)
		}
	}
	leader := l.leader(t, 1)
	l.lab(t, "kill", fmt.Sprintf("node%d", leader))
	other := 1 + leader%3
	eventually(t, 15*time.Second, "a new leader that takes writes", func() error {
		out, err := l.run("-H", l.socket(other), "service", "update", "--detach", "--label-add", "after=1", "first")
		if err != nil {
			return fmt.Errorf("%s %w", out, err)
		}
		return nil
	})
	eventually(t, 15*time.Second, "all replicas without the dead manager", func() error {
		got, err := l.replicas(other, "first")
		if err != nil || got != "3/3" {
			return fmt.Errorf("%s %w", got, errOr(err))
		}
		out := l.on(t, other, "service", "ps", "first", "--filter", "desired-state=running", "--format", "{{.Node}}")
		if strings.Contains(out, fmt.Sprintf("node%d", leader)) {
			return fmt.Errorf("tasks on:\n%s", out)
		}
		return nil
	})
	l.lab(t, "start", fmt.Sprintf("node%d", leader))
	eventually(t, 15*time.Second, "the old leader as a follower", func() error {
		out, err := l.run("-H", l.socket(leader), "node", "ls", "--format", "{{.Hostname}} {{.Status}} {{.ManagerStatus}}")
		if err != nil || strings.Count(out, "Ready") != 3 || strings.Count(out, "Reachable") != 2 {
			return fmt.Errorf("%s %w", out, errOr(err))
		}
		return nil
	})
	if out, err := fetch(fmt.Sprintf("http://%s:8087/", addrOf(leader)), 5*time.Second); err != nil {
		t.Errorf("published port on the returned manager: %v %s", err, out)
	}
	l.on(t, leader, "service", "rm", "first")

	// One that never comes back is taken out of the quorum.
	dead := fmt.Sprintf("node%d", leader)
	l.lab(t, "kill", dead)
	eventually(t, 15*time.Second, "the dead manager removed", func() error {
		out, err := l.run("-H", l.socket(other), "node", "rm", "--force", dead)
		if err != nil {
			return fmt.Errorf("%s %w", out, err)
		}
		return nil
	})
	if out := l.on(t, other, "node", "ls", "--format", "{{.Hostname}} {{.ManagerStatus}}"); strings.Contains(out, dead) {
		t.Errorf("nodes after the removal:\n%s", out)
	}
}

// leader is the number of the node that leads, as node i sees it.
func (l *lab) leader(t *testing.T, i int) int {
	t.Helper()
	out := l.on(t, i, "node", "ls", "--format", "{{.Hostname}} {{.ManagerStatus}}")
	for n := 1; n <= l.nodes; n++ {
		if strings.Contains(out, fmt.Sprintf("node%d Leader", n)) {
			return n
		}
	}
	t.Fatalf("no leader:\n%s", out)
	return 0
}

// TestDownUp: `down` stops a node with its tasks, `up` brings it back into its swarm; `leave` ends the membership and
// leaves nothing in the engine.
func TestDownUp(t *testing.T) {
	l := newLab(t, 2, 1)
	l.deploy(t, "--name", "probe", "--replicas", "2", "--replicas-max-per-node", "1", imageProbe)
	l.on(t, 2, "down")
	if out := l.engineDo(t, "ps", "--format", "{{.Names}}", "--filter", "label=com.docker.swarm.service.name=probe"); strings.Count(out, "\n") != 1 {
		t.Errorf("after `down` of node2 there should be one container of probe:\n%s", out)
	}
	eventually(t, 10*time.Second, "node2 down", func() error {
		if out := l.on(t, 1, "node", "ls", "--format", "{{.Hostname}} {{.Status}}"); !strings.Contains(out, "node2 Down") {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
	l.lab(t, "start", "node2")
	l.backTo(t, 30*time.Second, "probe", "2/2 (max 1 per node)")

	id := strings.TrimSpace(l.on(t, 1, "node", "inspect", "--format", "{{.ID}}", "node2"))
	owned := func() string { return l.engineDo(t, "ps", "-aq", "--filter", "label=meshswarm.node="+id) }
	if owned() == "" {
		t.Error("node2 has nothing in the engine: there is nothing that leaving could leave behind")
	}
	l.on(t, 2, "leave")
	if out := owned(); out != "" {
		t.Errorf("containers of node2 after it left:\n%s", out)
	}
	eventually(t, 10*time.Second, "node2 removable", func() error {
		out, err := l.run("-H", l.socket(1), "node", "rm", "node2")
		if err != nil {
			return fmt.Errorf("%s %w", out, err)
		}
		return nil
	})
	out, err := l.run("-H", l.socket(1), "leave")
	if err == nil || !strings.Contains(out, "force") {
		t.Errorf("the last manager left without force: %v\n%s", err, out)
	}
}
