package sched

import (
	"cmp"
	"slices"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

// taskInfo is a task with what it was counted with. There is one as long as the task is on the board.
type taskInfo struct {
	*state.Task
	rev   *revisionInfo // nil if unknown
	place *placeInfo
	waits waiting // as it was counted
	at    int     // where in the list of tasks that wait for a node
	pass  int     // the last pass that drafted a change of it
}

// waiting is what a task waits for the leader to do.
type waiting int

const (
	forNothing waiting = iota
	forAddress
	forNode
	forRemoval
)

func waitsFor(t *state.Task) waiting {
	switch at := state.Rank(t.Status.State); {
	case live(t) && at < state.Rank(swarm.TaskStatePending):
		return forAddress
	case live(t) && at < state.Rank(swarm.TaskStateAssigned):
		return forNode
	case state.Rank(t.DesiredState) >= state.Rank(swarm.TaskStateRemove) && (state.Terminal(t.Status.State) || at < state.Rank(swarm.TaskStateAssigned)):
		return forRemoval
	}
	return forNothing
}

// taskList is a set of tasks that each know their place in it. It is in no order.
type taskList []*taskInfo

func (l *taskList) add(i *taskInfo) {
	i.at = len(*l)
	*l = append(*l, i)
}

func (l *taskList) remove(i *taskInfo) {
	last := len(*l) - 1
	moved := (*l)[last]
	(*l)[i.at], moved.at = moved, i.at
	(*l)[last] = nil
	*l = (*l)[:last]
}

// queue puts a task into the set of those that wait for the same.
func (b *board) queue(i *taskInfo) {
	switch i.waits = waitsFor(i.Task); i.waits {
	case forAddress:
		b.unallocated[i.ID] = struct{}{}
		b.freshNew[i.ID] = struct{}{}
	case forNode:
		b.unassigned.add(i)
		b.freshTBD = append(b.freshTBD, i)
	case forRemoval:
		b.reapable[i.ID] = struct{}{}
	}
}

func (b *board) unqueue(i *taskInfo) {
	switch i.waits {
	case forAddress:
		delete(b.unallocated, i.ID)
		delete(b.freshNew, i.ID)
	case forNode:
		b.unassigned.remove(i)
	case forRemoval:
		delete(b.reapable, i.ID)
	}
	i.waits = forNothing
}

// setTask replaces a task and moves everything that is counted by tasks.
func (b *board) setTask(id string, t *state.Task) {
	i := b.tasks[id]
	switch {
	case t == nil && i == nil:
	case t == nil:
		b.uncount(i)
		delete(b.tasks, id)
		b.markTask(i.Task, nil)
		s := b.service(i.ServiceID)
		if p := s.places[i.Place()]; len(p.tasks) == 0 {
			s.counts[p.stand]--
			delete(s.places, i.Place())
		}
		b.forget(s)
	case i == nil:
		b.markTask(nil, t)
		i = &taskInfo{Task: t, rev: b.service(t.ServiceID).revisions[t.SpecVersion]}
		b.tasks[id] = i
		b.count(i)
	default:
		b.changeTask(i, t)
	}
}

// changeTask puts the next version of a task that is on the board.
func (b *board) changeTask(i *taskInfo, t *state.Task) {
	switch {
	case b.small(i, t):
		b.markTask(i.Task, t)
		b.exchange(i, t)
	default:
		b.uncount(i)
		b.markTask(i.Task, t)
		if r := b.service(t.ServiceID).revisions[t.SpecVersion]; r != nil {
			i.rev = r
		}
		i.Task = t
		b.count(i)
	}
}

// small tells whether a task changed so that only its node's counts and what it waits for may be others. Most changes are
// so: it got a node, its state moved on, the store said that it has the leader's change.
func (b *board) small(i *taskInfo, t *state.Task) bool {
	old := i.Task
	if i.rev == nil || old.SpecVersion != t.SpecVersion || old.Place() != t.Place() || old.NodeID != t.NodeID && old.NodeID != "" {
		return false
	}
	if len(i.place.tasks) > 1 && (old.Version != t.Version || !old.CreatedAt.Equal(t.CreatedAt)) {
		return false // it may be another's turn to be the oldest
	}
	if len(old.Networks) == 0 && len(t.Networks) == 0 {
		return true
	}
	return state.Terminal(old.Status.State) == state.Terminal(t.Status.State) && slices.EqualFunc(old.Networks, t.Networks, func(x, y state.Attachment) bool {
		return x.NetworkID == y.NetworkID && slices.Equal(x.Addresses, y.Addresses)
	})
}

// exchange puts the next version of a task, which is a small change, in place of the one before.
func (b *board) exchange(i *taskInfo, t *state.Task) {
	old, p := i.Task, i.place
	tasks := make([]*state.Task, len(p.tasks))
	copy(tasks, p.tasks)
	tasks[slices.Index(tasks, old)] = t
	p.tasks = tasks
	if waitsFor(t) != i.waits {
		b.unqueue(i)
		i.Task = t
		b.queue(i)
		i.Task = old
	}
	if t.NodeID == "" {
		i.Task = t
		return
	}
	n := b.node(t.NodeID)
	if old.NodeID == "" {
		i.Task = t
		n.add(i)
	} else {
		n.count(i, -1)
		i.Task = t
		n.count(i, 1)
		n.note(t)
	}
	if n.node == nil && !state.Terminal(t.Status.State) {
		b.deserted[t.NodeID] = struct{}{}
	}
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
	i.place = p
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
	b.queue(i)
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
	b.unqueue(i)
}

// markTask asks for attention where a change of a task needs it.
func (b *board) markTask(old, t *state.Task) {
	if old == nil {
		if t != nil {
			b.touchPlace(t.ServiceID, t.Place())
			b.crowded[placeKey{t.ServiceID, t.Place()}] = struct{}{}
		}
		return
	}
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
	switch s := b.services[t.ServiceID]; {
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
