package integration

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/swarm"
	"github.com/docker/docker/client"
)

// TestTasks is a task's life in the engine: what its container looks like, when it counts as running, how it is stopped,
// and what follows when it ends.
func TestTasks(t *testing.T) {
	l := newLab(t, 2, 1)
	l.on(t, 1, "network", "create", "app")
	l.deploy(t, "--name", "eye", "--network", "app", imageProbe)
	eye := l.anyTask(t, "eye")

	t.Run("container", func(t *testing.T) { l.testContainer(t, eye) })
	t.Run("health", func(t *testing.T) { l.testHealth(t, eye) })
	t.Run("stop", l.testStop)
	t.Run("restart policy", l.testRestartPolicy)
	t.Run("update", l.testUpdate)
}

// anyTask is the container name of the first running task.
func (l *lab) anyTask(t *testing.T, service string) string {
	t.Helper()
	out := l.on(t, 1, "service", "ps", service, "--filter", "desired-state=running", "--no-trunc", "--format", "{{.Name}}.{{.ID}}")
	name, _, _ := strings.Cut(out, "\n")
	if name == "" {
		t.Fatalf("%s has no task", service)
	}
	return name
}

// testContainer: Docker's labels and name; the sandbox is there, and shows only to who asks for it.
func (l *lab) testContainer(t *testing.T, name string) {
	parts := strings.Split(name, ".")
	if len(parts) != 3 || parts[0] != "eye" || parts[1] != "1" {
		t.Fatalf("a container named %s, want service.slot.task", name)
	}
	node := strings.TrimSpace(l.docker(t, 1, "inspect", "--type", "task", "--format", "{{.NodeID}} {{.ServiceID}}", parts[2]))
	for label, want := range map[string]string{
		"com.docker.swarm.task": "", "com.docker.swarm.task.id": parts[2], "com.docker.swarm.task.name": name, "com.docker.swarm.service.name": "eye",
		"com.docker.swarm.node.id": strings.Fields(node)[0], "com.docker.swarm.service.id": strings.Fields(node)[1],
		"meshswarm.task": parts[2], "meshswarm.node": strings.Fields(node)[0], "meshswarm.sandbox": "<no value>",
	} {
		format := fmt.Sprintf("{{index .Config.Labels %q}}", label)
		if got := strings.TrimSpace(l.engineDo(t, "inspect", "--format", format, name)); got != want && (want != "<no value>" || got != "") {
			t.Errorf("label %s: %q, want %q", label, got, want)
		}
	}
	for filter, want := range map[string]int{
		"label=com.docker.swarm.task.id=" + parts[2]: 1,
		"label=meshswarm.task=" + parts[2]:           2,
		"label=meshswarm.sandbox=" + parts[2]:        1,
		"name=" + parts[2]:                           1,
	} {
		if out := strings.Fields(l.docker(t, 1, "ps", "--filter", filter, "--format", "{{.Names}}")); len(out) != want {
			t.Errorf("docker ps --filter %s: %v, want %d containers", filter, out, want)
		}
	}
}

