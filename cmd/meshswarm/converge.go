package main

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/swarm"
	"github.com/docker/docker/client"
)

const (
	convergePoll   = 200 * time.Millisecond
	defaultMonitor = 5 * time.Second
	maxBars        = 20
)

// waiting says what a command waits for.
type waiting struct {
	quiet bool
	// back: a rollback was asked for, so that its end is a good one.
	back bool
	// moves are the tasks that a rebalancing takes to other nodes; stale is the update status that the service had before.
	moves []rebalanceMove
	stale *swarm.UpdateStatus
}

// converge shows how the tasks of a service come up and returns when all of them have run for the monitoring period,
// when its update or its job has ended, or with an error when that will not be. Ctrl-C (or SIGTERM) ends the showing,
// not the work.
func (p *program) converge(ctx context.Context, node *client.Client, service string, what waiting) error {
	w := &convergence{waiting: what, node: node, service: service, show: newDisplay(p.out, what.quiet), began: time.Now()}
	tick := time.NewTicker(convergePoll)
	defer tick.Stop()
	for {
		done, err := w.step(ctx)
		if (err != nil || done) && ctx.Err() == nil {
			w.show.close()
			for _, c := range w.complaints {
				fmt.Fprintln(p.err, "warning:", c)
			}
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			w.show.close()
			if w.convergedAt.IsZero() {
				fmt.Fprintf(p.out, "Operation continuing in background.\nUse `meshswarm service ps %s` to check progress.\n", service)
			}
			return nil
		}
	}
}

// convergence is one waiting for one service.
type convergence struct {
	waiting
	node    *client.Client
	service string
	show    display
	began   time.Time

	lines       map[place]int // number of a place's line
	before      map[string]bool
	convergedAt time.Time
	// updated: an update was seen at work, so that its end is the end.
	updated bool
	// why is what the swarm said when it began to roll back.
	why string
	// complaints are what running tasks say is wrong: a published port that their node cannot serve.
	complaints []string
}

// scene is what one look at the swarm saw.
type scene struct {
	service swarm.Service
	status  *swarm.UpdateStatus // nil: no update, or one of before
	// tasks are those of the service's present specification, and of the present iteration of a job.
	tasks []swarm.Task
	nodes map[string]swarm.Node
	// running is how many of wanted tasks run (or, of a job, have ended well).
	running, wanted int
}

// step looks once. done: converged and stable, or nothing to wait for.
func (w *convergence) step(ctx context.Context) (done bool, err error) {
	var s scene
	if s.service, _, err = w.node.ServiceInspectWithRaw(ctx, w.service, swarm.ServiceInspectOptions{}); err != nil {
		return false, err
	}
	s.status = w.news(s.service.UpdateStatus)
	if done, err := w.updateStatus(ctx, &s); done || err != nil {
		return done, err
	}
	if err := w.see(ctx, &s); err != nil {
		return false, err
	}
	if isJob(s.service) {
		if w.lookAtJob(&s) {
			w.show.set("", "job complete")
			return true, nil
		}
		return false, w.hopeless(&s)
	}
	w.look(&s)
	done = w.settled(&s)
	w.show.flush()
	if done || s.is(swarm.UpdateStateUpdating, swarm.UpdateStateRollbackStarted) {
		return done, nil // the swarm itself judges an update's failures
	}
	return false, w.hopeless(&s)
}

// see asks for the tasks and the nodes.
func (w *convergence) see(ctx context.Context, s *scene) error {
	filter := filters.NewArgs(filters.Arg("service", s.service.ID))
	if !isJob(s.service) { // of a job the iteration tells; _up-to-date would number its slots from 0, for the docker command
		filter.Add("_up-to-date", "true")
	}
	tasks, err := w.node.TaskList(ctx, swarm.TaskListOptions{Filters: filter})
	if err != nil {
		return err
	}
	for _, t := range tasks {
		if job := s.service.JobStatus; job == nil || t.JobIteration == nil || t.JobIteration.Index == job.JobIteration.Index {
			s.tasks = append(s.tasks, t)
		}
	}
	if s.nodes, err = nodesByID(ctx, w.node); err != nil {
		return err
	}
	switch mode := s.service.Spec.Mode; {
	case mode.Replicated != nil:
		s.wanted = int(valueOf(mode.Replicated.Replicas))
	case mode.Global != nil:
		s.wanted, err = w.wantedNodes(ctx, s)
	}
	return err
}

func nodesByID(ctx context.Context, node *client.Client) (map[string]swarm.Node, error) {
	list, err := node.NodeList(ctx, swarm.NodeListOptions{})
	if err != nil {
		return nil, err
	}
	nodes := make(map[string]swarm.Node, len(list))
	for _, n := range list {
		nodes[n.ID] = n
	}
	return nodes, nil
}

// wantedNodes is on how many nodes a global service is to have a task of its present specification: those that have one,
// and during an update also those that have an older one and take new tasks.
func (w *convergence) wantedNodes(ctx context.Context, s *scene) (int, error) {
	on := map[string]bool{}
	for _, t := range s.tasks {
		if live(t) && s.up(t.NodeID) {
			on[t.NodeID] = true
		}
	}
	if s.is(swarm.UpdateStateUpdating, swarm.UpdateStateRollbackStarted) {
		all, err := w.node.TaskList(ctx, swarm.TaskListOptions{Filters: filters.NewArgs(
			filters.Arg("service", s.service.ID), filters.Arg("desired-state", "running"))})
		if err != nil {
			return 0, err
		}
		for _, t := range all {
			if s.up(t.NodeID) && s.nodes[t.NodeID].Spec.Availability == swarm.NodeAvailabilityActive {
				on[t.NodeID] = true
			}
		}
	}
	return len(on), nil
}

