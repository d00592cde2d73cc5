package api

import (
	"testing"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/swarm"
	"github.com/docker/docker/client"

	"github.com/meshswarm/meshswarm/raft/state"
)

func number(n uint64) *uint64 { return &n }

func withMode(m swarm.ServiceMode) func(*swarm.ServiceSpec) {
	return func(s *swarm.ServiceSpec) { s.Mode = m }
}

func globalMode() func(*swarm.ServiceSpec) {
	return withMode(swarm.ServiceMode{Global: &swarm.GlobalService{}})
}

func jobMode(concurrent, total *uint64) func(*swarm.ServiceSpec) {
	return withMode(swarm.ServiceMode{ReplicatedJob: &swarm.ReplicatedJob{MaxConcurrent: concurrent, TotalCompletions: total}})
}

func globalJobMode() func(*swarm.ServiceSpec) {
	return withMode(swarm.ServiceMode{GlobalJob: &swarm.GlobalJob{}})
}

func updateService(t *testing.T, c *client.Client, id string, o swarm.ServiceUpdateOptions, edits ...func(*swarm.ServiceSpec)) swarm.Service {
	t.Helper()
	s := inspect(t, c, id)
	for _, e := range edits {
		e(&s.Spec)
	}
	if _, err := c.ServiceUpdate(t.Context(), id, s.Version, s.Spec, o); err != nil {
		t.Fatalf("update %s: %v", id, err)
	}
	return inspect(t, c, id)
}

func TestModeDefaults(t *testing.T) {
	_, c := startManager(t)
	for _, tt := range []struct {
		name                string
		edit                func(*swarm.ServiceSpec)
		mode                mode
		concurrent, desired uint64
	}{
		{"none", withMode(swarm.ServiceMode{}), modeReplicated, 0, 0},
		{"noreplicas", withMode(swarm.ServiceMode{Replicated: &swarm.ReplicatedService{}}), modeReplicated, 0, 0},
		{"global", globalMode(), modeGlobal, 0, 0},
		{"globaljob", globalJobMode(), modeGlobalJob, 0, 0},
		{"job", jobMode(nil, nil), modeReplicatedJob, 1, 1},
		{"jobof", jobMode(number(3), nil), modeReplicatedJob, 3, 3},
		{"jobtotal", jobMode(nil, number(7)), modeReplicatedJob, 1, 7},
		{"nothing", jobMode(number(0), number(0)), modeReplicatedJob, 0, 0},
	} {
		s := inspect(t, c, create(t, c, spec(tt.name, tt.edit)))
		if got := modeOf(s.Spec.Mode); got != tt.mode || got == modeReplicated && *s.Spec.Mode.Replicated.Replicas != 1 {
			t.Errorf("%s: mode %s, %+v", tt.name, got, s.Spec.Mode.Replicated)
		}
		if j := s.Spec.Mode.ReplicatedJob; j != nil && (*j.MaxConcurrent != tt.concurrent || *j.TotalCompletions != tt.desired) {
			t.Errorf("%s: %d of %d at a time", tt.name, *j.TotalCompletions, *j.MaxConcurrent)
		}
		if (s.JobStatus != nil) != job(s.Spec.Mode) || s.JobStatus != nil && (s.JobStatus.JobIteration.Index != 0 || s.JobStatus.LastExecution.IsZero()) {
			t.Errorf("%s: job status %+v", tt.name, s.JobStatus)
		}
		defaults, _, err := c.ServiceInspectWithRaw(t.Context(), s.ID, swarm.ServiceInspectOptions{InsertDefaults: true})
		if err != nil || (defaults.Spec.UpdateConfig == nil) != job(s.Spec.Mode) {
			t.Errorf("%s: update config by default: %+v, %v", tt.name, defaults.Spec.UpdateConfig, err)
		}
		list, err := c.ServiceList(t.Context(), swarm.ServiceListOptions{Filters: filters.NewArgs(filters.Arg("mode", string(tt.mode)), filters.Arg("name", tt.name))})
		if err != nil || len(list) == 0 {
			t.Errorf("%s: filter by mode: %v, %v", tt.name, list, err)
		}
	}
}

// TestJobsRunAgain: each update of a job is another iteration, also one that changes nothing.
func TestJobsRunAgain(t *testing.T) {
	fc := newFakeCluster(t)
	now := time.Now().UTC()
	_, c := start(t, Config{Local: managerNode(fc), Now: func() time.Time { now = now.Add(time.Second); return now }})
	id := create(t, c, spec("job", jobMode(number(2), number(4))))
	first := inspect(t, c, id)
	again := updateService(t, c, id, swarm.ServiceUpdateOptions{})
	if again.JobStatus.JobIteration.Index != 1 || !again.JobStatus.LastExecution.After(first.JobStatus.LastExecution) {
		t.Errorf("after an update of nothing: %+v, was %+v", again.JobStatus, first.JobStatus)
	}
	if v := fc.store.View().Service(id).SpecVersion; v != 1 {
		t.Errorf("an update of nothing made revision %d", v)
	}
	updateService(t, c, id, swarm.ServiceUpdateOptions{}, func(s *swarm.ServiceSpec) { s.TaskTemplate.ForceUpdate++ })
	back := updateService(t, c, id, swarm.ServiceUpdateOptions{Rollback: "previous"})
	if back.JobStatus.JobIteration.Index != 3 || back.Spec.TaskTemplate.ForceUpdate != 0 || back.UpdateStatus != nil {
		t.Errorf("after the rollback of a job: %+v, %+v", back.JobStatus, back.UpdateStatus)
	}
	s := inspect(t, c, id)
	s.Spec.Mode = swarm.ServiceMode{}
	_, err := c.ServiceUpdate(t.Context(), id, s.Version, s.Spec, swarm.ServiceUpdateOptions{})
	wantError(t, err, cerrdefs.IsNotImplemented, "service mode change is not allowed")
}

