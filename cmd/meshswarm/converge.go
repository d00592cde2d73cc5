package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/swarm"
	"github.com/docker/docker/client"
)

const (
	convergePoll   = 200 * time.Millisecond
	defaultMonitor = 5 * time.Second
	// maxAttempts is how often a slot may fail in a row before waiting for it makes no sense for a person. The swarm
	// goes on trying.
	maxAttempts = 3
	maxBars     = 20
)

// converge shows how the tasks of a service come up and returns when all of them have run for the monitoring period,
// or an error when they will not. Ctrl-C (or SIGTERM) ends the showing, not the work.
func (p *program) converge(ctx context.Context, node *client.Client, service string, quiet bool) error {
	w := &convergence{node: node, service: service, show: newDisplay(p.out, quiet), tick: time.NewTicker(convergePoll)}
	defer w.tick.Stop()
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
		case <-w.tick.C:
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
	node    *client.Client
	service string
	show    display
	tick    *time.Ticker

	slots       map[int]int // slot → number of its line
	before      map[string]bool
	convergedAt time.Time
	replicas    int
	// complaints are what running tasks say is wrong: a published port that their node cannot serve.
	complaints []string
}

// step looks once. done: converged and stable, or nothing to wait for.
func (w *convergence) step(ctx context.Context) (done bool, err error) {
	service, _, err := w.node.ServiceInspectWithRaw(ctx, w.service, swarm.ServiceInspectOptions{})
	if err != nil {
		return false, err
	}
	if done, err := w.updateStatus(service); done || err != nil {
		return done, err
	}
	monitor := defaultMonitor
	if u := service.Spec.UpdateConfig; u != nil && u.Monitor != 0 {
		monitor = u.Monitor
	}
	if !w.convergedAt.IsZero() && time.Since(w.convergedAt) >= monitor {
		w.show.set("verify", fmt.Sprintf("Service %s converged", service.ID))
		return true, nil
	}
	tasks, err := w.node.TaskList(ctx, swarm.TaskListOptions{Filters: filters.NewArgs(
		filters.Arg("service", service.ID), filters.Arg("_up-to-date", "true"))})
	if err != nil {
		return false, err
	}
	nodes, err := w.node.NodeList(ctx, swarm.NodeListOptions{})
	if err != nil {
		return false, err
	}
	w.look(service, tasks, upNodes(nodes), monitor)
	return false, w.hopeless(service, tasks)
}

func (w *convergence) updateStatus(service swarm.Service) (done bool, err error) {
	status := service.UpdateStatus
	if status == nil {
		return false, nil
	}
	switch status.State {
	case swarm.UpdateStateCompleted:
		// Everything was there before the first look.
		return w.slots == nil, nil
	case swarm.UpdateStatePaused:
		return false, fmt.Errorf("service update paused: %s\nThe other tasks stay as they were. See `meshswarm service ps --no-trunc %[2]s`, "+
			"then go on or back with another `meshswarm service update`, as --image with the image that worked", status.Message, service.Spec.Name)
	case swarm.UpdateStateRollbackPaused:
		return false, fmt.Errorf("service rollback paused: %s", status.Message)
	case swarm.UpdateStateRollbackStarted:
		w.show.set("rollback", status.Message)
	}
	return false, nil
}

func upNodes(nodes []swarm.Node) map[string]bool {
	up := map[string]bool{}
	for _, n := range nodes {
		up[n.ID] = n.Status.State != swarm.NodeStateDown
	}
	return up
}

// look updates the lines and decides whether all tasks run.
func (w *convergence) look(service swarm.Service, tasks []swarm.Task, up map[string]bool, monitor time.Duration) {
	newest := currentTasks(tasks, up)
	w.start(service, len(newest))
	running := 0
	w.complaints = nil
	for _, slot := range sortedSlots(newest) {
		t := newest[slot]
		if live(t) && t.Status.State == swarm.TaskStateRunning {
			running++
			if t.Status.Err != "" && !slices.Contains(w.complaints, t.Status.Err) {
				w.complaints = append(w.complaints, t.Status.Err)
			}
		}
		if line, ok := w.line(slot); ok {
			w.show.set(line, taskLine(t))
		}
	}
	w.show.set("overall progress", fmt.Sprintf("%d out of %d tasks", running, w.replicas))
	if running != w.replicas {
		if !w.convergedAt.IsZero() {
			w.show.set("verify", "Detected task failure")
			w.convergedAt = time.Time{}
		}
		w.show.flush()
		return
	}
	if w.convergedAt.IsZero() {
		w.convergedAt = time.Now()
	}
	if left := monitor - time.Since(w.convergedAt); left > 0 {
		w.show.set("verify", fmt.Sprintf("Waiting %d seconds to verify that tasks are stable...", left/time.Second+1))
	}
	w.show.flush()
}

// start draws the lines in order before any task is known.
func (w *convergence) start(service swarm.Service, seen int) {
	w.replicas = seen
	if mode := service.Spec.Mode.Replicated; mode != nil {
		w.replicas = int(valueOf(mode.Replicas))
	}
	if w.slots != nil {
		return
	}
	w.slots = map[int]int{}
	w.show.set("overall progress", fmt.Sprintf("0 out of %d tasks", w.replicas))
	for i := 1; i <= w.replicas && w.replicas <= maxBars; i++ {
		w.show.set(fmt.Sprintf("%d/%d", i, w.replicas), "")
	}
}

