package sched

import (
	"slices"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

// coverage is what a service that wants a task on each node wants of one node.
type coverage int

const (
	unwanted coverage = iota // no task
	kept                     // the task that it has, but no new one
	wanted                   // a task
)

// coverage tells what a global service or job wants of a node.
func (b *board) coverage(s *serviceInfo, node string) coverage {
	n := b.nodes[node]
	switch {
	case n == nil, n.node == nil, down(n.node), drained(n.node), !s.revision().placeable(n.node):
		return unwanted
	case n.node.Spec.Availability == swarm.NodeAvailabilityPause, !n.heldUntil(b.now).IsZero(),
		modeOf(s.service) == globalJob && n.node.Status.State != swarm.NodeStateReady:
		return kept
	}
	return wanted
}

// cover gives the nodes of a global service or job what it wants of them. It is told of nodes that changed, and of those
// where something of the service did.
func (o *orchestrator) cover(s *serviceInfo, places []state.Place) {
	b := o.b
	for _, p := range places {
		if n := b.nodes[p.NodeID]; n == nil || n.node == nil {
			o.removePlace(s, p)
			continue
		}
		switch b.coverage(s, p.NodeID) {
		case unwanted:
			for _, t := range s.tasksIn(p) {
				if live(t) {
					b.together()
					b.setDesired(t, swarm.TaskStateShutdown)
				}
			}
		case wanted:
			if s.stand(p) == vacant {
				b.together()
				b.put(o.next(s, p))
			}
		}
	}
}

// next makes the task of a node that has none. It is held back while the one before has not stopped, and as long as the
// restart policy says.
func (o *orchestrator) next(s *serviceInfo, p state.Place) *state.Task {
	past := slices.DeleteFunc(slices.Clone(s.tasksIn(p)), func(t *state.Task) bool { return t.Iteration != s.iteration() })
	if len(past) == 0 {
		return o.newTask(s, p, s.goal(), 0)
	}
	return o.newTask(s, p, swarm.TaskStateReady, s.crashesAfter(past[len(past)-1]))
}