// TestStatusOfModes: what `service ls` counts, and which tasks a progress display sees.
func TestStatusOfModes(t *testing.T) {
	fc, c := startManager(t)
	on := func(node string) func(*state.Task) { return func(t *state.Task) { t.NodeID = node } }
	iteration := func(n uint64) func(*state.Task) { return func(t *state.Task) { t.Iteration = n } }

	agent := create(t, c, spec("agent", globalMode()))
	addTask(t, fc, agent, "g1", 0, swarm.TaskStateRunning, swarm.TaskStateRunning, on(testNode))
	addTask(t, fc, agent, "g2old", 0, swarm.TaskStateFailed, swarm.TaskStateShutdown)
	addTask(t, fc, agent, "g2", 0, swarm.TaskStateReady, swarm.TaskStateReady) // waits to be started again

	job := create(t, c, spec("job", jobMode(number(2), number(5))))
	addTask(t, fc, job, "j1old", 1, swarm.TaskStateComplete, swarm.TaskStateRemove)
	updateService(t, c, job, swarm.ServiceUpdateOptions{})
	addTask(t, fc, job, "j1", 1, swarm.TaskStateComplete, swarm.TaskStateComplete, iteration(1))
	addTask(t, fc, job, "j2", 2, swarm.TaskStateRunning, swarm.TaskStateComplete, iteration(1))
	addTask(t, fc, job, "j3failed", 3, swarm.TaskStateFailed, swarm.TaskStateShutdown, iteration(1))

	each := create(t, c, spec("each", globalJobMode()))
	addTask(t, fc, each, "e1", 0, swarm.TaskStateComplete, swarm.TaskStateComplete, on(testNode))
	addTask(t, fc, each, "e2", 0, swarm.TaskStateRunning, swarm.TaskStateComplete)

	list, err := c.ServiceList(t.Context(), swarm.ServiceListOptions{Status: true})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]swarm.ServiceStatus{
		agent: {RunningTasks: 1, DesiredTasks: 2},
		job:   {RunningTasks: 1, DesiredTasks: 2, CompletedTasks: 1},
		each:  {RunningTasks: 1, DesiredTasks: 1, CompletedTasks: 1},
	}
	for _, s := range list {
		if *s.ServiceStatus != want[s.ID] {
			t.Errorf("%s: %+v, want %+v", s.Spec.Name, *s.ServiceStatus, want[s.ID])
		}
	}

	upToDate := func(service, want string) []swarm.Task {
		t.Helper()
		tasks, err := c.TaskList(t.Context(), swarm.TaskListOptions{Filters: filters.NewArgs(filters.Arg("service", service), filters.Arg("_up-to-date", "true"))})
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for _, task := range tasks {
			ids = append(ids, task.ID)
		}
		if got := sorted(ids); got != want {
			t.Errorf("up to date of %s: %q, want %q", service, got, want)
		}
		return tasks
	}
	upToDate("agent", "g1 g2 g2old")
	upToDate("each", "e1 e2")
	for _, task := range upToDate("job", "j1 j2 j3failed") {
		shown, _, err := c.TaskInspectWithRaw(t.Context(), task.ID)
		if err != nil {
			t.Fatal(err)
		}
		// Docker's progress display counts from 0, its list of tasks from 1.
		if task.Slot != shown.Slot-1 || shown.Slot == 0 || shown.JobIteration == nil || shown.JobIteration.Index != 1 {
			t.Errorf("task %s: slot %d for progress, %d else, iteration %+v", task.ID, task.Slot, shown.Slot, shown.JobIteration)
		}
	}
	if task, _, err := c.TaskInspectWithRaw(t.Context(), "g1"); err != nil || task.Slot != 0 || task.JobIteration != nil {
		t.Errorf("a global service's task: %+v, %v", task, err)
	}

	// A drained node will not run it again: nobody must wait for it.
	addTask(t, fc, agent, "g2last", 0, swarm.TaskStateShutdown, swarm.TaskStateShutdown)
	upToDate("agent", "g1 g2 g2last g2old")
	n := fc.store.View().Node(testWorker).Clone()
	n.Spec.Availability = swarm.NodeAvailabilityDrain
	fc.change(t, n)
	upToDate("agent", "g1 g2")
}

func TestTaskTellsItsGenericResources(t *testing.T) {
	fc, c := startManager(t)
	id := create(t, c, spec("web"))
	gpu := swarm.GenericResource{NamedResourceSpec: &swarm.NamedGenericResource{Kind: "GPU", Value: "UUID1"}}
	addTask(t, fc, id, "task", 1, swarm.TaskStateRunning, swarm.TaskStateRunning, func(t *state.Task) {
		t.GenericResources = []swarm.GenericResource{gpu}
	})
	task, _, err := c.TaskInspectWithRaw(t.Context(), "task")
	if err != nil || len(task.GenericResources) != 1 || *task.GenericResources[0].NamedResourceSpec != *gpu.NamedResourceSpec {
		t.Errorf("generic resources: %+v, %v", task.GenericResources, err)
	}
}