// line is the name of a slot's line; slots may have gaps, lines have none.
func (w *convergence) line(slot int) (string, bool) {
	if w.slots[slot] == 0 {
		w.slots[slot] = len(w.slots) + 1
	}
	n := w.slots[slot]
	return fmt.Sprintf("%d/%d", n, w.replicas), w.replicas <= maxBars && n <= w.replicas
}

var stateOrder = []swarm.TaskState{
	swarm.TaskStateNew, swarm.TaskStateAllocated, swarm.TaskStatePending, swarm.TaskStateAssigned, swarm.TaskStateAccepted,
	swarm.TaskStatePreparing, swarm.TaskStateReady, swarm.TaskStateStarting, swarm.TaskStateRunning, swarm.TaskStateComplete,
	swarm.TaskStateShutdown, swarm.TaskStateFailed, swarm.TaskStateRejected, swarm.TaskStateRemove, swarm.TaskStateOrphaned,
}

func order(s swarm.TaskState) int { return slices.Index(stateOrder, s) }

func ended(s swarm.TaskState) bool { return order(s) > order(swarm.TaskStateRunning) }

// live tells whether the swarm still wants a task to run.
func live(t swarm.Task) bool { return !ended(t.DesiredState) }

// currentTasks picks one task per slot: the one with the lowest desired state, then the lowest state, then the newest,
// because a restart leaves the old task beside the new one. Tasks on nodes that are down do not count.
func currentTasks(tasks []swarm.Task, up map[string]bool) map[int]swarm.Task {
	newest := map[int]swarm.Task{}
	for _, t := range tasks {
		if t.NodeID != "" && !up[t.NodeID] {
			continue
		}
		slot := t.Slot
		old, ok := newest[slot]
		if !ok || cmp.Or(
			cmp.Compare(order(t.DesiredState), order(old.DesiredState)),
			cmp.Compare(order(t.Status.State), order(old.Status.State)),
			old.CreatedAt.Compare(t.CreatedAt),
		) < 0 {
			newest[slot] = t
		}
	}
	return newest
}

func sortedSlots(tasks map[int]swarm.Task) []int {
	slots := make([]int, 0, len(tasks))
	for slot := range tasks {
		slots = append(slots, slot)
	}
	slices.Sort(slots)
	return slots
}

// taskLine is what a slot's line says: why it is not well, or how far it is.
func taskLine(t swarm.Task) string {
	if t.Status.Err != "" && t.Status.State != swarm.TaskStateRunning {
		return ellipsis(strings.ReplaceAll(t.Status.Err, "\n", " "), 75)
	}
	if ended(t.Status.State) {
		return string(t.Status.State)
	}
	return fmt.Sprintf("%-9s %s", t.Status.State, bar(order(t.Status.State)+1, order(swarm.TaskStateRunning)+1))
}

func bar(n, of int) string {
	const width = 50
	full := width * n / of
	if n >= of {
		return "[" + strings.Repeat("=", width) + ">]"
	}
	return "[" + strings.Repeat("=", full) + ">" + strings.Repeat(" ", width-full) + "]"
}

func ellipsis(s string, width int) string {
	letters := []rune(s)
	if len(letters) <= width {
		return s
	}
	return string(letters[:width-1]) + "…"
}

// hopeless returns an error when a slot failed so often since the first look, or so finally, that a person should act.
func (w *convergence) hopeless(service swarm.Service, tasks []swarm.Task) error {
	first := w.before == nil
	if first {
		w.before = map[string]bool{}
	}
	failed := map[int][]swarm.Task{}
	alive := map[int]bool{}
	for _, t := range tasks {
		switch {
		case live(t) && !ended(t.Status.State):
			alive[t.Slot] = true
		case !ended(t.Status.State) || t.Status.State == swarm.TaskStateShutdown:
		case first && time.Since(t.CreatedAt) > defaultMonitor:
			w.before[t.ID] = true
		case !w.before[t.ID]:
			failed[t.Slot] = append(failed[t.Slot], t)
		}
	}
	for slot, list := range failed {
		slices.SortFunc(list, func(a, b swarm.Task) int { return a.CreatedAt.Compare(b.CreatedAt) })
		last := list[len(list)-1]
		if len(list) >= attempts(service, last) && (!alive[slot] || len(list) >= maxAttempts) {
			return failure(service, last, len(list))
		}
	}
	return nil
}

// attempts is how many tasks of a slot may end before its service counts as failed.
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

func failure(service swarm.Service, last swarm.Task, times int) error {
	reason := last.Status.Err
	if reason == "" {
		reason = last.Status.Message
	}
	once := "once"
	if times > 1 {
		once = fmt.Sprintf("%d times", times)
	}
	return errors.New(fmt.Sprintf("service %s does not converge: task %s.%d ended %s (%s): %s\n", service.Spec.Name,
		service.Spec.Name, last.Slot, once, last.Status.State, strings.TrimSpace(reason)) +
		fmt.Sprintf("The swarm keeps the service as its restart policy says. See `meshswarm service ps --no-trunc %[1]s`, "+
			"then `meshswarm service update` or `meshswarm service rm %[1]s`.", service.Spec.Name))
}
