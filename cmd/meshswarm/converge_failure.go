package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/docker/docker/api/types/swarm"
)

// maxAttempts is how often a place may fail in a row before waiting for it makes no sense for a person. The swarm goes
// on trying.
const maxAttempts = 3

// hopeless returns an error when a place failed so often since the first look, or so finally, that a person should act.
func (w *convergence) hopeless(s *scene) error {
	first := w.before == nil
	if first {
		w.before = map[string]bool{}
	}
	failed := map[place][]swarm.Task{}
	alive := map[place]bool{}
	for _, t := range s.tasks {
		at := placeOf(t)
		switch {
		case live(t) && (!ended(t.Status.State) || isJob(s.service) && t.Status.State == swarm.TaskStateComplete):
			alive[at] = true
		case !ended(t.Status.State) || t.Status.State == swarm.TaskStateShutdown:
		case first && time.Since(t.CreatedAt) > defaultMonitor:
			w.before[t.ID] = true
		case !w.before[t.ID]:
			failed[at] = append(failed[at], t)
		}
	}
	for at, list := range failed {
		slices.SortFunc(list, func(a, b swarm.Task) int { return a.CreatedAt.Compare(b.CreatedAt) })
		last := list[len(list)-1]
		if len(list) >= attempts(s.service, last) && (!alive[at] || len(list) >= maxAttempts) {
			return w.failure(s, last, len(list))
		}
	}
	return nil
}

// noNodes tells whether a service of all nodes has found none for so long that it will not soon.
func (w *convergence) noNodes(s *scene) bool {
	if s.status != nil || time.Since(w.began) < defaultMonitor {
		return false
	}
	w.complaints = append(w.complaints, fmt.Sprintf("there is no node that service %[1]s may run on. It starts on those that come. "+
		"See `meshswarm service explain %[1]s`", s.service.Spec.Name))
	return true
}

// attempts is how many tasks of a place may end before its service counts as failed.
func attempts(service swarm.Service, last swarm.Task) int {
	policy := valueOf(service.Spec.TaskTemplate.RestartPolicy)
	limit := maxAttempts
	if n := valueOf(policy.MaxAttempts); n > 0 {
		limit = min(limit, int(n)+1)
	}
	switch {
	case policy.Condition == swarm.RestartPolicyConditionNone,
		policy.Condition == swarm.RestartPolicyConditionOnFailure && last.Status.State == swarm.TaskStateComplete:
		return 1
	case last.Status.State == swarm.TaskStateRejected:
		return min(limit, 2)
	}
	return limit
}

// reason is why a task ended.
func reason(t swarm.Task) string {
	if t.Status.Err != "" {
		return strings.TrimSpace(t.Status.Err)
	}
	return strings.TrimSpace(t.Status.Message)
}

func (w *convergence) failure(s *scene, last swarm.Task, times int) error {
	once := "once"
	if times > 1 {
		once = fmt.Sprintf("%d times", times)
	}
	name, ends := s.service.Spec.Name, "converge"
	if isJob(s.service) {
		ends = "complete"
	}
	return errors.New(fmt.Sprintf("service %s does not %s: task %s ended %s (%s): %s\n",
		name, ends, w.taskName(s, last), once, last.Status.State, reason(last)) +
		fmt.Sprintf("The swarm keeps the service as its restart policy says. See `meshswarm service ps --no-trunc %[1]s`, "+
			"then `meshswarm service update` or `meshswarm service rm %[1]s`.", name))
}
