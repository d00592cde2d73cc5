package api

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

// TestDockerCLI drives the unmodified docker command line, where there is one.
func TestDockerCLI(t *testing.T) {
	for _, bin := range []string{"/usr/local/bin/docker", "/usr/bin/docker"} {
		if _, err := os.Stat(bin); err == nil {
			t.Run(bin, func(t *testing.T) { driveCLI(t, bin) })
		}
	}
}

func driveCLI(t *testing.T, bin string) {
	gone := make(chan struct{}, 1)
	eng := startEngine(t, oldEngine(t, gone))
	fc := newFakeCluster(t)
	_, c := start(t, Config{Local: managerNode(fc), Engine: eng, Version: "0.1.0"})
	home := t.TempDir()
	run := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), bin, args...)
		cmd.Env = []string{"DOCKER_HOST=" + c.DaemonHost(), "HOME=" + home, "PATH=" + os.Getenv("PATH")}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	want := func(args, text string) string {
		t.Helper()
		out, err := run(strings.Fields(args)...)
		if err != nil || !strings.Contains(out, text) {
			t.Errorf("docker %s: %v\n%s", args, err, out)
		}
		return out
	}
	refused := func(args, text string) {
		t.Helper()
		out, err := run(strings.Fields(args)...)
		if err == nil || !strings.Contains(out, text) {
			t.Errorf("docker %s: %v, want %q\n%s", args, err, text, out)
		}
	}
	want("version", "meshswarm")
	want("info", "Is Manager: true")
	want("node ls", "Leader")
	want("node inspect --pretty self", "Reachable")
	want("network create -d overlay --subnet 10.9.0.0/24 back", "")
	want("network ls", "overlay")
	want("network inspect -v back", "10.9.0.0/24")
	want("service create -d --name web --replicas 2 --network back -p 8080:80 nginx:1.27", "")
	id := fc.store.View().ServiceByName("web").ID
	addTask(t, fc, id, "task1aaaaaaaaaaaaaaaaaaaa", 1, swarm.TaskStateRunning, swarm.TaskStateRunning)
	svc := fc.store.View().Service(id).Clone()
	svc.Endpoint.Ports = svc.Spec.EndpointSpec.Ports
	fc.change(t, svc)
	want("service ls", "1/2")
	want("service ls", "*:8080->80/tcp")
	want("service ps web", "web.1")
	want("service inspect --pretty web", "nginx:1.27")
	want("service scale -d web=3", "web scaled to 3")
	want("service update -d --env-add A=b web", "web")
	if s := fc.store.View().Service(id); *s.Spec.Mode.Replicated.Replicas != 3 || s.SpecVersion != 2 || s.Spec.TaskTemplate.ContainerSpec.Env[0] != "A=b" {
		t.Errorf("after update: version %d, %+v", s.SpecVersion, s.Spec.TaskTemplate.ContainerSpec)
	}
	want("node update --label-add disk=ssd node2", "node2")
	want("node ps node2", "Running")
	fc.onLogs(func(context.Context, string, string, LogOptions) (io.ReadCloser, bool, error) {
		return io.NopCloser(bytes.NewReader(engineLog("out:hello from the task"))), false, nil
	})
	want("service logs web", "web.1.task1aaaaaaa@node2    | hello from the task")
	want("swarm join-token -q worker", "SWMTKN-1-w")
	want("ps -q", "a")
	refused("secret create s /etc/passwd", "not supported yet")
	want("service rollback -d web", "web")
	if s := fc.store.View().Service(id); s.SpecVersion != 3 || len(s.Spec.TaskTemplate.ContainerSpec.Env) != 0 || s.UpdateStatus.State != swarm.UpdateStateRollbackStarted {
		t.Errorf("after a rollback: version %d, %+v, %+v", s.SpecVersion, s.Spec.TaskTemplate.ContainerSpec, s.UpdateStatus)
	}
	want("service update -d --rollback web", "web")
	refused("network rm back", "is in use by service web")
	want("service rm web", "web")
	stack := filepath.Join(home, "stack.yml")
	if err := os.WriteFile(stack, []byte(stackFile), 0o600); err != nil {
		t.Fatal(err)
	}
	want("stack deploy -c "+stack+" shop", "Creating service shop_web")
	want("stack services shop", "shop_db")
	want("stack deploy -c "+stack+" shop", "Updating service shop_web")
	for _, s := range fc.store.View().Services() {
		if s.SpecVersion > 1 && s.Spec.Labels["com.docker.stack.namespace"] != "" {
			t.Errorf("deploying the same again makes revision %d of %s", s.SpecVersion, s.Spec.Name)
		}
	}
	want("stack rm shop", "Removing network shop_default")
	converge(t, fc)
	want("service create --name conv --replicas 3 --update-monitor 10ms nginx:1", "converged")
	n := fc.store.View().Node(testWorker).Clone()
	n.Status.State = swarm.NodeStateDown
	fc.apply(t, state.Op{Action: state.Update, Object: n, Expected: n.Modified})
	want("node rm node2", "node2")
}

const stackFile = `
version: "3.8"
services:
  web:
    image: nginx:1
    ports: ["8088:80"]
    deploy: {replicas: 2}
  db:
    image: redis:7
    environment: {A: b}
`