func (s *scene) up(node string) bool {
	n, there := s.nodes[node]
	return there && n.Status.State != swarm.NodeStateDown
}

// is tells whether the update is in one of these states.
func (s *scene) is(states ...swarm.UpdateState) bool {
	for _, state := range states {
		if s.status != nil && s.status.State == state {
			return true
		}
	}
	return false
}

// news is the update's status unless it is the one of before.
func (w *convergence) news(status *swarm.UpdateStatus) *swarm.UpdateStatus {
	if old := w.stale; old != nil && status != nil && old.State == status.State && valueOf(old.StartedAt).Equal(valueOf(status.StartedAt)) {
		return nil
	}
	return status
}

// updateStatus ends the waiting where the update has ended otherwise than with all tasks running.
func (w *convergence) updateStatus(ctx context.Context, s *scene) (done bool, err error) {
	if s.status == nil {
		return false, nil
	}
	name, message := s.service.Spec.Name, s.status.Message
	switch s.status.State {
	case swarm.UpdateStateUpdating:
		w.updated = true
	case swarm.UpdateStateCompleted:
		w.updated = true
		return w.lines == nil, nil // everything was there before the first look
	case swarm.UpdateStatePaused:
		return false, fmt.Errorf("service update paused: %s%s\nThe other tasks stay as they were. See `meshswarm service ps --no-trunc %[3]s`, "+
			"then go on or back with another `meshswarm service update`, or `meshswarm service rollback %[3]s`", message, w.lastFailure(ctx, s), name)
	case swarm.UpdateStateRollbackStarted:
		w.updated, w.why = true, message
		w.show.set("rollback", message)
	case swarm.UpdateStateRollbackCompleted:
		w.updated = true
		if !w.back {
			return false, fmt.Errorf("service %[1]s: %[2]s%[3]s\nThe service runs as before the update. See `meshswarm service ps --no-trunc %[1]s`",
				name, cmp.Or(w.why, message), w.lastFailure(ctx, s))
		}
		return w.lines == nil, nil
	case swarm.UpdateStateRollbackPaused:
		return false, fmt.Errorf("service rollback paused: %s%s\nThe other tasks stay as they were. See `meshswarm service ps --no-trunc %s`, "+
			"then go on with `meshswarm service update`", message, w.lastFailure(ctx, s), name)
	}
	return false, nil
}

// settled tells whether all has run for long enough, and says how long it has to.
func (w *convergence) settled(s *scene) bool {
	if s.service.Spec.Mode.Global != nil && len(s.tasks) == 0 {
		return w.noNodes(s)
	}
	working := s.is(swarm.UpdateStateUpdating, swarm.UpdateStateRollbackStarted)
	if working && len(w.moves) > 0 {
		return false // all tasks run, but not all where they should
	}
	if s.running != s.wanted {
		if !w.convergedAt.IsZero() {
			w.show.set("verify", "Detected task failure")
			w.convergedAt = time.Time{}
		}
		return false
	}
	if w.convergedAt.IsZero() {
		w.convergedAt = time.Now()
	}
	left := monitor(s) - time.Since(w.convergedAt)
	switch {
	case !working && (w.updated || left <= 0): // an update has done its own watching
		w.show.set("verify", fmt.Sprintf("Service %s converged", s.service.ID))
		return true
	case left > 0:
		w.show.set("verify", fmt.Sprintf("Waiting %d seconds to verify that tasks are stable...", left/time.Second+1))
	}
	return false
}

func monitor(s *scene) time.Duration {
	config := s.service.Spec.UpdateConfig
	if s.is(swarm.UpdateStateRollbackStarted) {
		config = s.service.Spec.RollbackConfig
	}
	if m := valueOf(config).Monitor; m != 0 {
		return m
	}
	return defaultMonitor
}

// lastFailure is the newest task that failed since the update began, as words to follow the update's message.
func (w *convergence) lastFailure(ctx context.Context, s *scene) string {
	if s.status.StartedAt == nil {
		return ""
	}
	tasks, err := w.node.TaskList(ctx, swarm.TaskListOptions{Filters: filters.NewArgs(filters.Arg("service", s.service.ID))})
	if err != nil {
		return "" // the error that is being told matters more
	}
	if s.nodes, err = nodesByID(ctx, w.node); err != nil {
		return ""
	}
	var last *swarm.Task
	for i, t := range tasks {
		failed := t.Status.State == swarm.TaskStateFailed || t.Status.State == swarm.TaskStateRejected
		if failed && !t.CreatedAt.Before(*s.status.StartedAt) && (last == nil || last.CreatedAt.Before(t.CreatedAt)) {
			last = &tasks[i]
		}
	}
	if last == nil {
		return ""
	}
	return fmt.Sprintf("\nLast failure: task %s (%s): %s", w.taskName(s, *last), last.Status.State, reason(*last))
}

func isJob(s swarm.Service) bool {
	return s.Spec.Mode.ReplicatedJob != nil || s.Spec.Mode.GlobalJob != nil
}
