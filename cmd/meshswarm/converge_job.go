package main

import (
	"fmt"
	"strconv"

	"github.com/docker/docker/api/types/swarm"
)

// lookAtJob updates the lines of a job and tells whether it is complete. The words are those of the docker command.
func (w *convergence) lookAtJob(s *scene) (done bool) {
	defer w.show.flush()
	newest := jobTasks(s)
	active, concurrent := 0, 0
	for _, t := range newest {
		switch {
		case t.Status.State == swarm.TaskStateComplete:
			s.running++
		case !ended(t.Status.State):
			active++
		}
	}
	if job := s.service.Spec.Mode.ReplicatedJob; job != nil {
		s.wanted = orOne(job.TotalCompletions)
		concurrent = min(orOne(job.MaxConcurrent), s.wanted-s.running)
	} else {
		s.wanted = len(newest)
	}
	if w.lines == nil && s.wanted == 0 && s.service.Spec.Mode.GlobalJob != nil {
		w.show.set("job progress", "waiting for tasks")
		return w.noNodes(s)
	}
	w.setJobLines(s, newest, active, concurrent)
	w.hint(s, newest)
	return s.running >= s.wanted
}

func (w *convergence) setJobLines(s *scene, newest map[place]swarm.Task, active, concurrent int) {
	digits := len(strconv.Itoa(s.wanted))
	w.show.set("job progress", fmt.Sprintf("%*d out of %d complete %s", digits, s.running, s.wanted, bar(s.running, s.wanted)))
	replicated := s.service.Spec.Mode.ReplicatedJob != nil
	if replicated {
		w.show.set("active tasks", fmt.Sprintf("%d out of %d tasks", active, concurrent))
	}
	first := w.lines == nil
	w.lines = map[place]int{}
	if s.wanted > maxBars {
		return
	}
	for i := 1; first && replicated && i <= s.wanted; i++ {
		w.show.set(fmt.Sprintf("%d/%d", i, s.wanted), "")
	}
	for _, at := range w.inOrder(s, newest) {
		name := s.nodeName(at.node)
		if at.slot != 0 {
			name = fmt.Sprintf("%d/%d", at.slot, s.wanted)
		}
		w.show.set(name, taskLine(newest[at]))
	}
}

// jobTasks picks one task per place: the one that goes on or went well rather than those that failed before it.
func jobTasks(s *scene) map[place]swarm.Task {
	newest := map[place]swarm.Task{}
	for _, t := range s.tasks {
		old, there := newest[placeOf(t)]
		if !there || order(t.Status.State) < order(old.Status.State) {
			newest[placeOf(t)] = t
		}
	}
	return newest
}

// orOne is the number that a job's specification may leave out.
func orOne(n *uint64) int {
	if n == nil {
		return 1
	}
	return int(*n)
}
