package sched

import (
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

const (
	defaultMonitor = 5 * time.Second
	// TimeoutLabel is a service's label that says how long a task that an update made may take to run (a duration, at
	// least LeastTimeout). Then it counts as failed.
	TimeoutLabel = "meshswarm.update.timeout"
	// LeastTimeout is the shortest that TimeoutLabel may say.
	LeastTimeout = time.Second
	// defaultTimeout is how long it may take without the label.
	defaultTimeout = 10 * time.Minute
)

// updater replaces the tasks of a service that do not follow its spec, or shall move, a few places at a time.
type updater struct {
	b     *board
	newID func() string
	log   *slog.Logger
}

// updateConfig is what the spec says about updates, or about rollbacks while there is one, with Swarm's defaults.
func updateConfig(s *state.Service) swarm.UpdateConfig {
	c := swarm.UpdateConfig{Parallelism: 1}
	given := s.Spec.UpdateConfig
	if inState(s, swarm.UpdateStateRollbackStarted) {
		given = s.Spec.RollbackConfig
	}
	if given != nil {
		c = *given
	}
	if c.Monitor == 0 {
		c.Monitor = defaultMonitor
	}
	if c.FailureAction == "" {
		c.FailureAction = swarm.UpdateFailureActionPause
	}
	return c
}

// updateTimeout is how long a new task of an update may take to run.
func updateTimeout(s *state.Service) time.Duration {
	if d, err := time.ParseDuration(s.Spec.Labels[TimeoutLabel]); err == nil && d >= LeastTimeout {
		return d
	}
	return defaultTimeout
}

// inState tells the state of the service's update.
func inState(s *state.Service, states ...swarm.UpdateState) bool {
	return s.UpdateStatus != nil && slices.Contains(states, s.UpdateStatus.State)
}

// paused tells whether the service's update waits for somebody to update the service again. A rebalance that was asked
// for since goes on.
func paused(s *state.Service) bool {
	if !inState(s, swarm.UpdateStatePaused, swarm.UpdateStateRollbackPaused) {
		return false
	}
	at := s.UpdateStatus.StartedAt
	return s.Rebalance == nil || at == nil || !s.Rebalance.Requested.After(*at)
}

// watch looks whether tasks of the update failed, in the places that changed. It comes before anything else changes them.
// It tells whether the service has another spec now.
func (u *updater) watch(s *serviceInfo, places []state.Place) bool {
	r := s.rollout
	if r == nil || r.version != s.service.SpecVersion {
		return false
	}
	c := updateConfig(s.service)
	for _, p := range places {
		for _, t := range s.tasksIn(p) {
			if _, ours := r.watched[t.ID]; !ours {
				continue
			}
			switch {
			case !live(t): // scaled away, or its node was lost
			case state.Terminal(t.Status.State):
				if failedEarly(t, c) && u.failure(s, r, c, "failure or early termination of task "+t.ID) {
					return s.rollout == nil && inState(s.service, swarm.UpdateStateRollbackStarted)
				}
			default:
				if t.Status.State == swarm.TaskStateRunning {
					r.ran = later(r.ran, ranAt(t))
				}
				continue
			}
			delete(r.watched, t.ID)
		}
	}
	return false
}

// failedEarly tells whether a task of an update that ended counts as its failure: it never ran, or not for long.
func failedEarly(t *state.Task, c swarm.UpdateConfig) bool {
	return t.RunningAt.IsZero() || endedAt(t).Sub(t.RunningAt) <= c.Monitor
}

// ranAt is when a running task was first known to run.
func ranAt(t *state.Task) time.Time {
	if !t.RunningAt.IsZero() {
		return t.RunningAt
	}
	return later(endedAt(t), t.CreatedAt)
}

// failure counts a failure, and does what the configuration says about it. It tells whether the update ended by that.
func (u *updater) failure(s *serviceInfo, r *rollout, c swarm.UpdateConfig, what string) bool {
	r.failed++
	return u.judge(s, r, c, what)
}

// judge ends the update if there are too many failures.
func (u *updater) judge(s *serviceInfo, r *rollout, c swarm.UpdateConfig, what string) bool {
	if c.FailureAction == swarm.UpdateFailureActionContinue || float32(r.failed)/float32(max(r.total, 1)) <= c.MaxFailureRatio {
		return false
	}
	back := inState(s.service, swarm.UpdateStateRollbackStarted)
	if c.FailureAction == swarm.UpdateFailureActionRollback && !r.moves {
		switch {
		case back: // Swarm never rolls back a rollback
			u.pause(s, "rollback paused due to "+what)
			return true
		case s.service.PreviousSpec != nil:
			u.rollBack(s, "update rolled back due to "+what)
			return true
		}
		u.log.Warn("no previous spec to roll back to", "service", s.id)
	}
	u.pause(s, "update paused due to "+what)
	return true
}

// pause ends the update until the service is updated again. No place is left with two tasks.
func (u *updater) pause(s *serviceInfo, message string) {
	for _, p := range sortedPlaces(s.stale) {
		u.choose(s, p)
	}
	to := swarm.UpdateStatePaused
	if inState(s.service, swarm.UpdateStateRollbackStarted) {
		to = swarm.UpdateStateRollbackPaused
	}
	s.rollout = nil
	u.setStatus(s, to, message, true)
	u.log.Warn("update paused", "service", s.id, "err", message)
}

// choose ends the change of a place where it is: what runs stays, the new task before the old one.
func (u *updater) choose(s *serviceInfo, p state.Place) {
	tasks := s.standers(p)
	if len(tasks) < 2 {
		return
	}
	i := slices.IndexFunc(tasks, func(t *state.Task) bool {
		return t.Status.State == swarm.TaskStateRunning && u.b.cleanness(s).clean(t)
	})
	if i < 0 {
		i = slices.IndexFunc(tasks, func(t *state.Task) bool { return t.Status.State == swarm.TaskStateRunning })
	}
	if i < 0 {
		i = len(tasks) - 1
	}
	u.b.together()
	u.stopOthers(tasks, tasks[i].ID)
}

// rollBack gives the service the spec that it had before the update. The updater then leads back to it.
func (u *updater) rollBack(s *serviceInfo, message string) {
	u.b.together()
	c := *s.service
	c.Spec, c.PreviousSpec, c.Rebalance = *c.PreviousSpec, nil, nil
	c.SpecVersion++
	st := swarm.UpdateStatus{StartedAt: &u.b.now}
	if c.UpdateStatus != nil {
		st = *c.UpdateStatus
	}
	st.State, st.Message = swarm.UpdateStateRollbackStarted, message
	c.UpdateStatus = &st
	s.rollout = nil
	u.b.putSpec(&c)
	u.b.put(&state.Revision{ServiceID: c.ID, SpecVersion: c.SpecVersion, Spec: c.Spec.TaskTemplate, Endpoint: c.Spec.EndpointSpec})
	u.b.wakeAt(s.id, u.b.now)
	u.log.Warn("update rolled back", "service", s.id, "err", message)
}

// finish completes the update when nothing is left to change and nothing failed for the monitoring time.
func (u *updater) finish(s *serviceInfo, r *rollout, c swarm.UpdateConfig) {
	if c.FailureAction != swarm.UpdateFailureActionContinue && !r.ran.IsZero() {
		wait := c.Monitor
		if c.Delay >= wait {
			wait = c.Delay + time.Second
		}
		if at := r.ran.Add(wait); at.After(u.b.now) {
			u.b.wakeAt(s.id, at)
			return
		}
	}
	if n := len(r.givenUp); n > 0 {
		u.pause(s, fmt.Sprintf("update paused because %d of %d tasks %s after %s", n, r.total, r.why(s), updateTimeout(s.service)))
		return
	}
	s.rollout = nil
	switch {
	case inState(s.service, swarm.UpdateStateRollbackStarted):
		u.setStatus(s, swarm.UpdateStateRollbackCompleted, "rollback completed", true)
	case r.moves:
		u.setStatus(s, swarm.UpdateStateCompleted, fmt.Sprintf("rebalance completed: %s moved", tasks(r.total)), true)
	default:
		u.setStatus(s, swarm.UpdateStateCompleted, "update completed", true)
	}
	u.log.Info("update completed", "service", s.id)
}

// setStatus drafts the service's update status. The end of an update is the end of a rebalance, too.
func (u *updater) setStatus(s *serviceInfo, to swarm.UpdateState, message string, end bool) {
	u.b.together()
	c := *s.service
	now := u.b.now
	st := swarm.UpdateStatus{State: to, Message: message, StartedAt: &now}
	if is := s.service.UpdateStatus; is != nil && is.StartedAt != nil && to != swarm.UpdateStateUpdating {
		st.StartedAt = is.StartedAt
	}
	if to == swarm.UpdateStateCompleted || to == swarm.UpdateStateRollbackCompleted {
		st.CompletedAt = &now
	}
	c.UpdateStatus = &st
	if end {
		c.Rebalance = nil
	}
	u.b.put(&c)
}

func tasks(n int) string {
	if n == 1 {
		return "1 task"
	}
	return fmt.Sprintf("%d tasks", n)
}