// testHealth: a task that is not healthy yet is not served; one that turns unhealthy is replaced.
func (l *lab) testHealth(t *testing.T, eye string) {
	// The probe's image has no shell, which a --health-cmd needs.
	c, err := client.NewClientWithOpts(client.WithHost(l.socket(1)), client.WithAPIVersionNegotiation())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	one := uint64(1)
	health := &container.HealthConfig{Test: []string{"CMD", "/probe", "healthy", "/sick"}, Interval: time.Second, Timeout: 10 * time.Second, Retries: 2}
	spec := swarm.ServiceSpec{
		Annotations: swarm.Annotations{Name: "well"},
		TaskTemplate: swarm.TaskSpec{
			ContainerSpec: &swarm.ContainerSpec{Image: imageProbe, Healthcheck: health},
			Networks:      []swarm.NetworkAttachmentConfig{{Target: "app"}},
		},
		Mode:         swarm.ServiceMode{Replicated: &swarm.ReplicatedService{Replicas: &one}},
		EndpointSpec: &swarm.EndpointSpec{Ports: []swarm.PortConfig{{Protocol: "tcp", TargetPort: 8080, PublishedPort: 8101}}},
	}
	if _, err := c.ServiceCreate(t.Context(), spec, swarm.ServiceCreateOptions{}); err != nil {
		t.Fatal(err)
	}
	l.backTo(t, 30*time.Second, "well", "1/1")
	first := l.anyTask(t, "well")
	if out, err := fetch("http://127.0.0.2:8101/", 5*time.Second); err != nil {
		t.Errorf("healthy, but: %v %s", err, out)
	}
	l.engineDo(t, "cp", "/etc/hostname", first+":/sick")
	l.psShows(t, "well", "unhealthy container")
	l.backTo(t, 30*time.Second, "well", "1/1")
	if second := l.anyTask(t, "well"); second == first {
		t.Errorf("%s is unhealthy and was not replaced", first)
	}

	// This one never gets healthy, and may try for long.
	spec.Name = "dawn"
	health.Test, health.Retries = []string{"CMD", "/probe", "healthy", "/probe"}, 1000
	spec.EndpointSpec.Ports[0].PublishedPort = 8102
	if _, err := c.ServiceCreate(t.Context(), spec, swarm.ServiceCreateOptions{}); err != nil {
		t.Fatal(err)
	}
	l.psShows(t, "dawn", "Starting")
	eventually(t, 20*time.Second, "its program answers", func() error {
		if out := l.engineDo(t, "logs", l.anyTask(t, "dawn")); !strings.Contains(out, "serving") {
			return fmt.Errorf("it says %q", out)
		}
		return nil
	})
	for i := 1; i <= 2; i++ {
		if out, err := fetch(fmt.Sprintf("http://%s:8102/", addrOf(i)), 5*time.Second); err == nil {
			t.Errorf("node%d serves a task that is not healthy: %s", i, out)
		}
	}
	if out := l.probe(t, eye, "tcp", "dawn:8080"); out != "refused" {
		t.Errorf("the VIP of a service without a healthy task: %s", out)
	}
	if out := l.probe(t, eye, "lookup", "tasks.dawn"); strings.Contains(out, "10.") {
		t.Errorf("tasks.dawn: %s", out)
	}
	l.psShows(t, "dawn", "Starting")
	l.on(t, 1, "service", "rm", "dawn", "well")
}

// testStop: the stop signal and the grace period are the service's.
func (l *lab) testStop(t *testing.T) {
	// A Go program ends with 2 on SIGQUIT, with 0 on SIGTERM here, and does not mind SIGWINCH: the engine kills it.
	l.deploy(t, "--name", "quits", "--stop-signal", "SIGQUIT", imageProbe)
	l.deploy(t, "--name", "stays", "--stop-signal", "SIGWINCH", "--stop-grace-period", "3s", imageProbe)
	for service, want := range map[string]int{"quits": 2, "stays": 137} {
		name := l.anyTask(t, service)
		began := time.Now()
		l.on(t, 1, "service", "update", "--detach", "--force", service)
		var code int
		eventually(t, 9*time.Second, service+" stopped", func() error { // the engine's own grace would be 10 s
			out := l.docker(t, 1, "inspect", "--type", "task", "--format", "{{.Status.State}} {{.Status.ContainerStatus.ExitCode}}", taskID(name))
			state, exit, _ := strings.Cut(strings.TrimSpace(out), " ")
			code, _ = strconv.Atoi(exit)
			if state != "shutdown" {
				return fmt.Errorf("it is %s", out)
			}
			return nil
		})
		if took := time.Since(began); service == "stays" && took < 3*time.Second {
			t.Errorf("stays was stopped after %v, before its grace period ended", took)
		}
		if code != want {
			t.Errorf("%s ended with exit code %d, want %d", service, code, want)
		}
	}
	l.on(t, 1, "service", "rm", "quits", "stays")
}

func taskID(containerName string) string {
	return containerName[strings.LastIndexByte(containerName, '.')+1:]
}

