package sched

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/api/types/swarm"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/meshswarm/meshswarm/raft/state"
)

// checkPlaces compares what the board knows about the places of a service with what follows from the store.
func checkPlaces(r *rapid.T, b *board, got, want *serviceInfo) {
	if got == nil {
		r.Fatalf("service %s is not on the board", want.id)
	}
	if d := cmp.Diff(want.versions, got.versions); d != "" || len(got.places) != len(want.places) {
		r.Fatalf("service %s: %d places, want %d; tasks by revision: %s", want.id, len(got.places), len(want.places), d)
	}
	if want.service == nil || want.service.PendingDelete || want.revision() == nil {
		return
	}
	for p := range want.places {
		want.touched[p] = struct{}{}
	}
	b.assess(want)
	if got.counts != want.counts {
		r.Fatalf("service %s: counts %v, want %v", want.id, got.counts, want.counts)
	}
	if d := cmp.Diff(want.stale, got.stale, cmpopts.EquateEmpty()); d != "" {
		r.Fatalf("service %s: places to change (-store +board):\n%s", want.id, d)
	}
}

// TestConvergence lets everything happen: services of all modes come, change, are rolled back and rebalanced and go,
// tasks fail, nodes die, change, return and are removed, leaders change. All the time states only grow, no address has two
// owners and no place two tasks but for an update; in the end every service has what it wants, and when all is removed
// nothing is left.
func TestConvergence(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		s := &scenario{world: newWorld(t), specs: map[string]map[string][]string{}}
		defer s.close()
		s.command([]string{"network", "ingress", "ingress", "subnet=10.0.0.0/24"})
		s.command([]string{"network", "a"})
		s.command([]string{"network", "tiny", "subnet=10.9.0.0/27"})
		s.command([]string{"node", "n0"})
		s.race(rand.New(rand.NewPCG(rapid.Uint64().Draw(r, "seed"), 1)))
		nodes := []string{"n0", "n1", "n2", "n3"}
		names := []string{"s0", "s1", "g0", "j0", "k0"} // the letter is the mode
		past := map[string]*state.Task{}
		for range rapid.IntRange(1, 40).Draw(r, "steps") {
			s.randomStep(r, names, nodes)
			past = checkGrowth(r, past, s.store.View())
			if rapid.Bool().Draw(r, "think") {
				s.settle()
				s.check(r)
			}
		}
		s.converge(r, nodes)
		checkGrowth(r, past, s.store.View())
		s.clear(r)
	})
}

// check is what holds whenever the leader has come to rest.
func (s *scenario) check(r *rapid.T) {
	v := s.store.View()
	checkAddresses(r, v)
	checkBoard(r, s.world)
	for _, svc := range v.Services() {
		if !svc.PendingDelete {
			checkService(r, v, svc)
		}
	}
}

// checkGrowth: desired and observed states only grow, and a task never changes its place. It returns all tasks.
func checkGrowth(r *rapid.T, past map[string]*state.Task, v state.View) map[string]*state.Task {
	now := map[string]*state.Task{}
	for _, t := range v.Tasks() {
		now[t.ID] = t
		was := past[t.ID]
		if was == nil {
			continue
		}
		if state.Rank(t.DesiredState) < state.Rank(was.DesiredState) || state.Rank(t.Status.State) < state.Rank(was.Status.State) {
			r.Fatalf("task %s went back: from %s/%s to %s/%s", t.ID, was.DesiredState, was.Status.State, t.DesiredState, t.Status.State)
		}
		if t.Slot != was.Slot || was.NodeID != "" && t.NodeID != was.NodeID || t.Iteration != was.Iteration || t.SpecVersion != was.SpecVersion {
			r.Fatalf("task %s became another: %+v, was %+v", t.ID, t, was)
		}
	}
	return now
}

// checkService: one task per place, but for places that an update changes; tasks only where they may be, and of a job not
// more than it allows.
func checkService(r *rapid.T, v state.View, s *state.Service) {
	updating := inState(s, swarm.UpdateStateUpdating, swarm.UpdateStateRollbackStarted)
	m := modeOf(s)
	live1 := map[state.Place]int{}
	completed := map[state.Place]bool{}
	running := 0
	for _, t := range v.TasksByService(s.ID) {
		if done(t) && t.Iteration == s.JobStatus.JobIteration.Index {
			completed[t.Place()] = true
		}
		if !live(t) {
			continue
		}
		live1[t.Place()]++
		running++
		if n := live1[t.Place()]; n > 2 || n > 1 && !updating {
			r.Fatalf("service %s (%+v) has %d tasks in place %+v", s.ID, s.UpdateStatus, n, t.Place())
		}
		if m.perNode() != (t.Slot == 0) {
			r.Fatalf("task %s of %s has slot %d", t.ID, s.ID, t.Slot)
		}
		if n := v.Node(t.NodeID); m.perNode() && (n == nil || down(n) || drained(n)) {
			r.Fatalf("task %s of %s is on a node that must not have one: %+v\n%+v", t.ID, s.ID, n, t)
		}
		if m.job() && (t.Iteration != s.JobStatus.JobIteration.Index || completed[t.Place()]) {
			r.Fatalf("task %s runs though its iteration is over, or its part is done", t.ID)
		}
	}
	if m != replicatedJob {
		return
	}
	atOnce, total := jobSize(s)
	if running > atOnce || len(completed) > total {
		r.Fatalf("job %s: %d tasks at a time, %d completed", s.ID, running, len(completed))
	}
}

