package sched

import (
	"fmt"
	"slices"
	"time"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

// rollout is one update in progress. What it remembers can be worked out again from the store (resume), but for the
// workers that wait out the delay.
type rollout struct {
	version uint64                    // the spec that it leads to
	moves   bool                      // it replaces tasks for a better spread, not for another spec
	total   int                       // places that had to change at its start
	queue   []state.Place             // places that wait to be changed, in order
	work    map[state.Place]string    // places being changed: the new task
	rest    []time.Time               // workers that wait out the delay: until when
	watched set                       // tasks that it made and that did not fail yet
	failed  int                       // tasks that it made and that did
	ran     time.Time                 // when the last of its tasks began to run
	givenUp map[state.Place]struct{}  // places whose new task took too long, or failed and is not to be followed by another
	again   map[state.Place]time.Time // places whose new task failed beside the old one and is tried again: until when
}

// step moves the update of a service on, told which places changed.
func (u *updater) step(s *serviceInfo, changed []state.Place) {
	u.supersede(s)
	if paused(s.service) {
		s.rollout = nil
		for _, p := range changed {
			u.choose(s, p)
		}
		return
	}
	r := s.rollout
	c := updateConfig(s.service)
	running := inState(s.service, swarm.UpdateStateUpdating, swarm.UpdateStateRollbackStarted)
	switch {
	case r != nil && r.version == s.service.SpecVersion && r.moves == (s.service.Rebalance != nil):
		if !running {
			u.begin(s, r) // the spec changed, but not for its tasks
		}
	case len(s.stale) == 0 && !running:
		if s.rollout = nil; s.service.Rebalance != nil { // what was to move has ended
			u.drop(s)
		}
		return
	default:
		r = &rollout{
			version: s.service.SpecVersion, moves: s.service.Rebalance != nil, queue: sortedPlaces(s.stale), total: len(s.stale),
			work: map[state.Place]string{}, watched: set{}, givenUp: map[state.Place]struct{}{}, again: map[state.Place]time.Time{},
		}
		s.rollout = r
		if !running {
			u.begin(s, r)
		} else if last := u.resume(s, r, c); last != "" && u.judge(s, r, c, "failure or early termination of task "+last) {
			return
		}
	}
	for _, p := range changed {
		if u.advance(s, r, p, c); s.rollout != r {
			return
		}
		u.retry(s, r, p)
	}
	u.b.assess(s)
	for _, p := range changed {
		u.enqueue(s, r, p)
	}
	if u.feed(s, r, c); len(r.queue) == 0 && len(r.work) == 0 && len(r.again) == 0 {
		u.finish(s, r, c)
	}
}

// supersede forgets a rebalance when the service has had another spec since: what moves is replaced anyway.
func (u *updater) supersede(s *serviceInfo) {
	if m := s.service.Rebalance; m != nil && !s.revision().CreatedAt.Before(m.Requested) {
		u.drop(s)
	}
}

// drop ends a rebalance without a word.
func (u *updater) drop(s *serviceInfo) {
	u.b.together()
	c := *s.service
	c.Rebalance = nil
	u.b.put(&c)
}

func (u *updater) begin(s *serviceInfo, r *rollout) {
	message := "update in progress"
	if r.moves {
		message = fmt.Sprintf("rebalancing: %s move", tasks(r.total))
		if r.total == 1 {
			message = "rebalancing: 1 task moves"
		}
	}
	u.setStatus(s, swarm.UpdateStateUpdating, message, false)
	u.log.Info("update started", "service", s.id)
}

// resume works out where an update is that an earlier leader began: in each place the first task of the new spec that
// followed one of another is the update's, or the first at all where no history is kept. It returns the last that failed,
// "" if none did.
func (u *updater) resume(s *serviceInfo, r *rollout, c swarm.UpdateConfig) (failed string) {
	from := s.service.UpdateStatus.StartedAt
	clean := u.b.cleanness(s)
	keep := u.b.history(s)
	remembers := keep < 0 || keep > 1
	for _, p := range sortedPlaces(s.places) {
		all := s.tasksIn(p)
		i := slices.IndexFunc(all, func(t *state.Task) bool {
			return t.SpecVersion == r.version && from != nil && !t.CreatedAt.Before(*from) && clean.clean(t)
		})
		if i < 0 || i == 0 && remembers || i > 0 && clean.clean(all[i-1]) {
			continue
		}
		if _, counted := s.stale[p]; !counted {
			r.total++
		}
		t := all[i]
		switch {
		case live(t) && !state.Terminal(t.Status.State):
			r.watched[t.ID] = struct{}{}
			if t.Status.State == swarm.TaskStateRunning {
				r.ran = later(r.ran, ranAt(t))
			}
		case endedItself(t) && failedEarly(t, c):
			r.failed++
			failed = t.ID
		}
		_, dirty := s.stale[p]
		switch last := all[len(all)-1]; {
		case live(last) && state.Rank(last.Status.State) < state.Rank(swarm.TaskStateRunning):
			if dirty && endedItself(t) {
				r.again[p] = u.deadline(s, t)
				break
			}
			r.work[p] = last.ID
			u.b.wakePlace(s.id, p, u.deadline(s, last))
		case dirty && !live(last) && clean.clean(last) && (last.RunningAt.IsZero() || endedItself(last)):
			r.givenUp[p] = struct{}{}
		}
	}
	return failed
}

// advance looks at a place that is being changed: is the new task up (or did it fail, or take too long), so that another
// place may follow?
func (u *updater) advance(s *serviceInfo, r *rollout, p state.Place, c swarm.UpdateConfig) {
	id, ours := r.work[p]
	if !ours {
		return
	}
	t := u.b.tasks[id]
	if t == nil || !live(t.Task) && !endedItself(t.Task) {
		// Gone with its node, or scaled away, or refused by the store. Its replacement takes over.
		if n := newestClean(s.standers(p), u.b.cleanness(s)); n != nil && live(n) {
			r.work[p] = n.ID
			u.b.wakePlace(s.id, p, u.deadline(s, n))
		} else {
			delete(r.work, p)
		}
		return
	}
	if state.Rank(t.Status.State) < state.Rank(swarm.TaskStateRunning) {
		if at := u.deadline(s, t.Task); at.After(u.b.now) || t.DesiredState == swarm.TaskStateReady {
			u.b.wakePlace(s.id, p, later(at, u.b.now.Add(time.Second)))
		} else {
			u.giveUp(s, r, p, t.Task, c)
		}
		return
	}
	delete(r.work, p)
	if t.Status.State == swarm.TaskStateRunning {
		r.ran = later(r.ran, ranAt(t.Task))
		u.stopOthers(s.standers(p), t.ID)
	} else {
		r.again[p] = u.deadline(s, t.Task)
	}
	u.relax(s, r, c)
}

// relax has a worker wait before it takes the next place.
func (u *updater) relax(s *serviceInfo, r *rollout, c swarm.UpdateConfig) {
	if c.Delay > 0 && c.Parallelism > 0 {
		at := u.b.now.Add(c.Delay)
		r.rest = append(r.rest, at)
		u.b.wakeAt(s.id, at)
	}
}

// enqueue adds a place that has to change and is not known to.
func (u *updater) enqueue(s *serviceInfo, r *rollout, p state.Place) {
	if !r.waits(s, p) {
		return
	}
	if i, known := slices.BinarySearchFunc(r.queue, p, comparePlaces); !known {
		r.queue = slices.Insert(r.queue, i, p)
	}
}

// waits tells whether a place has to change and nothing was done about that.
func (r *rollout) waits(s *serviceInfo, p state.Place) bool {
	_, stale := s.stale[p]
	_, busy := r.work[p]
	_, tried := r.again[p]
	_, over := r.givenUp[p]
	return stale && !busy && !tried && !over
}

// feed begins with further places, as many as may be changed at a time.
func (u *updater) feed(s *serviceInfo, r *rollout, c swarm.UpdateConfig) {
	r.rest = slices.DeleteFunc(r.rest, func(t time.Time) bool { return !t.After(u.b.now) })
	for _, t := range r.rest {
		u.b.wakeAt(s.id, t)
	}
	n := 0
	for n < len(r.queue) && (c.Parallelism == 0 || uint64(len(r.work)+len(r.rest)) < c.Parallelism) {
		p := r.queue[n]
		n++
		if r.waits(s, p) {
			u.change(s, r, p, c)
		}
	}
	r.queue = r.queue[n:]
	u.b.assess(s)
}

// change begins to change one place.
func (u *updater) change(s *serviceInfo, r *rollout, p state.Place, c swarm.UpdateConfig) {
	if p.NodeID != "" && u.b.coverage(s, p.NodeID) != wanted {
		u.choose(s, p) // an earlier update left two tasks, and the node gets no new one
		return
	}
	u.b.together()
	tasks := s.standers(p)
	startFirst := c.Order == swarm.UpdateOrderStartFirst
	t := newestClean(tasks, u.b.cleanness(s))
	if t == nil || !live(t) {
		desired := swarm.TaskStateReady // until the old one has stopped
		if startFirst {
			desired = swarm.TaskStateRunning
		}
		t = newTask(u.b, u.newID(), s, p, desired)
		u.b.put(t)
		r.watched[t.ID] = struct{}{}
	}
	running := t.Status.State == swarm.TaskStateRunning
	if startFirst && !running {
		u.stopIdle(tasks, t.ID)
	} else {
		u.stopOthers(tasks, t.ID)
	}
	if !running {
		r.work[p] = t.ID
		u.b.wakePlace(s.id, p, u.deadline(s, t))
	}
}

func (u *updater) stopOthers(tasks []*state.Task, but string) {
	for _, t := range tasks {
		if t.ID != but {
			u.b.setDesired(t, swarm.TaskStateShutdown)
		}
	}
}

// stopIdle stops what need not be kept until the new task runs: all but the newest that does run.
func (u *updater) stopIdle(tasks []*state.Task, but string) {
	kept := false
	for _, t := range slices.Backward(tasks) {
		if t.ID == but {
			continue
		}
		if t.Status.State == swarm.TaskStateRunning && !kept {
			kept = true
			continue
		}
		u.b.setDesired(t, swarm.TaskStateShutdown)
	}
}

func newestClean(tasks []*state.Task, clean *cleanness) *state.Task {
	for _, t := range slices.Backward(tasks) {
		if clean.clean(t) {
			return t
		}
	}
	return nil
}
