package sched

import (
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

const defaultMonitor = 5 * time.Second

// updater replaces the tasks of a service that do not follow its spec, a few slots at a time.
type updater struct {
	b     *board
	newID func() string
	log   *slog.Logger
}

// rollout is one update in progress.
type rollout struct {
	version uint64                 // the spec that it leads to
	total   int                    // slots that had to change at its start
	work    map[state.Place]string // places being changed: the new task
	rest    []time.Time            // workers that wait out the delay: until when
	watched map[string]time.Time   // tasks that it made: when they were first seen running
	failed  int
	settle  time.Time // all is changed; complete when nothing has failed until then
}

// updateConfig is the spec's, with Swarm's defaults.
func updateConfig(s *state.Service) swarm.UpdateConfig {
	c := swarm.UpdateConfig{Parallelism: 1}
	if s.Spec.UpdateConfig != nil {
		c = *s.Spec.UpdateConfig
	}
	if c.Monitor == 0 {
		c.Monitor = defaultMonitor
	}
	if c.FailureAction == "" {
		c.FailureAction = swarm.UpdateFailureActionPause
	}
	return c
}

// inState tells the state of the service's update.
func inState(s *state.Service, states ...swarm.UpdateState) bool {
	return s.UpdateStatus != nil && slices.Contains(states, s.UpdateStatus.State)
}

// watch looks whether tasks of the update failed. It comes before anything else changes them.
func (u *updater) watch(s *serviceInfo) {
	r := s.rollout
	if r == nil || r.version != s.service.SpecVersion {
		return
	}
	c := updateConfig(s.service)
	for _, id := range sorted(r.watched) {
		t := u.b.tasks[id]
		switch {
		case t == nil, !live(t.Task):
			delete(r.watched, id) // scaled away, or its node was lost
		case state.Terminal(t.Status.State):
			since := r.watched[id]
			delete(r.watched, id)
			if !since.IsZero() && endedAt(t.Task).Sub(since) > c.Monitor {
				continue
			}
			r.failed++
			if c.FailureAction == swarm.UpdateFailureActionContinue || float32(r.failed)/float32(max(r.total, 1)) <= c.MaxFailureRatio {
				continue
			}
			u.setStatus(s, swarm.UpdateStatePaused, fmt.Sprintf("update paused due to failure or early termination of task %s", id))
			s.rollout = nil
			return
		case t.Status.State == swarm.TaskStateRunning && r.watched[id].IsZero():
			r.watched[id] = later(endedAt(t.Task), t.CreatedAt)
		}
	}
}

// step moves the update of a service on. slots are the tasks that stand for each slot.
func (u *updater) step(s *serviceInfo, places map[state.Place][]*state.Task) {
	if inState(s.service, swarm.UpdateStatePaused, swarm.UpdateStateRollbackPaused) {
		s.rollout = nil
		return
	}
	clean := u.b.cleanness(s)
	var todo []state.Place
	for _, p := range sortedPlaces(places) {
		if tasks := places[p]; len(tasks) > 1 || !clean.clean(tasks[0]) {
			todo = append(todo, p)
		}
	}
	r := s.rollout
	if r == nil || r.version != s.service.SpecVersion {
		resumed := inState(s.service, swarm.UpdateStateUpdating)
		if len(todo) == 0 && !resumed {
			s.rollout = nil
			return
		}
		r = u.start(s, places, todo, resumed)
	}
	c := updateConfig(s.service)
	u.advance(s, r, places, clean, c)
	if left := u.feed(s, r, places, todo, clean, c); left == 0 && len(r.work) == 0 {
		u.finish(s, r, c)
	}
}

func (u *updater) start(s *serviceInfo, places map[state.Place][]*state.Task, todo []state.Place, resumed bool) *rollout {
	r := &rollout{version: s.service.SpecVersion, total: len(todo), work: map[state.Place]string{}, watched: map[string]time.Time{}}
	s.rollout = r
	if !resumed {
		u.setStatus(s, swarm.UpdateStateUpdating, "update in progress")
		u.log.Info("update started", "service", s.id)
		return r
	}
	// An earlier leader began it: the tasks that it made since are the update's, too.
	for p, tasks := range places {
		t := tasks[len(tasks)-1]
		if t.SpecVersion != r.version || s.service.UpdateStatus.StartedAt == nil || t.CreatedAt.Before(*s.service.UpdateStatus.StartedAt) {
			continue
		}
		r.watched[t.ID] = time.Time{}
		if len(tasks) == 1 {
			r.total++
		}
		if state.Rank(t.Status.State) < state.Rank(swarm.TaskStateRunning) {
			r.work[p] = t.ID
		}
	}
	return r
}

// advance looks at the slots being changed: which new tasks are up (or failed), so that the next slot may follow.
func (u *updater) advance(s *serviceInfo, r *rollout, places map[state.Place][]*state.Task, clean *cleanness, c swarm.UpdateConfig) {
	r.rest = slices.DeleteFunc(r.rest, func(t time.Time) bool { return !t.After(u.b.now) })
	for _, p := range sortedPlaces(r.work) {
		t := u.b.tasks[r.work[p]]
		if t == nil || !live(t.Task) && !state.Terminal(t.Status.State) {
			// Gone with its node, or scaled away, or refused by the store. Its replacement takes over.
			if n := newestClean(places[p], clean); n != nil && live(n) {
				r.work[p] = n.ID
			} else {
				delete(r.work, p)
			}
			continue
		}
		if state.Rank(t.Status.State) < state.Rank(swarm.TaskStateRunning) {
			continue
		}
		delete(r.work, p)
		if t.Status.State == swarm.TaskStateRunning {
			u.stopOthers(places[p], t.ID)
		}
		if c.Delay > 0 {
			r.rest = append(r.rest, u.b.now.Add(c.Delay))
		}
	}
	for _, t := range r.rest {
		u.b.wakeAt(s.id, t)
	}
}

// feed begins with further slots, as many as may be changed at a time, and tells how many have to wait.
func (u *updater) feed(s *serviceInfo, r *rollout, places map[state.Place][]*state.Task, todo []state.Place, clean *cleanness, c swarm.UpdateConfig) (left int) {
	for _, p := range todo {
		if _, busy := r.work[p]; busy {
			continue
		}
		tasks := u.current(places[p])
		switch {
		case len(tasks) == 0, len(tasks) == 1 && clean.clean(tasks[0]):
			// done by advance
		case c.Parallelism > 0 && uint64(len(r.work)+len(r.rest)) >= c.Parallelism:
			left++
		default:
			u.change(s, r, p, tasks, clean, c)
			r.settle = time.Time{}
		}
	}
	return left
}

// change begins to change one slot.
func (u *updater) change(s *serviceInfo, r *rollout, p state.Place, tasks []*state.Task, clean *cleanness, c swarm.UpdateConfig) {
	u.b.together()
	startFirst := c.Order == swarm.UpdateOrderStartFirst
	t := newestClean(tasks, clean)
	if t == nil || !live(t) {
		desired := swarm.TaskStateReady // until the old one has stopped
		if startFirst {
			desired = swarm.TaskStateRunning
		}
		t = newTask(u.b, u.newID(), s, p, desired)
		u.b.put(t)
		r.watched[t.ID] = time.Time{}
	}
	running := t.Status.State == swarm.TaskStateRunning
	if startFirst && !running {
		u.stopIdle(tasks, t.ID)
	} else {
		u.stopOthers(tasks, t.ID)
	}
	if !running {
		r.work[p] = t.ID
	}
}

// current is the tasks as they are on the board by now, without those that shall not run any more.
func (u *updater) current(tasks []*state.Task) []*state.Task {
	var out []*state.Task
	for i, t := range tasks {
		if n := u.b.tasks[t.ID]; n != nil && (live(n.Task) || i == len(tasks)-1) {
			out = append(out, n.Task)
		}
	}
	return out
}

func (u *updater) stopOthers(tasks []*state.Task, but string) {
	for _, t := range tasks {
		if n := u.b.tasks[t.ID]; n != nil && t.ID != but {
			u.b.setDesired(n.Task, swarm.TaskStateShutdown)
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

// finish completes the update when nothing is left to change and nothing failed for the monitoring time.
func (u *updater) finish(s *serviceInfo, r *rollout, c swarm.UpdateConfig) {
	if r.settle.IsZero() {
		r.settle = u.b.now
		if c.FailureAction != swarm.UpdateFailureActionContinue {
			wait := c.Monitor
			if c.Delay >= wait {
				wait = c.Delay + time.Second
			}
			r.settle = u.b.now.Add(wait)
		}
	}
	if r.settle.After(u.b.now) {
		u.b.wakeAt(s.id, r.settle)
		return
	}
	s.rollout = nil
	if inState(s.service, swarm.UpdateStateUpdating) {
		u.setStatus(s, swarm.UpdateStateCompleted, "update completed")
		u.log.Info("update completed", "service", s.id)
	}
}

// setStatus drafts the service's update status.
func (u *updater) setStatus(s *serviceInfo, to swarm.UpdateState, message string) {
	c := *s.service
	now := u.b.now
	st := swarm.UpdateStatus{State: to, Message: message, StartedAt: &now}
	if is := s.service.UpdateStatus; is != nil && is.StartedAt != nil && to != swarm.UpdateStateUpdating {
		st.StartedAt = is.StartedAt
	}
	if to == swarm.UpdateStateCompleted {
		st.CompletedAt = &now
	}
	c.UpdateStatus = &st
	u.b.put(&c)
}
