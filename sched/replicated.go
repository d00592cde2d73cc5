package sched

import (
	"cmp"
	"math"
	"slices"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

// replicas is how many tasks a replicated service wants.
func replicas(s *state.Service) int {
	m := s.Spec.Mode.Replicated
	if m == nil || m.Replicas == nil {
		return 1
	}
	return int(min(*m.Replicas, math.MaxInt32))
}

// scale adds slots at the lowest free numbers, or gives up those that the scheduler would have filled last.
func (o *orchestrator) scale(s *serviceInfo, changed []state.Place) {
	have, want := len(s.places)-s.counts[vacant], replicas(s.service)
	switch {
	case have < want:
		for slot, missing := 1, want-have; missing > 0; slot++ {
			p := state.Place{Slot: slot}
			if s.stand(p) != vacant {
				continue
			}
			o.b.together()
			o.b.put(o.newTask(s, p, swarm.TaskStateRunning, 0))
			missing--
		}
		o.b.assess(s)
	case have > want:
		stand := make(map[state.Place][]*state.Task, have)
		for p, i := range s.places {
			if i.stand != vacant {
				stand[p] = s.standers(p)
			}
		}
		for _, p := range o.b.lastPlaced(s.revision(), stand, have-want) {
			o.removePlace(s, p)
		}
		o.b.assess(s)
	}
	for _, p := range changed { // what is left of slots that nothing stands for
		if s.stand(p) == vacant {
			o.removePlace(s, p)
		}
	}
}

// idle is 0 for a place with a running task, else 1.
func idle(tasks []*state.Task) int {
	if slices.ContainsFunc(tasks, func(t *state.Task) bool { return t.Status.State == swarm.TaskStateRunning }) {
		return 0
	}
	return 1
}

// complete has a replicated job make the tasks that it may make now: as many at a time as it allows, until as many as it
// wants have completed. A slot whose attempts are used up is not tried again.
func (o *orchestrator) complete(s *serviceInfo) {
	atOnce, total := jobSize(s.service)
	running, over := s.counts[occupied], s.counts[finished]+s.counts[spent]
	n := min(atOnce-running, total-over-running)
	s.lowest = max(s.lowest, 1)
	for ; n > 0 && s.lowest <= total; s.lowest++ {
		p := state.Place{Slot: s.lowest}
		if s.stand(p) != vacant {
			continue
		}
		o.b.together()
		o.b.put(o.newTask(s, p, s.goal(), 0))
		n--
	}
}

// jobSize is how many tasks of a replicated job may run at a time, and how many shall complete.
func jobSize(s *state.Service) (atOnce, total int) {
	j := s.Spec.Mode.ReplicatedJob
	clip := func(n *uint64, fallback int) int {
		if n == nil {
			return fallback
		}
		return int(min(*n, math.MaxInt32))
	}
	atOnce = cmp.Or(clip(j.MaxConcurrent, 1), 1)
	return atOnce, clip(j.TotalCompletions, atOnce)
}

// retire has the tasks of earlier iterations of a job removed.
func (o *orchestrator) retire(s *serviceInfo, places []state.Place) {
	for _, p := range places {
		for _, t := range s.tasksIn(p) {
			if t.Iteration != s.iteration() {
				o.b.together()
				o.b.setDesired(t, swarm.TaskStateRemove)
			}
		}
	}
}
