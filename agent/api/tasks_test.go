package api

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

func sorted(in []string) string {
	slices.Sort(in)
	return strings.Join(in, " ")
}

// addTask puts a task of a service's newest revision on node 2.
func addTask(t *testing.T, fc *fakeCluster, service, id string, slot int, observed, desired swarm.TaskState, edits ...func(*state.Task)) *state.Task {
	t.Helper()
	s := fc.store.View().Service(service)
	task := &state.Task{
		ID: id, ServiceID: service, ServiceName: s.Spec.Name, SpecVersion: s.SpecVersion, Slot: slot, NodeID: testWorker,
		DesiredState: desired,
		Status:       swarm.TaskStatus{State: observed, ContainerStatus: &swarm.ContainerStatus{ContainerID: "c-" + id}},
	}
	for _, e := range edits {
		e(task)
	}
	fc.apply(t, state.Op{Action: state.Create, Object: task})
	return task
}

func TestTasks(t *testing.T) {
	fc, c := startManager(t)
	web := create(t, c, spec("web", publish(8080, ""), func(s *swarm.ServiceSpec) { s.Labels = map[string]string{"a": "b"} }))
	db := create(t, c, spec("db"))
	svc := fc.store.View().Service(web).Clone()
	svc.Endpoint.Ports = svc.Spec.EndpointSpec.Ports
	fc.change(t, svc)
	node := fc.store.View().Node(testWorker).Clone()
	node.PortErrors = map[string]string{"8080/tcp": "address already in use by nginx (pid 7)"}
	fc.change(t, node)
	addTask(t, fc, web, "web1task", 1, swarm.TaskStateRunning, swarm.TaskStateRunning, func(t *state.Task) {
		t.Networks = []state.Attachment{{NetworkID: "ingressidaaaaaaaaaaaaaaaa", Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.7/20")}}}
	})
	addTask(t, fc, web, "web2task", 2, swarm.TaskStatePending, swarm.TaskStateRunning, func(t *state.Task) { t.NodeID = "" })
	addTask(t, fc, db, "db1task", 1, swarm.TaskStateRunning, swarm.TaskStateShutdown)

	task, _, err := c.TaskInspectWithRaw(t.Context(), "web1")
	if err != nil {
		t.Fatal(err)
	}
	if task.Spec.ContainerSpec.Image != "nginx:latest" || task.Slot != 1 || task.Name != "" || task.Labels == nil {
		t.Errorf("task: %+v", task)
	}
	if a := task.NetworksAttachments; len(a) != 1 || a[0].Addresses[0] != "10.0.0.7/20" || a[0].Network.Spec.Name != "ingress" {
		t.Errorf("attachments: %+v", a)
	}
	if want := "port 8080/tcp is not served on node2: address already in use by nginx (pid 7)"; task.Status.Err != want {
		t.Errorf("Err %q, want %q", task.Status.Err, want)
	}
	if byName, _, err := c.TaskInspectWithRaw(t.Context(), "web.1.web1task"); err != nil || byName.ID != "web1task" {
		t.Errorf("by name: %v %v", byName.ID, err)
	}

	for _, tt := range []struct{ filter, want string }{
		{"", "db1task web1task web2task"}, {"service=web", "web1task web2task"}, {"service=" + db[:12], "db1task"},
		{"node=node2", "db1task web1task"}, {"service=web,node=" + testWorker, "web1task"}, {"desired-state=running", "web1task web2task"},
		{"desired-state=Shutdown", "db1task"}, {"label=a=b", "web1task web2task"}, {"name=web.2", "web2task"}, {"id=db", "db1task"},
		{"runtime=container", "db1task web1task web2task"}, {"runtime=plugin", ""}, {"_up-to-date=true", "db1task web1task web2task"},
	} {
		if got := listTasks(t, c.TaskList, tt.filter); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.filter, got, tt.want)
		}
	}
	s := inspect(t, c, web)
	s.Spec.TaskTemplate.ForceUpdate++
	if _, err := c.ServiceUpdate(t.Context(), web, s.Version, s.Spec, swarm.ServiceUpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := listTasks(t, c.TaskList, "_up-to-date=true"); got != "db1task" {
		t.Errorf("up to date after an update: %q", got)
	}
	// The way back makes a new version, whose tasks are like the first one's.
	s = inspect(t, c, web)
	s.Spec.TaskTemplate.ForceUpdate--
	if _, err := c.ServiceUpdate(t.Context(), web, s.Version, s.Spec, swarm.ServiceUpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := listTasks(t, c.TaskList, "_up-to-date=true"); got != "db1task web1task web2task" {
		t.Errorf("up to date after the way back: %q", got)
	}
	s = inspect(t, c, web)
	s.Spec.TaskTemplate.Placement = &swarm.Placement{MaxReplicas: 1}
	if _, err := c.ServiceUpdate(t.Context(), web, s.Version, s.Spec, swarm.ServiceUpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := listTasks(t, c.TaskList, "_up-to-date=true"); got != "db1task" {
		t.Errorf("up to date while the update looks at the placement: %q", got)
	}
	for filter, is := range map[string]func(error) bool{
		"service=none": cerrdefs.IsNotFound, "node=none": cerrdefs.IsNotFound, "node=node": cerrdefs.IsInvalidArgument,
		"desired-state=happy": cerrdefs.IsInternal, "color=red": cerrdefs.IsInvalidArgument,
	} {
		k, v, _ := strings.Cut(filter, "=")
		_, err := c.TaskList(t.Context(), swarm.TaskListOptions{Filters: filters.NewArgs(filters.Arg(k, v))})
		wantError(t, err, is, "")
	}
}

// TestTaskPorts: a running task tells its host-mode ports, but none that its node cannot serve.
func TestTaskPorts(t *testing.T) {
	fc, c := startManager(t)
	web := create(t, c, spec("web", publish(8080, ""), publish(9100, "host"), publish(9101, "host")))
	node := fc.store.View().Node(testWorker).Clone()
	node.PortErrors = map[string]string{"9101/tcp": "address already in use"}
	fc.change(t, node)
	addTask(t, fc, web, "up", 1, swarm.TaskStateRunning, swarm.TaskStateRunning)
	addTask(t, fc, web, "soon", 2, swarm.TaskStateStarting, swarm.TaskStateRunning)
	for id, want := range map[string][]uint32{"up": {9100}, "soon": nil} {
		task, _, err := c.TaskInspectWithRaw(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		var got []uint32
		for _, p := range task.Status.PortStatus.Ports {
			got = append(got, p.PublishedPort)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: ports %v, want %v", id, got, want)
		}
	}
}

func listTasks(t *testing.T, list func(context.Context, swarm.TaskListOptions) ([]swarm.Task, error), filter string) string {
	t.Helper()
	f := filters.NewArgs()
	for _, kv := range strings.Split(filter, ",") {
		if k, v, ok := strings.Cut(kv, "="); ok {
			f.Add(k, v)
		}
	}
	tasks, err := list(t.Context(), swarm.TaskListOptions{Filters: f})
	if err != nil {
		t.Fatalf("%s: %v", filter, err)
	}
	var ids []string
	for _, task := range tasks {
		ids = append(ids, task.ID)
	}
	return sorted(ids)
}

// TestCrashLoopIsVisible: Docker's lists show a task's error, not its message.
func TestCrashLoopIsVisible(t *testing.T) {
	fc, c := startManager(t)
	web := create(t, c, spec("web"))
	crashed := func(n uint32) func(*state.Task) { return func(t *state.Task) { t.Crashes = n } }
	addTask(t, fc, web, "held", 1, swarm.TaskStateReady, swarm.TaskStateReady, crashed(5))
	addTask(t, fc, web, "once", 2, swarm.TaskStateReady, swarm.TaskStateReady, crashed(1))
	addTask(t, fc, web, "again", 3, swarm.TaskStateRunning, swarm.TaskStateRunning, crashed(5))
	for id, want := range map[string]string{"held": "crashed 5 times in a row: waits before its next start", "once": "", "again": ""} {
		task, _, err := c.TaskInspectWithRaw(t.Context(), id)
		if err != nil || task.Status.Err != want {
			t.Errorf("%s: %q, %v, want %q", id, task.Status.Err, err, want)
		}
	}
}
