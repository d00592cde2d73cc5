package sched

import (
	"cmp"
	"slices"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

// taskInfo is a task with what it was counted with.
type taskInfo struct {
	*state.Task
	rev *revisionInfo // nil if unknown
}

// setTask replaces a task and moves everything that is counted by tasks.
func (b *board) setTask(id string, t *state.Task) {
	old := b.tasks[id]
	if old != nil {
		b.uncount(old)
		delete(b.tasks, id)
	}
	b.markTask(old, t)
	if t == nil {
		if old != nil {
			s := b.service(old.ServiceID)
			if p := s.places[old.Place()]; len(p.tasks) == 0 {
				s.counts[p.stand]--
				delete(s.places, old.Place())
			}
			b.forget(s)
		}
		return
	}
	s := b.service(t.ServiceID)
	i := &taskInfo{Task: t, rev: s.revisions[t.SpecVersion]}
	if i.rev == nil && old != nil {
		i.rev = old.rev
	}
	b.tasks[id] = i
	b.count(i)
}

func (b *board) count(i *taskInfo) {
	t, s := i.Task, b.service(i.ServiceID)
	s.tasks++
	s.versions[t.SpecVersion]++
	p := s.places[t.Place()]
	if p == nil {
		p = &placeInfo{}
		s.places[t.Place()] = p
		s.counts[vacant]++
	}
	at, _ := slices.BinarySearchFunc(p.tasks, t, byAge)
	p.tasks = slices.Insert(slices.Clip(p.tasks), at, t)
	if t.NodeID != "" {
		b.node(t.NodeID).add(i)
	}
	ended := state.Terminal(t.Status.State)
	for _, a := range t.Networks {
		n := b.networks[a.NetworkID]
		if n == nil {
			continue
		}
		if !ended {
			n.users++
		}
		for _, p := range a.Addresses {
			if ended {
				n.note(p.Addr(), t.CreatedAt)
			} else {
				n.take(p.Addr(), t.ID, t.CreatedAt)
			}
		}
	}
	assigned := state.Rank(t.Status.State) >= state.Rank(swarm.TaskStateAssigned)
	switch {
	case live(t) && !assigned && state.Rank(t.Status.State) < state.Rank(swarm.TaskStatePending):
		b.unallocated[t.ID] = struct{}{}
		b.freshNew[t.ID] = struct{}{}
	case live(t) && !assigned:
		b.unassigned[t.ID] = struct{}{}
		b.freshTBD[t.ID] = struct{}{}
	case state.Rank(t.DesiredState) >= state.Rank(swarm.TaskStateRemove) && (ended || !assigned):
		b.reapable[t.ID] = struct{}{}
	}
	if n := b.nodes[t.NodeID]; t.NodeID != "" && !ended && n.node == nil {
		b.deserted[t.NodeID] = struct{}{}
	}
}

func (b *board) uncount(i *taskInfo) {
	t, s := i.Task, b.service(i.ServiceID)
	s.tasks--
	if s.versions[t.SpecVersion]--; s.versions[t.SpecVersion] == 0 {
		delete(s.versions, t.SpecVersion)
	}
	p := s.places[t.Place()]
	p.tasks = slices.DeleteFunc(slices.Clone(p.tasks), func(o *state.Task) bool { return o.ID == t.ID })
	if t.NodeID != "" {
		n := b.node(t.NodeID)
		n.remove(i)
		if n.node == nil && len(n.tasks) == 0 {
			delete(b.nodes, t.NodeID)
		}
	}
	if !state.Terminal(t.Status.State) {
		for _, a := range t.Networks {
			if n := b.networks[a.NetworkID]; n != nil {
				n.users--
			}
			for _, p := range a.Addresses {
				b.giveBack(a.NetworkID, p.Addr(), t.ID)
			}
		}
	}
	for _, m := range []set{b.unallocated, b.unassigned, b.reapable, b.freshNew, b.freshTBD} {
		delete(m, t.ID)
	}
}

// markTask asks for attention where a change of a task needs it.
func (b *board) markTask(i *taskInfo, t *state.Task) {
	if i == nil {
		if t != nil {
			b.touchPlace(t.ServiceID, t.Place())
			b.crowded[placeKey{t.ServiceID, t.Place()}] = struct{}{}
		}
		return
	}
	old := i.Task
	if t == nil {
		b.touchPlace(old.ServiceID, old.Place())
		b.capacity = true
		return
	}
	ended, was := state.Terminal(t.Status.State), state.Terminal(old.Status.State)
	if old.DesiredState != t.DesiredState || ended != was {
		b.touchPlace(t.ServiceID, t.Place())
		b.crowded[placeKey{t.ServiceID, t.Place()}] = struct{}{}
		b.capacity = true
	}
	if old.Status.State == t.Status.State {
		return
	}
	switch s := b.service(t.ServiceID); {
	case t.Status.State == swarm.TaskStateRunning && s.rollout != nil,
		t.Status.State == swarm.TaskStateReady && t.Crashes > freeCrashes:
		b.touchPlace(t.ServiceID, t.Place())
	case t.Status.State == swarm.TaskStateAssigned && rebalancesItself(s.service):
		b.touch(t.ServiceID)
	}
}

// preassigned tells whether a task was made for a node that the scheduler has yet to agree to. It uses nothing of the
// node until then.
func preassigned(t *state.Task) bool {
	return t.NodeID != "" && state.Rank(t.Status.State) < state.Rank(swarm.TaskStateAssigned)
}

// live tells whether a task shall run: nobody told it to stop, and it is no job's task that completed.
func live(t *state.Task) bool {
	return state.Rank(t.DesiredState) <= state.Rank(swarm.TaskStateComplete) && !done(t)
}

// done tells whether a job's task completed. That is final.
func done(t *state.Task) bool {
	return t.DesiredState == swarm.TaskStateComplete && t.Status.State == swarm.TaskStateComplete
}

// byAge orders tasks of a place, oldest first. A draft has no index yet and is the newest.
func byAge(a, b *state.Task) int {
	return cmp.Or(
		a.CreatedAt.Compare(b.CreatedAt),
		cmp.Compare(a.Version.Index-1, b.Version.Index-1),
		cmp.Compare(a.ID, b.ID),
	)
}
