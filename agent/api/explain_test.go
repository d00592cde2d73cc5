package api

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

func TestExplain(t *testing.T) {
	fc := newFakeCluster(t)
	_, c := start(t, Config{Local: managerNode(fc), Explain: func(v state.View, id string, now time.Time) (any, error) {
		if now.IsZero() {
			return nil, errors.New("no time")
		}
		return map[string]string{"Service": v.Service(id).Spec.Name}, nil
	}})
	id := create(t, c, spec("web"))
	for _, term := range []string{"web", id, id[:8]} {
		code, h, text := raw(t, socketOf(c), http.MethodGet, "/v1.44/meshswarm/services/"+term+"/explain", "")
		if code != 200 || strings.TrimSpace(text) != `{"Service":"web"}` || !strings.HasPrefix(h.Get("Content-Type"), "application/json") {
			t.Errorf("explain %s: %d %s", term, code, text)
		}
	}
	if code, _, text := raw(t, socketOf(c), http.MethodGet, "/meshswarm/services/nope/explain", ""); code != 404 || !strings.Contains(text, "service nope not found") {
		t.Errorf("explain what is not there: %d %s", code, text)
	}
}

func TestRebalance(t *testing.T) {
	fc := newFakeCluster(t)
	plan := []Move{{TaskID: "t1", Slot: 1, From: testWorker}, {TaskID: "t3", Slot: 3, From: testWorker}}
	_, c := start(t, Config{Local: managerNode(fc), PlanRebalance: func(state.View, string, time.Time) ([]Move, error) { return plan, nil }})
	id := create(t, c, spec("web"))
	for i := range 3 {
		addTask(t, fc, id, []string{"t1", "t2", "t3"}[i], i+1, swarm.TaskStateRunning, swarm.TaskStateRunning)
	}
	ask := func(service string) (int, string) {
		t.Helper()
		code, _, text := raw(t, socketOf(c), http.MethodPost, "/meshswarm/services/"+service+"/rebalance", "")
		return code, strings.TrimSpace(text)
	}
	before := inspect(t, c, id)
	want := `{"Moves":[{"TaskID":"t1","Slot":1,"From":"` + testWorker + `"},{"TaskID":"t3","Slot":3,"From":"` + testWorker + `"}]}`
	if code, text := ask("web"); code != 200 || text != want {
		t.Errorf("rebalance: %d %s, want %s", code, text, want)
	}
	s := fc.store.View().Service(id)
	if s.Rebalance == nil || strings.Join(s.Rebalance.Tasks, " ") != "t1 t3" || s.Rebalance.Requested.IsZero() {
		t.Errorf("stored: %+v", s.Rebalance)
	}
	if s.Version != before.Version {
		t.Errorf("version %d, was %d: nobody changed the spec", s.Version.Index, before.Version.Index)
	}
	if got := listTasks(t, c.TaskList, "service=web,_up-to-date=true"); got != "t2" {
		t.Errorf("up to date while others are to move: %q", got)
	}
	if code, text := ask("web"); code != 409 || !strings.Contains(text, "is being rebalanced already: 2 tasks are to move") {
		t.Errorf("twice: %d %s", code, text)
	}
	// An update ends it.
	updateService(t, c, id, swarm.ServiceUpdateOptions{}, func(s *swarm.ServiceSpec) { s.Labels = map[string]string{"a": "b"} })
	if s := fc.store.View().Service(id); s.Rebalance != nil {
		t.Errorf("after an update: %+v", s.Rebalance)
	}
	for st, text := range map[swarm.UpdateState]string{
		swarm.UpdateStateUpdating: "is being updated", swarm.UpdateStateRollbackStarted: "is being updated",
		swarm.UpdateStatePaused: "is paused (the reason)", swarm.UpdateStateRollbackPaused: "is paused (the reason)",
	} {
		s := fc.store.View().Service(id).Clone()
		s.UpdateStatus = &swarm.UpdateStatus{State: st, Message: "the reason"}
		fc.change(t, s)
		if code, got := ask("web"); code != 409 || !strings.Contains(got, text) {
			t.Errorf("while %s: %d %s", st, code, got)
		}
	}
	s = fc.store.View().Service(id).Clone()
	s.UpdateStatus.State = swarm.UpdateStateCompleted
	fc.change(t, s)
	plan = nil
	if code, text := ask("web"); code != 200 || text != `{"Moves":[]}` || fc.store.View().Service(id).Rebalance != nil {
		t.Errorf("nothing to do: %d %s", code, text)
	}
	if code, text := ask("nope"); code != 404 {
		t.Errorf("unknown: %d %s", code, text)
	}
	for name, edit := range map[string]func(*swarm.ServiceSpec){"global": globalMode(), "replicated-job": jobMode(nil, nil)} {
		create(t, c, spec(name, edit))
		if code, text := ask(name); code != 400 || !strings.Contains(text, "is in "+name+" mode: only replicated services can be rebalanced") {
			t.Errorf("%s: %d %s", name, code, text)
		}
	}
}

// TestOwnRoutesElsewhere: without their functions they say so, on a worker they answer as Docker's routes do.
func TestOwnRoutesElsewhere(t *testing.T) {
	_, manager := startManager(t)
	create(t, manager, spec("web"))
	_, worker := start(t, Config{Local: &fakeLocal{status: Status{State: swarm.LocalNodeStateActive, NodeID: "n"}}})
	leaderless := newFakeCluster(t)
	leaderless.setLeader("")
	_, alone := start(t, Config{Local: managerNode(leaderless)})
	for method, path := range map[string]string{http.MethodGet: "/meshswarm/services/web/explain", http.MethodPost: "/meshswarm/services/web/rebalance"} {
		if code, _, text := raw(t, socketOf(manager), method, path, ""); code != 501 {
			t.Errorf("%s without its function: %d %s", path, code, text)
		}
		if code, _, text := raw(t, socketOf(worker), method, path, ""); code != 503 || !strings.Contains(text, "Worker nodes can't be used") {
			t.Errorf("%s on a worker: %d %s", path, code, text)
		}
	}
	if code, _, text := raw(t, socketOf(alone), http.MethodGet, "/meshswarm/services/web/explain", ""); code != 503 || !strings.Contains(text, "does not have a leader") {
		t.Errorf("without a leader: %d %s", code, text)
	}
}
