package sched

import (
	"fmt"
	"slices"
	"time"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

// deadline is when a new task of the update should run: the timeout counts from when nothing holds it back any more.
func (u *updater) deadline(s *serviceInfo, t *state.Task) time.Time {
	from := u.b.startAt(s, t)
	for _, p := range s.tasksIn(t.Place()) {
		if byAge(p, t) < 0 && !live(p) && state.Terminal(p.Status.State) {
			if at := endedAt(p); at.Before(t.CreatedAt.Add(stopTimeout)) {
				from = later(from, at)
			}
		}
	}
	return from.Add(updateTimeout(s.service))
}

// giveUp leaves a place whose new task took too long. If the old one still runs there it stays, and the new one goes.
func (u *updater) giveUp(s *serviceInfo, r *rollout, p state.Place, t *state.Task, c swarm.UpdateConfig) {
	delete(r.work, p)
	delete(r.watched, t.ID)
	u.leave(s, r, p, t)
	if !u.failure(s, r, c, fmt.Sprintf("task %s, which was not running after %s", t.ID, updateTimeout(s.service))) {
		u.relax(s, r, c)
	}
}

// leave ends the change of a place without success: the new task goes if the old one still runs.
func (u *updater) leave(s *serviceInfo, r *rollout, p state.Place, t *state.Task) {
	r.givenUp[p] = struct{}{}
	u.b.together()
	if slices.ContainsFunc(s.standers(p), func(o *state.Task) bool { return o.ID != t.ID && o.Status.State == swarm.TaskStateRunning }) {
		u.b.setDesired(t, swarm.TaskStateShutdown)
	}
}

// retry looks at a place where the new task failed while the old one stays until a new one runs. The restart policy says
// whether another is tried; the worker has gone on to the next place. What does not run in time, or is not tried again,
// goes, and the old task keeps the place.
func (u *updater) retry(s *serviceInfo, r *rollout, p state.Place) {
	until, ours := r.again[p]
	if !ours {
		return
	}
	tasks := s.standers(p)
	t := newestClean(tasks, u.b.cleanness(s))
	switch {
	case t == nil && len(tasks) > 0:
		r.givenUp[p] = struct{}{}
	case len(tasks) < 2: // nothing is to be replaced any more
	case t.Status.State == swarm.TaskStateRunning:
		r.ran = later(r.ran, ranAt(t))
		u.stopOthers(tasks, t.ID)
	case until.After(u.b.now):
		u.b.wakePlace(s.id, p, until)
		return
	default:
		u.leave(s, r, p, t)
	}
	delete(r.again, p)
}

// why tells what became of the places that were given up.
func (r *rollout) why(s *serviceInfo) string {
	for p := range r.givenUp {
		if slices.ContainsFunc(s.tasksIn(p), func(t *state.Task) bool { return t.SpecVersion == r.version && endedItself(t) }) {
			return "failed or were not running"
		}
	}
	return "were not running"
}
