package sched

import (
	"slices"
	"time"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

// stopTimeout is how long a replacement waits for the task before it to stop.
const stopTimeout = time.Minute

// restart is the restart supervisor's look at one place: tasks that ended though they should run, and those whose node
// cannot run them any more, are shut down and replaced as the restart policy says.
func (o *orchestrator) restart(s *serviceInfo, p state.Place) {
	b := o.b
	for _, t := range s.tasksIn(p) {
		ended, lost := state.Terminal(t.Status.State), b.lost(t)
		moved := lost || b.onDrained(t)
		if !live(t) || !ended && !moved {
			continue
		}
		if ended && !moved && t.DesiredState == swarm.TaskStateReady {
			// It never got to run: the delay that it was to wait for is the one to wait for now.
			if at := b.startAt(s, t); at.After(b.now) {
				b.wakePlace(s.id, p, at)
				continue
			}
		}
		b.together()
		t = b.setDesired(t, swarm.TaskStateShutdown)
		if !s.shouldRestart(t) || slices.ContainsFunc(s.tasksIn(p), func(n *state.Task) bool { return live(n) && byAge(n, t) > 0 }) {
			continue // an update has already put another in its place
		}
		if p.NodeID != "" && b.coverage(s, p.NodeID) != wanted {
			continue // the node gets no new task
		}
		desired := swarm.TaskStateReady // until release
		if lost {
			desired = s.goal()
		}
		b.put(o.newTask(s, p, desired, s.crashesAfter(t)))
	}
}

func (b *board) onDrained(t *state.Task) bool {
	n := b.nodes[t.NodeID]
	return t.NodeID != "" && n != nil && n.node != nil && drained(n.node)
}

// shouldRestart tells whether by the restart policy another task follows t.
//
// Attempts are counted in the kept history: the tasks of the place and the same revision that ended by themselves. So a
// node that went away costs no attempt, and nothing has to be remembered from one leader to the next.
func (s *serviceInfo) shouldRestart(t *state.Task) bool {
	if t.Status.State == swarm.TaskStateComplete && s.service != nil && modeOf(s.service).job() {
		return false
	}
	r := s.revisions[t.SpecVersion]
	if r == nil || r.Spec.RestartPolicy == nil {
		return true
	}
	switch r.Spec.RestartPolicy.Condition {
	case swarm.RestartPolicyConditionNone:
		return false
	case swarm.RestartPolicyConditionOnFailure:
		if t.Status.State == swarm.TaskStateComplete {
			return false
		}
	}
	limit := r.maxAttempts()
	if limit == 0 || !endedItself(t) {
		return true
	}
	var from time.Time // the window does not run while the policy itself has a task wait
	window := r.Spec.RestartPolicy.Window
	limited := window != nil && *window > 0
	if limited {
		from = endedAt(t).Add(-*window)
	}
	var attempts uint64
	for _, p := range slices.Backward(s.tasksIn(t.Place())) {
		if byAge(p, t) >= 0 || p.SpecVersion != t.SpecVersion || p.Iteration != t.Iteration || !endedItself(p) {
			continue
		}
		if limited {
			from = from.Add(-r.restartDelay())
			if endedAt(p).Before(from) {
				break
			}
		}
		attempts++
	}
	return attempts < limit
}

// endedItself tells whether a task ended without being asked to, by its own doing.
func endedItself(t *state.Task) bool {
	switch t.Status.State {
	case swarm.TaskStateComplete, swarm.TaskStateFailed, swarm.TaskStateRejected:
		return !t.Evicted
	}
	return false
}

// release lets the tasks of a place that are held at READY run when it is their time.
func (o *orchestrator) release(s *serviceInfo, p state.Place) {
	for _, t := range s.tasksIn(p) {
		if t.DesiredState != swarm.TaskStateReady || state.Terminal(t.Status.State) {
			continue
		}
		if at := o.b.startAt(s, t); at.After(o.b.now) {
			o.b.wakePlace(s.id, p, at)
			o.announce(s, t, at)
			continue
		}
		o.b.together()
		o.b.setDesired(t, s.goal())
	}
}

// startAt is when a task that is held at READY may run, by what is known now: after the restart delay if the task before
// it ended by itself, and after that one has stopped, which is not waited for longer than stopTimeout.
func (b *board) startAt(s *serviceInfo, t *state.Task) time.Time {
	at := t.CreatedAt
	var before *state.Task
	for _, p := range s.tasksIn(t.Place()) {
		if p.ID == t.ID || live(p) || byAge(p, t) > 0 {
			continue
		}
		before = p
		if !state.Terminal(p.Status.State) && !b.lost(p) {
			at = later(at, t.CreatedAt.Add(stopTimeout))
		}
	}
	if before != nil && before.SpecVersion == t.SpecVersion && before.Iteration == t.Iteration && endedItself(before) && !b.onDrained(before) {
		at = later(at, t.CreatedAt.Add(s.revisions[t.SpecVersion].restartAfter(t.Crashes)))
	}
	return at
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}
