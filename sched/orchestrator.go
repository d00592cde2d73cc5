package sched

import (
	"cmp"
	"log/slog"
	"maps"
	"math"
	"slices"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

// orchestrator makes and ends the tasks of replicated services.
type orchestrator struct {
	b         *board
	newID     func() string
	allocator *allocator
	updater   *updater
	log       *slog.Logger
}

// run reconciles the services that changed or are due.
func (o *orchestrator) run() {
	b := o.b
	if b.freed {
		maps.Copy(b.dirty, b.blocked)
	}
	for _, id := range sorted(b.dirty) {
		if s := b.services[id]; s != nil {
			b.together()
			o.reconcile(s)
		}
	}
	clear(b.dirty)
}

// orphan gives up tasks whose node was removed, or has been down for a day: they are over, whatever the node does.
func (o *orchestrator) orphan() {
	b := o.b
	for _, id := range sorted(b.deserted) {
		o.orphanTasks(id, "Task belonged to a node that has been deleted")
	}
	clear(b.deserted)
	for _, id := range sorted(b.desert) {
		if !b.desert[id].After(b.now) {
			o.orphanTasks(id, "Task belonged to a node that has been down for too long")
			delete(b.desert, id)
		}
	}
}

func (o *orchestrator) orphanTasks(node, message string) {
	n := o.b.nodes[node]
	if n == nil {
		return
	}
	for _, id := range sorted(n.tasks) {
		if t := n.tasks[id]; !state.Terminal(t.Status.State) {
			o.b.together()
			o.b.setStatus(t.Task, swarm.TaskStateOrphaned, message, "")
			o.b.dirty[t.ServiceID] = struct{}{}
		}
	}
}

// reconcile brings one service's tasks closer to its spec.
func (o *orchestrator) reconcile(s *serviceInfo) {
	if s.service == nil || s.service.PendingDelete {
		o.removeAll(s)
		return
	}
	o.allocator.service(s)
	want, ok := replicas(s.service)
	if !ok || s.revision() == nil {
		return
	}
	places := sortedPlaces(s.places)
	o.updater.watch(s)
	for _, p := range places {
		o.restart(s, p)
	}
	o.scale(s, want)
	o.updater.step(s, o.occupied(s))
	for _, p := range sortedPlaces(s.places) {
		o.release(s, p)
	}
}

// replicas is how many tasks the service wants; false for the modes that are not replicated.
func replicas(s *state.Service) (int, bool) {
	m := s.Spec.Mode
	if m.Global != nil || m.ReplicatedJob != nil || m.GlobalJob != nil {
		return 0, false
	}
	if m.Replicated == nil || m.Replicated.Replicas == nil {
		return 1, true
	}
	return int(min(*m.Replicated.Replicas, math.MaxInt32)), true
}

func (o *orchestrator) removeAll(s *serviceInfo) {
	s.rollout = nil
	o.b.ending[s.id] = struct{}{}
	for _, p := range sortedPlaces(s.places) {
		o.removePlace(s, p)
	}
}

// removePlace has all tasks of a place removed, those of the past, too.
func (o *orchestrator) removePlace(s *serviceInfo, p state.Place) {
	for _, t := range s.tasksIn(p) {
		o.b.together()
		o.b.setDesired(t, swarm.TaskStateRemove)
	}
}

// occupied lists, by place, the tasks that stand for it: those that shall run, or else the last one if by the restart
// policy nothing shall follow it.
func (o *orchestrator) occupied(s *serviceInfo) map[state.Place][]*state.Task {
	out := make(map[state.Place][]*state.Task, len(s.places))
	for p, i := range s.places {
		tasks := i.tasks
		var stand []*state.Task
		for _, t := range tasks {
			if live(t) {
				stand = append(stand, t)
			}
		}
		if last := tasks[len(tasks)-1]; len(stand) == 0 && last.DesiredState == swarm.TaskStateShutdown && !o.shouldRestart(s, last) {
			stand = tasks[len(tasks)-1:]
		}
		if len(stand) > 0 {
			out[p] = stand
		}
	}
	return out
}

// scale adds slots at the lowest free numbers, or removes those that Swarm would.
func (o *orchestrator) scale(s *serviceInfo, want int) {
	have := o.occupied(s)
	switch {
	case len(have) < want:
		for slot, missing := 1, want-len(have); missing > 0; slot++ {
			p := state.Place{Slot: slot}
			if _, taken := have[p]; taken {
				continue
			}
			o.b.together()
			o.b.put(o.newTask(s, p, swarm.TaskStateRunning))
			have[p] = nil
			missing--
		}
	case len(have) > want:
		for _, p := range victims(have, len(have)-want) {
			o.removePlace(s, p)
			delete(have, p)
		}
	}
	for _, p := range sortedPlaces(s.places) { // what is left of places that nothing stands for
		if _, ok := have[p]; !ok {
			o.removePlace(s, p)
		}
	}
}

// victims chooses slots to remove: first what does not run or has no node, then the fullest node's, then the highest
// number (swarmkit manager/orchestrator/replicated).
func victims(have map[state.Place][]*state.Task, n int) []state.Place {
	order := sortedPlaces(have)
	slices.SortStableFunc(order, func(a, b state.Place) int { return cmp.Compare(idle(have[a]), idle(have[b])) })
	copies := map[string]int{}
	nth := make(map[state.Place]int, len(order))
	for _, p := range order {
		nth[p] = math.MaxInt
		if tasks := have[p]; len(tasks) == 1 && tasks[0].NodeID != "" {
			copies[tasks[0].NodeID]++
			nth[p] = copies[tasks[0].NodeID]
		}
	}
	slices.SortStableFunc(order, func(a, b state.Place) int { return cmp.Compare(nth[a], nth[b]) })
	return order[len(order)-n:]
}

// idle is 0 for a place with a running task, else 1.
func idle(tasks []*state.Task) int {
	if slices.ContainsFunc(tasks, func(t *state.Task) bool { return t.Status.State == swarm.TaskStateRunning }) {
		return 0
	}
	return 1
}

func (o *orchestrator) newTask(s *serviceInfo, p state.Place, desired swarm.TaskState) *state.Task {
	return newTask(o.b, o.newID(), s, p, desired)
}

func newTask(b *board, id string, s *serviceInfo, p state.Place, desired swarm.TaskState) *state.Task {
	t := &state.Task{
		ID: id, ServiceID: s.id, ServiceName: s.service.Spec.Name, SpecVersion: s.service.SpecVersion, Slot: p.Slot, NodeID: p.NodeID,
		DesiredState: desired,
		Status:       swarm.TaskStatus{Timestamp: b.now, State: swarm.TaskStateNew, Message: "created"},
	}
	t.CreatedAt = b.now // as the store will say
	return t
}