// testRestartPolicy: what follows a task that ended.
func (l *lab) testRestartPolicy(t *testing.T) {
	const delay = 2 * time.Second
	tests := map[string]struct {
		args, state, err string
		tasks            int
	}{
		"any":         {"--restart-condition any --restart-max-attempts 2 " + imageProbe + " /probe fail 0", "complete", "", 3},
		"onfail-bad":  {"--restart-condition on-failure --restart-max-attempts 1 " + imageProbe + " /probe fail 3", "failed", "task: non-zero exit (3)", 2},
		"onfail-good": {"--restart-condition on-failure " + imageProbe + " /probe fail 0", "complete", "", 1},
		"none":        {"--restart-condition none " + imageProbe + " /probe fail 4", "failed", "task: non-zero exit (4)", 1},
	}
	c, err := client.NewClientWithOpts(client.WithHost(l.socket(1)), client.WithAPIVersionNegotiation())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for name, tt := range tests {
		l.on(t, 1, append([]string{"service", "create", "--detach", "--name", name, "--restart-delay", delay.String()}, strings.Fields(tt.args)...)...)
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var tasks []swarm.Task
			look := func() error {
				all, err := c.TaskList(t.Context(), swarm.TaskListOptions{})
				if err != nil {
					return err
				}
				tasks = tasks[:0]
				id := strings.TrimSpace(l.on(t, 1, "service", "inspect", "--format", "{{.ID}}", name))
				for _, x := range all {
					if x.ServiceID == id {
						tasks = append(tasks, x)
					}
				}
				slices.SortFunc(tasks, func(a, b swarm.Task) int { return a.CreatedAt.Compare(b.CreatedAt) })
				if n := len(tasks); n != tt.tasks || string(tasks[n-1].Status.State) != tt.state {
					return fmt.Errorf("%d tasks, want %d, the last one %s", n, tt.tasks, tt.state)
				}
				return nil
			}
			eventually(t, 40*time.Second, "all its attempts", look)
			var ended time.Time
			for i, x := range tasks {
				if string(x.Status.State) != tt.state || x.Status.Err != tt.err || x.Slot != 1 || x.DesiredState != swarm.TaskStateShutdown {
					t.Errorf("task %d: slot %d, %s %q, wanted %s; want %s %q", i, x.Slot, x.Status.State, x.Status.Err, x.DesiredState, tt.state, tt.err)
				}
				run, err := c.ContainerInspect(t.Context(), x.Status.ContainerStatus.ContainerID)
				if err != nil { // it ran on the other node, whose socket would know it: the engine is the same
					t.Fatal(err)
				}
				start, err := time.Parse(time.RFC3339Nano, run.State.StartedAt)
				if err != nil {
					t.Fatal(err)
				}
				if i > 0 && start.Sub(ended) < delay {
					t.Errorf("task %d started %v after the one before it ended, want a delay of %v", i, start.Sub(ended), delay)
				}
				if ended, err = time.Parse(time.RFC3339Nano, run.State.FinishedAt); err != nil {
					t.Fatal(err)
				}
			}
			// No other one follows.
			if err := look(); err != nil {
				t.Error(err)
			}
		})
	}
	l.on(t, 1, "service", "rm", "any", "onfail-bad", "onfail-good", "none")
}

// testUpdate: a changed environment, arguments or image restarts the tasks one after another, so that the service serves
// all the time; a changed label restarts none.
func (l *lab) testUpdate(t *testing.T) {
	l.deploy(t, "--name", "web", "--replicas", "2", "--update-order", "stop-first", "--publish", "8103:8080", imageProbe, "/probe", "serve")
	running := func() []string {
		out := strings.Fields(l.on(t, 1, "service", "ps", "web", "--filter", "desired-state=running", "--no-trunc", "--format", "{{.ID}}"))
		slices.Sort(out)
		return out
	}
	before := running()
	l.on(t, 1, "service", "update", "--label-add", "x=y", "web")
	if after := running(); !slices.Equal(before, after) {
		t.Errorf("a label restarted tasks: %v, then %v", before, after)
	}
	const next = "meshswarm-test/probe:next"
	l.engineDo(t, "tag", imageProbe, next)
	defer l.engineDo(t, "rmi", next)
	_, stop := startLoad(t, 8103, "/", 1, 2)
	for _, change := range [][]string{{"--env-add", "A=1"}, {"--args", "/probe serve again"}, {"--image", next}} {
		before := running()
		out := l.on(t, 1, append(append([]string{"service", "update"}, change...), "web")...)
		if after := running(); len(after) != 2 || slices.ContainsFunc(after, func(id string) bool { return slices.Contains(before, id) }) {
			t.Errorf("update %v: tasks %v, then %v\n%s", change, before, after, out)
		}
		if out := l.on(t, 1, "service", "inspect", "--format", "{{.UpdateStatus.State}} {{.UpdateStatus.Message}}", "web"); strings.TrimSpace(out) != "completed update completed" {
			t.Errorf("update %v ended as %s", change, out)
		}
	}
	got := l.engineDo(t, "inspect", "--format", "{{.Config.Image}} {{.Config.Env}} {{.Path}} {{.Args}}", l.anyTask(t, "web"))
	if want := next + " [A=1"; !strings.HasPrefix(got, want) || !strings.HasSuffix(strings.TrimSpace(got), "/probe [serve again]") {
		t.Errorf("the updated task is %s", got)
	}
	checkFailures(t, stop(), time.Now().Add(-time.Hour)) // there is always one that serves
	l.on(t, 1, "service", "rm", "web")
}
