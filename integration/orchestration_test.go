package integration

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/swarm"
	"github.com/docker/docker/client"
)

// cluster asks node 1's API for what the commands print only for people.
type cluster struct {
	*lab
	api *client.Client
}

func newCluster(t *testing.T, l *lab) cluster {
	t.Helper()
	c, err := client.NewClientWithOpts(client.WithHost(l.socket(1)), client.WithAPIVersionNegotiation())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return cluster{l, c}
}

// tasks lists a service's tasks, oldest first.
func (c cluster) tasks(t *testing.T, service string) []swarm.Task {
	t.Helper()
	all, err := c.api.TaskList(t.Context(), swarm.TaskListOptions{Filters: filters.NewArgs(filters.Arg("service", service))})
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(all, func(a, b swarm.Task) int { return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID)) })
	return all
}

// hosts names the nodes by ID.
func (c cluster) hosts(t *testing.T) map[string]string {
	t.Helper()
	nodes, err := c.api.NodeList(t.Context(), swarm.NodeListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, n := range nodes {
		out[n.ID] = n.Description.Hostname
	}
	return out
}

// spread counts a service's running tasks by node: "node1=2 node3=1".
func (c cluster) spread(t *testing.T, service string) string {
	t.Helper()
	hosts, count := c.hosts(t), map[string]int{}
	for _, x := range c.tasks(t, service) {
		if x.DesiredState == swarm.TaskStateRunning && x.Status.State == swarm.TaskStateRunning {
			count[hosts[x.NodeID]]++
		}
	}
	var out []string
	for _, h := range slices.Sorted(maps.Keys(count)) {
		out = append(out, fmt.Sprintf("%s=%d", h, count[h]))
	}
	return strings.Join(out, " ")
}

// spreadBecomes waits for a spread, and for old tasks to be out of the way.
func (c cluster) spreadBecomes(t *testing.T, service, want string) {
	t.Helper()
	eventually(t, 40*time.Second, service+" on "+want, func() error {
		if got := c.spread(t, service); got != want {
			return fmt.Errorf("it is on %q", got)
		}
		return nil
	})
}

// updateState is the state and message of a service's last update.
func (c cluster) updateState(t *testing.T, service string) string {
	t.Helper()
	s, _, err := c.api.ServiceInspectWithRaw(t.Context(), service, swarm.ServiceInspectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if s.UpdateStatus == nil {
		return ""
	}
	return string(s.UpdateStatus.State) + ": " + s.UpdateStatus.Message
}

// TestOrchestration is what the leader does with services of all modes, over real containers on three nodes.
func TestOrchestration(t *testing.T) {
	c := newCluster(t, newLab(t, 3, 1))
	c.on(t, 1, "node", "update", "--label-add", "zone=a", "node1")
	c.on(t, 1, "node", "update", "--label-add", "zone=a", "node2")
	c.on(t, 1, "node", "update", "--label-add", "zone=b", "node3")
	t.Run("global", c.testGlobal)
	t.Run("jobs", c.testJobs)
	t.Run("rollback", c.testRollback)
	t.Run("placement", c.testPlacement)
	t.Run("rebalance", c.testRebalance)
	t.Run("crash loop", c.testCrashLoop)
	t.Run("flapping node", c.testFlapping)
}

// testGlobal: one task per node that fits, as nodes and labels change; updates go node by node.
func (c cluster) testGlobal(t *testing.T) {
	c.deploy(t, "--name", "agent", "--mode", "global", "--stop-grace-period", "1s", imageProbe)
	c.spreadBecomes(t, "agent", "node1=1 node2=1 node3=1")
	if out := c.on(t, 1, "service", "ls", "--filter", "name=agent", "--format", "{{.Mode}} {{.Replicas}}"); strings.TrimSpace(out) != "global 3/3" {
		t.Errorf("service ls says %q", out)
	}
	hosts := c.hosts(t)
	for _, x := range c.tasks(t, "agent") {
		name := "agent." + x.NodeID + "." + x.ID
		if out := strings.TrimSpace(c.engineDo(t, "inspect", "--format", `{{index .Config.Labels "com.docker.swarm.task.name"}}`, name)); out != name || x.Slot != 0 || hosts[x.NodeID] == "" {
			t.Errorf("task %s of slot %d on %q has a container named %q", x.ID, x.Slot, x.NodeID, out)
		}
	}
	c.on(t, 1, "node", "update", "--availability", "drain", "node3")
	c.spreadBecomes(t, "agent", "node1=1 node2=1")
	c.on(t, 1, "node", "update", "--availability", "active", "node3")
	c.spreadBecomes(t, "agent", "node1=1 node2=1 node3=1")

	before := c.tasks(t, "agent")
	c.on(t, 1, "service", "update", "--env-add", "A=1", "agent")
	c.spreadBecomes(t, "agent", "node1=1 node2=1 node3=1")
	for _, x := range c.tasks(t, "agent") {
		old := slices.ContainsFunc(before, func(o swarm.Task) bool { return o.ID == x.ID })
		if old == (x.DesiredState == swarm.TaskStateRunning) {
			t.Errorf("after the update task %s (one of before: %v) is wanted %s", x.ID, old, x.DesiredState)
		}
	}
	c.on(t, 1, "service", "update", "--constraint-add", "node.labels.zone==a", "agent")
	c.spreadBecomes(t, "agent", "node1=1 node2=1")
	c.on(t, 1, "node", "update", "--label-add", "zone=a", "node3")
	c.spreadBecomes(t, "agent", "node1=1 node2=1 node3=1")
	c.on(t, 1, "node", "update", "--label-add", "zone=b", "node3")
	c.spreadBecomes(t, "agent", "node1=1 node2=1")
	c.on(t, 1, "service", "rm", "agent")
}

// testJobs: so many completions, so many at a time, again with every update; failures are tried again or given up.
func (c cluster) testJobs(t *testing.T) {
	c.deploy(t, "--name", "job", "--mode", "replicated-job", "--replicas", "5", "--max-concurrent", "2", imageProbe, "/probe", "fail", "0", "500ms")
	done := func(service string, iteration uint64) (n int) {
		for _, x := range c.tasks(t, service) {
			if x.JobIteration != nil && x.JobIteration.Index == iteration && x.Status.State == swarm.TaskStateComplete {
				n++
			}
		}
		return n
	}
	if n := done("job", 0); n != 5 {
		t.Errorf("the create ended after %d completions, want 5", n)
	}
	type moment struct {
		at    time.Time
		delta int
	}
	var moments []moment
	for _, x := range c.tasks(t, "job") {
		run, err := c.api.ContainerInspect(t.Context(), x.Status.ContainerStatus.ContainerID) // the nodes share one engine
		if err != nil {
			t.Fatal(err)
		}
		start, err1 := time.Parse(time.RFC3339Nano, run.State.StartedAt)
		end, err2 := time.Parse(time.RFC3339Nano, run.State.FinishedAt)
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		moments = append(moments, moment{start, 1}, moment{end, -1})
	}
	slices.SortFunc(moments, func(a, b moment) int { return a.at.Compare(b.at) })
	at, most := 0, 0
	for _, m := range moments {
		at += m.delta
		most = max(most, at)
	}
	if most != 2 {
		t.Errorf("at most %d tasks of the job ran at a time, want 2", most)
	}
	c.on(t, 1, "service", "update", "--force", "job")
	eventually(t, 30*time.Second, "the second iteration", func() error {
		if n := done("job", 1); n != 5 {
			return fmt.Errorf("%d completions", n)
		}
		return nil
	})
	c.deploy(t, "--name", "everywhere", "--mode", "global-job", imageProbe, "/probe", "fail", "0")
	if n := done("everywhere", 0); n != 3 {
		t.Errorf("the global job has %d completions, want 3", n)
	}
	// Three attempts, then nothing.
	c.on(t, 1, "service", "create", "--detach", "--name", "bad", "--mode", "replicated-job", "--restart-condition", "on-failure",
		"--restart-delay", "100ms", "--restart-max-attempts", "2", imageProbe, "/probe", "fail", "3")
	eventually(t, 30*time.Second, "three attempts", func() error {
		failed := 0
		for _, x := range c.tasks(t, "bad") {
			if x.Status.State == swarm.TaskStateFailed {
				failed++
			}
		}
		if failed != 3 {
			return fmt.Errorf("%d failed", failed)
		}
		return nil
	})
	c.on(t, 1, "service", "rm", "job", "everywhere", "bad")
}

// testRollback: an update that fails goes back by itself, or pauses; a person goes back and forth.
func (c cluster) testRollback(t *testing.T) {
	c.deploy(t, "--name", "roll", "--replicas", "3", "--stop-grace-period", "1s", "--update-monitor", "2s", "--rollback-monitor", "1s",
		"--update-failure-action", "rollback", "--restart-delay", "200ms", imageProbe, "/probe", "serve")
	args := func() string {
		return strings.TrimSpace(c.on(t, 1, "service", "inspect", "--format", "{{.Spec.TaskTemplate.ContainerSpec.Args}}", "roll"))
	}
	was := args()
	out, err := c.run("-H", c.socket(1), "service", "update", "--args", "/probe fail 7", "roll")
	if err == nil || !strings.Contains(out, "rolled back") {
		t.Errorf("an update that rolled back: %v\n%s", err, out)
	}
	eventually(t, 40*time.Second, "rolled back", func() error {
		if got := c.updateState(t, "roll"); got != "rollback_completed: rollback completed" {
			return fmt.Errorf("update is %q", got)
		}
		return nil
	})
	if now := args(); now != was {
		t.Errorf("arguments after the rollback: %s, before: %s", now, was)
	}
	c.backTo(t, 20*time.Second, "roll", "3/3")

	c.on(t, 1, "service", "update", "--env-add", "A=1", "roll")
	env := func() string {
		return strings.TrimSpace(c.on(t, 1, "service", "inspect", "--format", "{{.Spec.TaskTemplate.ContainerSpec.Env}}", "roll"))
	}
	for _, want := range []string{"[]", "[A=1]"} { // two rollbacks toggle
		c.on(t, 1, "service", "rollback", "roll")
		if got := env(); got != want {
			t.Errorf("environment %s, want %s", got, want)
		}
		if got := c.updateState(t, "roll"); got != "rollback_completed: rollback completed" {
			t.Errorf("rollback ended as %q", got)
		}
	}
	if out, err := c.run("-H", c.socket(1), "service", "update", "--update-failure-action", "pause", "--args", "/probe fail 7", "roll"); err == nil || !strings.Contains(out, "paused") {
		t.Errorf("an update that paused: %v\n%s", err, out)
	}
	if got := c.updateState(t, "roll"); !strings.HasPrefix(got, "paused: update paused due to failure or early termination of task ") {
		t.Errorf("update is %q", got)
	}
	c.on(t, 1, "service", "update", "--args", "/probe serve", "roll")
	c.backTo(t, 20*time.Second, "roll", "3/3")
	c.on(t, 1, "service", "rm", "roll")
}

// testPlacement: preferences spread over labels, constraints hold also when labels change later, and a task that finds no
// node says why.
func (c cluster) testPlacement(t *testing.T) {
	c.deploy(t, "--name", "spread", "--replicas", "4", "--placement-pref", "spread=node.labels.zone", imageProbe)
	c.spreadBecomes(t, "spread", "node1=1 node2=1 node3=2")
	c.on(t, 1, "service", "rm", "spread")

	c.deploy(t, "--name", "pinned", "--replicas", "2", "--restart-delay", "200ms", "--stop-grace-period", "1s", "--constraint", "node.labels.zone==b", imageProbe)
	c.spreadBecomes(t, "pinned", "node3=2")
	c.on(t, 1, "node", "update", "--label-add", "zone=b", "node2")
	c.on(t, 1, "node", "update", "--label-add", "zone=a", "node3")
	c.spreadBecomes(t, "pinned", "node2=2")
	moved := 0
	for _, x := range c.tasks(t, "pinned") {
		if x.Status.State == swarm.TaskStateRejected && x.Status.Err == "assigned node no longer meets constraints" {
			moved++
		}
	}
	if moved != 2 {
		t.Errorf("%d tasks were sent away by the labels, want 2", moved)
	}
	c.on(t, 1, "node", "update", "--label-add", "zone=a", "node2")
	const why = "no suitable node (scheduling constraints not satisfied on 3 nodes)"
	eventually(t, 20*time.Second, "a reason for the pending tasks", func() error {
		if out := c.on(t, 1, "service", "ps", "--no-trunc", "pinned"); strings.Count(out, why) != 2 {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
	out := c.on(t, 1, "service", "explain", "pinned")
	for _, want := range []string{"node1", "node2", "node3", "node.labels.zone==b"} {
		if !strings.Contains(out, want) {
			t.Errorf("the explanation does not name %s:\n%s", want, out)
		}
	}
	c.on(t, 1, "node", "update", "--label-add", "zone=b", "node3")
	c.spreadBecomes(t, "pinned", "node3=2")
	c.on(t, 1, "node", "update", "--label-add", "zone=a", "node2")
	c.on(t, 1, "service", "rm", "pinned")

	out, err := c.run("-H", c.socket(1), "service", "create", "--name", "typo", "--constraint", "node.hostnam==node1", imageProbe)
	if err == nil || !strings.Contains(out, "node.hostname") {
		t.Errorf("an unknown key in a constraint: %v\n%s", err, out)
	}
}

// testRebalance: replicas move to a node that came late, and no request notices.
func (c cluster) testRebalance(t *testing.T) {
	c.on(t, 1, "node", "update", "--availability", "drain", "node3")
	c.deploy(t, "--name", "wide", "--replicas", "6", "--update-order", "start-first", "--update-monitor", "1s", "--update-parallelism", "2",
		"--publish", "8104:8080", imageProbe)
	c.on(t, 1, "node", "update", "--availability", "active", "node3")
	if got := c.spread(t, "wide"); got != "node1=3 node2=3" {
		t.Fatalf("before: %s", got)
	}
	_, stop := startLoad(t, 8104, "/", 1, 2, 3)
	out := c.on(t, 1, "service", "rebalance", "wide")
	c.spreadBecomes(t, "wide", "node1=2 node2=2 node3=2")
	checkFailures(t, stop(), time.Now().Add(-time.Hour))
	if t.Failed() {
		t.Log(out)
	}
	kept := 0
	for _, x := range c.tasks(t, "wide") {
		if x.DesiredState == swarm.TaskStateShutdown {
			kept++
		}
	}
	if kept != 2 {
		t.Errorf("%d tasks were replaced, want the fewest possible: 2", kept)
	}
	if out := c.on(t, 1, "service", "rebalance", "wide"); !strings.Contains(out, "balanced") {
		t.Errorf("a second time: %s", out)
	}
	c.on(t, 1, "service", "rm", "wide")
}

// testCrashLoop: a task that dies at once is tried again and again, ever more slowly, and says so.
func (c cluster) testCrashLoop(t *testing.T) {
	c.on(t, 1, "service", "create", "--detach", "--name", "crash", "--restart-delay", "500ms", imageProbe, "/probe", "fail", "9")
	eventually(t, 60*time.Second, "a restart that waits long", func() error {
		out := c.on(t, 1, "service", "explain", "crash")
		if !strings.Contains(out, "crashed 7 times in a row") {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
	tasks := c.tasks(t, "crash")
	var gaps []time.Duration
	for i := 1; i < len(tasks); i++ {
		gaps = append(gaps, tasks[i].CreatedAt.Sub(tasks[i-1].CreatedAt))
	}
	if n := len(gaps); n < 3 || gaps[n-1] <= gaps[0] {
		t.Errorf("the attempts follow each other by %v: no back-off", gaps)
	}
	c.on(t, 1, "service", "rm", "crash")
}

// testFlapping: a node that comes and goes keeps what it has and gets nothing new for a while.
func (c cluster) testFlapping(t *testing.T) {
	state := func(want string) {
		eventually(t, 20*time.Second, "node3 "+want, func() error {
			out := c.on(t, 1, "node", "ls", "--format", "{{.Hostname}} {{.Status}}")
			if !strings.Contains(out, "node3 "+want) {
				return fmt.Errorf("%s", out)
			}
			return nil
		})
	}
	for range 2 {
		c.lab.lab(t, "kill", "node3")
		state("Down")
		c.lab.lab(t, "start", "node3")
		state("Ready")
	}
	c.deploy(t, "--name", "wary", "--replicas", "4", imageProbe)
	if got := c.spread(t, "wary"); got != "node1=2 node2=2" {
		t.Errorf("tasks on %s, want none on the node that comes and goes", got)
	}
	if out := c.on(t, 1, "service", "explain", "wary"); !strings.Contains(out, "went down 2 times") {
		t.Errorf("the explanation does not tell why node3 has none:\n%s", out)
	}
	c.on(t, 1, "service", "rm", "wary")
}
