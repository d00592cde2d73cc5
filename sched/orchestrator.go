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
	slots := sorted(s.slots)
	o.updater.watch(s)
	for _, slot := range slots {
		o.restart(s, slot)
	}
	o.scale(s, want)
	o.updater.step(s, o.occupied(s))
	for _, slot := range sorted(s.slots) {
		o.release(s, slot)
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
	for _, slot := range sorted(s.slots) {
		o.removeSlot(s, slot)
	}
}

// removeSlot has all tasks of a slot removed, those of the past, too.
func (o *orchestrator) removeSlot(s *serviceInfo, slot int) {
	for _, t := range slices.Clone(s.slots[slot]) {
		o.b.together()
		o.b.setDesired(t, swarm.TaskStateRemove)
	}
}

// occupied lists, by slot, the tasks that stand for it: those that shall run, or else the last one if by the restart
// policy nothing shall follow it.
func (o *orchestrator) occupied(s *serviceInfo) map[int][]*state.Task {
	out := make(map[int][]*state.Task, len(s.slots))
	for slot, tasks := range s.slots {
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
			out[slot] = stand
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
			if _, taken := have[slot]; taken {
				continue
			}
			o.b.together()
			o.b.put(o.newTask(s, slot, swarm.TaskStateRunning))
			have[slot] = nil
			missing--
		}
	case len(have) > want:
		for _, slot := range victims(have, len(have)-want) {
			o.removeSlot(s, slot)
			delete(have, slot)
		}
	}
	for _, slot := range sorted(s.slots) { // what is left of slots that nothing stands for
		if _, ok := have[slot]; !ok {
			o.removeSlot(s, slot)
		}
	}
}

// victims chooses slots to remove: first what does not run or has no node, then the fullest node's, then the highest
// number (swarmkit manager/orchestrator/replicated).
func victims(slots map[int][]*state.Task, n int) []int {
	order := sorted(slots)
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(idle(slots[a]), idle(slots[b])) })
	copies := map[string]int{}
	nth := make(map[int]int, len(order))
	for _, slot := range order {
		nth[slot] = math.MaxInt
		if tasks := slots[slot]; len(tasks) == 1 && tasks[0].NodeID != "" {
			copies[tasks[0].NodeID]++
			nth[slot] = copies[tasks[0].NodeID]
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(nth[a], nth[b]) })
	return order[len(order)-n:]
}

// idle is 0 for a slot with a running task, else 1.
func idle(tasks []*state.Task) int {
	if slices.ContainsFunc(tasks, func(t *state.Task) bool { return t.Status.State == swarm.TaskStateRunning }) {
		return 0
	}
	return 1
}

func (o *orchestrator) newTask(s *serviceInfo, slot int, desired swarm.TaskState) *state.Task {
	return newTask(o.b, o.newID(), s, slot, desired)
}

func newTask(b *board, id string, s *serviceInfo, slot int, desired swarm.TaskState) *state.Task {
	t := &state.Task{
		ID: id, ServiceID: s.id, ServiceName: s.service.Spec.Name, SpecVersion: s.service.SpecVersion, Slot: slot,
		DesiredState: desired,
		Status:       swarm.TaskStatus{Timestamp: b.now, State: swarm.TaskStateNew, Message: "created"},
	}
	t.CreatedAt = b.now // as the store will say
	return t
}
