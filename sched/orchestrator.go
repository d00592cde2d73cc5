package sched

import (
	"log/slog"
	"maps"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

// orchestrator makes and ends the tasks of services.
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

// reconcile brings one service's tasks closer to its spec. It looks at the places that changed, or are due.
func (o *orchestrator) reconcile(s *serviceInfo) {
	if s.service == nil || s.service.PendingDelete {
		o.removeAll(s)
		return
	}
	o.allocator.service(s)
	if s.revision() == nil {
		return
	}
	m := modeOf(s.service)
	places := o.places(s)
	clear(s.recent)
	if m.job() {
		o.retire(s, places)
	} else if o.updater.watch(s, places) {
		return // the spec is another now
	}
	for _, p := range places {
		o.restart(s, p)
	}
	o.b.assess(s)
	switch m {
	case replicated:
		o.scale(s, places)
	case replicatedJob:
		o.complete(s)
	default:
		o.cover(s, places)
	}
	o.b.assess(s)
	if !m.job() {
		o.updater.step(s, places)
	}
	for _, p := range sortedPlaces(s.recent) {
		o.release(s, p)
	}
	o.b.assess(s)
	if m == replicated {
		o.level(s)
	}
}

// places lists what is to be looked at of a service, in order: what changed, or all after it changed itself.
func (o *orchestrator) places(s *serviceInfo) []state.Place {
	if s.all {
		s.all = false
		for p := range s.places {
			s.touched[p] = struct{}{}
		}
		if s.service != nil && modeOf(s.service).perNode() {
			for id, n := range o.b.nodes {
				if n.node != nil {
					s.touched[state.Place{NodeID: id}] = struct{}{}
				}
			}
		}
	}
	return sortedPlaces(s.touched)
}

func (o *orchestrator) removeAll(s *serviceInfo) {
	s.rollout = nil
	o.b.ending[s.id] = struct{}{}
	for _, p := range o.places(s) {
		o.removePlace(s, p)
	}
	clear(s.touched)
}

// removePlace has all tasks of a place removed, those of the past, too.
func (o *orchestrator) removePlace(s *serviceInfo, p state.Place) {
	for _, t := range s.tasksIn(p) {
		o.b.together()
		o.b.setDesired(t, swarm.TaskStateRemove)
	}
}

func (o *orchestrator) newTask(s *serviceInfo, p state.Place, desired swarm.TaskState, crashes uint32) *state.Task {
	t := newTask(o.b, o.newID(), s, p, desired)
	t.Crashes = crashes
	return t
}

func newTask(b *board, id string, s *serviceInfo, p state.Place, desired swarm.TaskState) *state.Task {
	t := &state.Task{
		ID: id, ServiceID: s.id, ServiceName: s.service.Spec.Name, SpecVersion: s.service.SpecVersion, Slot: p.Slot, NodeID: p.NodeID,
		Iteration: s.iteration(), DesiredState: desired,
		Status: swarm.TaskStatus{Timestamp: b.now, State: swarm.TaskStateNew, Message: "created"},
	}
	t.CreatedAt = b.now // as the store will say
	return t
}
