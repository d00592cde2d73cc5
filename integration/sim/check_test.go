package sim

import (
	"crypto/sha256"
	"fmt"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
	"github.com/meshswarm/meshswarm/sched"
)

// checkAll checks the end of the scenario.
func (s *simulation) checkAll() {
	view := s.checkSame()
	s.checkTasks(view)
	s.checkAddresses(view)
	var truth Truth
	s.nodes.call("Truth", struct{}{}, &truth)
	s.checkWorld(view, truth)
	s.checkTold(view)
	s.report.Nodes = truth.Memory
	for _, m := range s.managers {
		s.past = append(s.past, m.alive().audit)
	}
	for _, a := range s.past {
		s.complain(a.all())
		s.report.Store.RaftEntries = max(s.report.Store.RaftEntries, int(a.index))
		s.report.Store.Changes = max(s.report.Store.Changes, a.changes)
		s.report.Store.MostTasks = max(s.report.Store.MostTasks, a.maxTasks)
	}
	s.report.FalselyDown = s.suspects.falselyDown()
}

func (s *simulation) complain(list []string, n int) {
	for _, text := range list {
		s.Error(text)
	}
	if n > len(list) {
		s.Errorf("and %d more", n-len(list))
	}
}

// checkSame waits until all managers are at one index, and compares all they hold.
func (s *simulation) checkSame() state.View {
	var view state.View
	s.until("all managers hold the same", func() error {
		var sums [managers][sha256.Size]byte
		var views [managers]state.View
		for i, m := range s.managers {
			views[i] = m.alive().store.View()
			if views[i].Index() != views[0].Index() {
				return fmt.Errorf("%s is at index %d, %s at %d", m.id, views[i].Index(), s.managers[0].id, views[0].Index())
			}
		}
		for i := range views {
			h := sha256.New()
			if err := views[i].Snapshot(h); err != nil {
				s.Fatal(err)
			}
			h.Sum(sums[i][:0])
			if sums[i] != sums[0] {
				s.Fatalf("%s and %s differ at index %d", s.managers[i].id, s.managers[0].id, views[i].Index())
			}
		}
		view = views[0]
		return nil
	})
	return view
}

// checkTasks: no task is lost, none too many, all by the newest spec, and the history is bounded.
func (s *simulation) checkTasks(v state.View) {
	history := int(*v.Cluster().Spec.Orchestration.TaskHistoryRetentionLimit)
	s.report.Store.TasksAtEnd = len(v.Tasks())
	for _, svc := range s.services {
		running, kept := map[int]int{}, map[int]int{}
		for _, t := range v.TasksByService(svc.id) {
			kept[t.Slot]++
			if !meant(t) || state.Terminal(t.Status.State) {
				continue
			}
			running[t.Slot]++
			if t.Status.State != swarm.TaskStateRunning || t.SpecVersion != svc.version {
				s.Errorf("%s is %s at spec version %d", t.Name(), t.Status.State, t.SpecVersion)
			}
		}
		for slot := 1; slot <= svc.replicas; slot++ {
			if running[slot] != 1 {
				s.Errorf("%s.%d has %d tasks that shall run", svc.id, slot, running[slot])
			}
			if kept[slot] > history+1 {
				s.Errorf("%s.%d has %d tasks in the store, with a history of %d", svc.id, slot, kept[slot], history)
			}
		}
		if len(running) != svc.replicas {
			s.Errorf("%s has %d slots, want %d", svc.id, len(running), svc.replicas)
		}
	}
}

// checkAddresses looks at the whole view once more, by itself.
func (s *simulation) checkAddresses(v state.View) {
	owner := map[addrKey]string{}
	own := func(id string, list []addrKey) {
		for _, k := range list {
			if other := owner[k]; other != "" {
				s.Errorf("%s of network %s has owners %s and %s", k.addr, k.network, other, id)
			}
			owner[k] = id
		}
	}
	for _, t := range v.Tasks() {
		own(t.ID, taskAddresses(t))
	}
	ports := map[uint32]string{}
	for _, svc := range v.Services() {
		own(svc.ID, vips(svc))
		for _, p := range svc.Endpoint.Ports {
			if other := ports[p.PublishedPort]; other != "" {
				s.Errorf("port %d has services %s and %s", p.PublishedPort, other, svc.ID)
			}
			ports[p.PublishedPort] = svc.ID
		}
	}
	if len(owner) < s.tasks {
		s.Errorf("%d addresses for %d tasks", len(owner), s.tasks)
	}
}

// checkWorld: what runs on the machines is what the store says.
func (s *simulation) checkWorld(v state.View, truth Truth) {
	s.complain(truth.Complaints, truth.More+len(truth.Complaints))
	for _, o := range truth.Overlaps {
		if !s.suspects.excuses(o) {
			s.Errorf("beside %s others of its slot ran, on nodes %v", o.Task, o.Nodes)
		}
	}
	world := truth.Running
	for _, t := range v.Tasks() {
		node, runs := world[t.ID]
		delete(world, t.ID)
		says := t.Status.State == swarm.TaskStateRunning
		if runs != says || runs && node != t.NodeID {
			s.Errorf("%s: the store says %s on %s, it runs: %v on %q", t.Name(), t.Status.State, t.NodeID, runs, node)
		}
	}
	for id, node := range world {
		s.Errorf("task %s runs on %s, and the store does not know it", id, node)
	}
}

// checkTold: each witness holds what the scheduler would tell it from scratch.
func (s *simulation) checkTold(v state.View) {
	x := sched.NewAssignIndex(v)
	s.until("the witnesses know all", func() error {
		var told map[string]state.Assignments
		s.nodes.call("Told", struct{}{}, &told)
		if len(told) < s.witnesses {
			return fmt.Errorf("%d witnesses", len(told))
		}
		for id, got := range told {
			set, rm, changed := sched.Diff(got, x.Assign(id))
			if changed {
				return fmt.Errorf("%s is still to be told: %d tasks, %d networks, %d services, %d endpoints, %d nodes, removals %v",
					id, len(set.Tasks), len(set.Networks), len(set.Services), len(set.Endpoints), len(set.Nodes), rm)
			}
		}
		return nil
	})
}