// race lets nodes report just before some of the leader's batches are applied, so that these are refused.
func (s *scenario) race(random *rand.Rand) {
	var mu sync.Mutex
	s.interfere = func() {
		mu.Lock()
		defer mu.Unlock()
		tasks := s.store.View().Tasks()
		if len(tasks) == 0 || random.IntN(3) > 0 {
			return
		}
		t := tasks[random.IntN(len(tasks))]
		if t.NodeID != "" && !preassigned(t) {
			s.report(t.ID, []swarm.TaskState{swarm.TaskStateRunning, swarm.TaskStateFailed, swarm.TaskStateShutdown}[random.IntN(3)], "in between")
		}
	}
}

var steps = []string{"service", "service", "service", "rm", "node", "node", "rmnode", "report", "report", "report", "work", "advance", "leader", "rollback", "rebalance"}

func (s *scenario) randomStep(r *rapid.T, names, nodes []string) {
	v := s.store.View()
	node := rapid.SampledFrom(nodes).Draw(r, "node")
	name := rapid.SampledFrom(names).Draw(r, "service")
	svc := v.ServiceByName(name)
	tasks := v.Tasks()
	switch rapid.SampledFrom(steps).Draw(r, "step") {
	case "service":
		s.command(randomService(r, name))
	case "rm":
		if svc != nil {
			s.command([]string{"rm", name})
		}
	case "rollback":
		if svc != nil && svc.PreviousSpec != nil && !modeOf(svc).job() {
			s.rollback(name)
		}
	case "rebalance":
		if svc != nil && svc.Rebalance == nil {
			s.rebalance(name)
		}
	case "node":
		s.command([]string{"node", node, "state=" + rapid.SampledFrom([]string{"ready", "ready", "down", "unknown"}).Draw(r, "state"),
			"availability=" + rapid.SampledFrom([]string{"active", "active", "pause", "drain"}).Draw(r, "availability"),
			"label=zone=" + rapid.SampledFrom([]string{"a", "a", "b"}).Draw(r, "zone"), fmt.Sprintf("cpus=%d", rapid.SampledFrom([]int{4, 4, 1}).Draw(r, "cpus")),
		})
	case "rmnode":
		if v.Node(node) != nil {
			s.command([]string{"rmnode", node})
		}
	case "report":
		if len(tasks) == 0 {
			return
		}
		t := rapid.SampledFrom(tasks).Draw(r, "task")
		if t.NodeID != "" && !preassigned(t) {
			s.report(t.ID, rapid.SampledFrom([]swarm.TaskState{swarm.TaskStateReady, swarm.TaskStateRunning, swarm.TaskStateRunning, swarm.TaskStateComplete,
				swarm.TaskStateShutdown, swarm.TaskStateFailed, swarm.TaskStateRejected}).Draw(r, "state"), "so it is")
		}
	case "work":
		s.work()
	case "advance":
		s.settle()
		s.advance(time.Duration(rapid.IntRange(1, 90).Draw(r, "seconds")) * time.Second)
	case "leader":
		s.lead()
	}
}

// randomService is the command that creates or updates a service.
func randomService(r *rapid.T, name string) []string {
	line := []string{"service", name,
		"network=" + rapid.SampledFrom([]string{"a", "tiny"}).Draw(r, "network"),
		fmt.Sprintf("image=app:%d", rapid.IntRange(1, 3).Draw(r, "image")),
		fmt.Sprintf("cpus=%d", rapid.IntRange(0, 1).Draw(r, "cpus")), rapid.SampledFrom([]string{"port", "port=0:80", "port=8080:80/host"}).Draw(r, "port"),
		rapid.SampledFrom([]string{"constraint=", "constraint=", "constraint=node.labels.zone==a"}).Draw(r, "constraint"),
		"attempts=" + rapid.SampledFrom([]string{"0", "0", "2"}).Draw(r, "attempts"),
	}
	switch name[0] {
	case 'j':
		line = append(line, "mode=replicated-job", fmt.Sprintf("concurrent=%d", rapid.IntRange(1, 3).Draw(r, "concurrent")),
			fmt.Sprintf("total=%d", rapid.IntRange(0, 5).Draw(r, "total")))
	case 'k':
		line = append(line, "mode=global-job")
	case 'g':
		line = append(line, "mode=global")
	case 's':
		line = append(line, fmt.Sprintf("replicas=%d", rapid.IntRange(0, 5).Draw(r, "replicas")),
			rapid.SampledFrom([]string{"label=", "label=", "label=meshswarm.rebalance=auto"}).Draw(r, "label"))
	}
	if strings.ContainsAny(name[:1], "jk") {
		return append(line, "restart="+rapid.SampledFrom([]string{"on-failure", "none"}).Draw(r, "restart"))
	}
	actions := []string{"pause", "continue", "rollback"}
	return append(line, fmt.Sprintf("parallelism=%d", rapid.IntRange(0, 2).Draw(r, "parallelism")),
		"order="+rapid.SampledFrom([]string{"", "start-first"}).Draw(r, "order"), "failure="+rapid.SampledFrom(actions).Draw(r, "failure"),
		"rollback-order="+rapid.SampledFrom([]string{"", "start-first"}).Draw(r, "rollback-order"),
		"rollback-failure="+rapid.SampledFrom(actions[:2]).Draw(r, "rollback-failure"),
		"restart="+rapid.SampledFrom([]string{"any", "on-failure", "none"}).Draw(r, "restart"))
}