// converge is an orchestrator for new services: all tasks run at once, and those of jobs are done.
func converge(t *testing.T, fc *fakeCluster) {
	_, w := fc.store.ViewAndWatch()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	t.Cleanup(func() { cancel(); <-done })
	go func() {
		defer close(done)
		defer w.Close()
		for {
			commits, err := w.Next(ctx)
			if err != nil {
				return
			}
			for _, commit := range commits {
				for _, ch := range commit.Changes {
					if s, ok := ch.New.(*state.Service); ok && ch.Old == nil {
						runAll(t, fc, s)
					}
				}
			}
		}
	}()
}

// runAll makes the tasks of a service.
func runAll(t *testing.T, fc *fakeCluster, s *state.Service) {
	observed, desired, slots := swarm.TaskStateRunning, swarm.TaskStateRunning, uint64(0)
	if job(s.Spec.Mode) {
		observed, desired = swarm.TaskStateComplete, swarm.TaskStateComplete
	}
	switch m := s.Spec.Mode; modeOf(m) {
	case modeReplicated:
		slots = *m.Replicated.Replicas
	case modeReplicatedJob:
		slots = *m.ReplicatedJob.TotalCompletions
	default:
		for _, n := range fc.store.View().Nodes() {
			addTask(t, fc, s.ID, state.NewID(), 0, observed, desired, func(t *state.Task) { t.NodeID = n.ID })
		}
	}
	for slot := range int(slots) {
		addTask(t, fc, s.ID, state.NewID(), slot+1, observed, desired)
	}
}

// TestDockerCLIModes drives the docker command's own progress displays, which read tasks in their own way, and its lists.
func TestDockerCLIModes(t *testing.T) {
	bin, err := exec.LookPath("docker")
	if err != nil {
		t.Skip("no docker command")
	}
	fc := newFakeCluster(t)
	check := func(exprs []string) error {
		if exprs[0] == "node.rol==worker" {
			return errors.New("unknown key")
		}
		return nil
	}
	_, c := start(t, Config{Local: managerNode(fc), Version: "0.1.0", CheckConstraints: check})
	converge(t, fc)
	run := func(args string) (string, error) {
		cmd := exec.CommandContext(t.Context(), bin, strings.Fields(args)...)
		cmd.Env = []string{"DOCKER_HOST=" + c.DaemonHost(), "HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH")}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for _, tt := range []struct{ args, want string }{
		{"service create --mode global --name agent --update-monitor 10ms nginx:1", "converged"},
		{"service create --mode replicated-job --name job --replicas 3 --max-concurrent 2 nginx:1", "job complete"},
		{"service create --mode replicated-job --name one nginx:1", "job complete"},
		{"service create --mode global-job --name each nginx:1", "job complete"},
		{"service create -d --name spread --placement-pref spread=node.labels.rack --generic-resource GPU=2 --update-failure-action rollback --constraint node.role==worker nginx:1", ""},
		{"service ls --format {{.Name}}:{{.Mode}}:{{.Replicas}} -f name=agent", "agent:global:2/2"},
		{"service ls --format {{.Name}}:{{.Mode}}:{{.Replicas}} -f name=job", "job:replicated job:0/2 (3/3 completed)"},
		{"service ls --format {{.Name}}:{{.Mode}}:{{.Replicas}} -f name=each", "each:global job:0/0 (2/2 completed)"},
		{"service ls --format {{.Name}} -f mode=replicated-job", "job"},
		{"service ps --format {{.Name}} agent", "agent." + testWorker},
		{"service ps --format {{.Name}}:{{.CurrentState}} job", "job.3:Complete"},
		{"service inspect --format {{.Spec.TaskTemplate.Resources|json}} spread", `{"DiscreteResourceSpec":{"Kind":"GPU","Value":2}}`},
		{"service inspect --pretty spread", "On failure:	rollback"},
		{"service inspect --pretty agent", "Global"},
		{"service inspect --format {{.Spec.Mode|json}} job", `{"ReplicatedJob":{"MaxConcurrent":2,"TotalCompletions":3}}`},
		{"service update -d --force job", "job"},
		{"service rollback -d job", "job"},
		{"service scale -d job=5", "job scaled to 5"},
	} {
		if out, err := run(tt.args); err != nil || !strings.Contains(out, tt.want) {
			t.Errorf("docker %s: %v, want %q\n%s", tt.args, err, tt.want, out)
		}
	}
	for _, tt := range []struct{ args, want string }{
		{"service scale -d agent=5", "scale can only be used with replicated or replicated-job mode"},
		{"service rollback -d spread", "does not have a previous spec"},
		{"service update -d --rollback spread", "does not have a previous spec"},
		{"service create -d --constraint node.rol==worker nginx:1", "unknown key"},
		{"service create -d --rollback-failure-action rollback nginx:1", "cannot be rolled back"},
		{"service create -d --label meshswarm.update.timeout=1 nginx:1", "must be a duration"},
		{"service create -d --placement-pref spread=rack nginx:1", "spread=rack"},
		{"service create -d --name agent nginx:1", "name conflicts with an existing object"},
		{"node promote node2", "changing the role of a node is not supported yet"},
		{"node update --availability asleep node2", `invalid Availability: "asleep"`},
	} {
		if out, err := run(tt.args); err == nil || !strings.Contains(out, tt.want) {
			t.Errorf("docker %s: %v, want %q\n%s", tt.args, err, tt.want, out)
		}
	}
}