// converge makes everything possible and checks that it then happens.
func (s *scenario) converge(r *rapid.T, nodes []string) {
	s.interfere = nil
	for _, n := range nodes {
		s.command([]string{"node", n, "state=ready", "availability=active", "cpus=100", "label=zone=a"})
	}
	for _, svc := range s.store.View().Services() {
		line := []string{"service", svc.Spec.Name, "image=final", "restart=on-failure", "attempts=0", "failure=continue", "port", "replicas=2"}
		if !svc.PendingDelete {
			s.command(line)
		}
	}
	for range 12 {
		s.work()
		s.finishJobs()
		s.advance(time.Minute)
	}
	v := s.store.View()
	s.check(r)
	for _, svc := range v.Services() {
		if svc.PendingDelete {
			r.Fatalf("service %s is still there", svc.ID)
		}
		s.checkDone(r, v, svc, len(nodes))
	}
}

func (s *scenario) finishJobs() {
	for _, svc := range s.store.View().Services() {
		if modeOf(svc).job() && !svc.PendingDelete {
			s.command([]string{"finish", svc.Spec.Name})
		}
	}
}

// checkDone: the service has what it wants, and nothing else.
func (s *scenario) checkDone(r *rapid.T, v state.View, svc *state.Service, nodes int) {
	_, want := jobSizeOr(svc)
	switch modeOf(svc) {
	case replicated:
		want = 2
	case global, globalJob:
		want = nodes
	}
	has := map[state.Place]bool{}
	for _, t := range v.TasksByService(svc.ID) {
		switch {
		case !live(t) && !state.Terminal(t.Status.State):
			r.Fatalf("task %s was not stopped:\n%s", t.ID, s.tasks(""))
		case live(t) && (modeOf(svc).job() || t.Status.State != swarm.TaskStateRunning || t.SpecVersion != svc.SpecVersion):
			r.Fatalf("task %s is not as it should be:\n%s", t.ID, s.tasks(""))
		case live(t), done(t):
			has[t.Place()] = true
		}
	}
	if len(has) != want {
		r.Fatalf("service %s has %d tasks, want %d:\n%s%s", svc.ID, len(has), want, s.services(), s.tasks(""))
	}
	if svc.UpdateStatus != nil && svc.UpdateStatus.State != swarm.UpdateStateCompleted || svc.Rebalance != nil {
		r.Fatalf("update of %s: %+v, rebalance %+v", svc.ID, svc.UpdateStatus, svc.Rebalance)
	}
	if rebalancesItself(svc) {
		moves, err := PlanRebalance(v, svc.ID, s.clock.Now())
		if err != nil || len(moves) > 0 {
			r.Fatalf("spread of %s is still off: %v, %v", svc.ID, moves, err)
		}
	}
}

func jobSizeOr(s *state.Service) (int, int) {
	if modeOf(s) != replicatedJob {
		return 0, 0
	}
	return jobSize(s)
}

// clear removes everything, and checks that nothing is left.
func (s *scenario) clear(r *rapid.T) {
	for _, svc := range s.store.View().Services() {
		s.command([]string{"rm", svc.Spec.Name})
	}
	for _, n := range []string{"ingress", "a", "tiny"} {
		s.command([]string{"rmnetwork", n})
	}
	s.work()
	checkBoard(r, s.world)
	v := s.store.View()
	if len(v.Services())+len(v.Tasks())+len(v.Networks()) > 0 {
		r.Fatalf("left behind: %d services, %d networks\n%s", len(v.Services()), len(v.Networks()), s.tasks(""))
	}
	for _, n := range s.created {
		if left := v.Revisions(n); len(left) > 0 {
			r.Fatalf("%d revisions of %s are left", len(left), n)
		}
	}
}
