package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/docker/cli/cli/command/formatter"
	"github.com/docker/docker/api/types/swarm"
)

// hintAfter is how long a task may be without a node before the person who waits is told more.
const hintAfter = 3 * time.Second

// place is what tasks follow one another in: a slot, or the node of a global service.
type place struct {
	slot int
	node string
}

func placeOf(t swarm.Task) place {
	if t.Slot != 0 {
		return place{slot: t.Slot}
	}
	return place{node: t.NodeID}
}

// look updates the lines of a service that is to go on running, and counts.
func (w *convergence) look(s *scene) {
	newest := currentTasks(s)
	w.start(s)
	w.complaints = nil
	for _, at := range w.inOrder(s, newest) {
		t := newest[at]
		if live(t) && t.Status.State == swarm.TaskStateRunning {
			s.running++
			if t.Status.Err != "" && !slices.Contains(w.complaints, t.Status.Err) {
				w.complaints = append(w.complaints, t.Status.Err)
			}
		}
		stopped := !live(t) && t.Status.State == swarm.TaskStateShutdown // one of before, of the same specification
		if line, ok := w.line(s, at); ok && !stopped {
			w.show.set(line, taskLine(t))
		}
	}
	w.show.set("overall progress", w.overall(s))
	w.hint(s, newest)
}

// hint tells where to read on when a task finds no node.
func (w *convergence) hint(s *scene, newest map[place]swarm.Task) {
	for _, t := range newest {
		if t.Status.State == swarm.TaskStatePending && t.Status.Err != "" && time.Since(w.began) > hintAfter {
			w.show.set("hint", fmt.Sprintf("`meshswarm service explain %s` says of each node why", s.service.Spec.Name))
			return
		}
	}
}

// overall is the line above those of the tasks.
func (w *convergence) overall(s *scene) string {
	switch {
	case len(w.moves) > 0:
		return fmt.Sprintf("rebalancing: %d out of %d tasks moved", w.moved(s), len(w.moves))
	case s.service.Spec.Mode.Global != nil && len(s.tasks) == 0:
		return "waiting for new tasks"
	case s.is(swarm.UpdateStateRollbackStarted):
		return fmt.Sprintf("rolling back update: %d out of %d tasks", s.running, s.wanted)
	}
	return fmt.Sprintf("%d out of %d tasks", s.running, s.wanted)
}

// moved is how many of the tasks to move run elsewhere.
func (w *convergence) moved(s *scene) int {
	newest := currentTasks(s)
	n := 0
	for _, m := range w.moves {
		if t, there := newest[place{slot: m.Slot}]; there && t.ID != m.TaskID && t.Status.State == swarm.TaskStateRunning {
			n++
		}
	}
	return n
}

// start draws the lines in order before any task is known.
func (w *convergence) start(s *scene) {
	if w.lines != nil {
		return
	}
	w.lines = map[place]int{}
	if s.wanted == 0 {
		return
	}
	w.show.set("overall progress", fmt.Sprintf("0 out of %d tasks", s.wanted))
	if s.service.Spec.Mode.Replicated == nil || len(w.moves) > 0 {
		return
	}
	for i := 1; i <= s.wanted && s.wanted <= maxBars; i++ {
		w.show.set(fmt.Sprintf("%d/%d", i, s.wanted), "")
	}
}

// line is the name of a place's line: the node of a global service, the slot that moves, or the number of a slot. Slots
// may have gaps, numbers have none.
func (w *convergence) line(s *scene, at place) (string, bool) {
	if len(w.moves) > 0 {
		moves := slices.ContainsFunc(w.moves, func(m rebalanceMove) bool { return m.Slot == at.slot })
		return fmt.Sprintf("%s.%d", s.service.Spec.Name, at.slot), moves && len(w.moves) <= maxBars
	}
	if w.lines[at] == 0 {
		w.lines[at] = len(w.lines) + 1
	}
	if at.slot == 0 {
		return s.nodeName(at.node), s.wanted <= maxBars
	}
	n := w.lines[at]
	return fmt.Sprintf("%d/%d", n, s.wanted), s.wanted <= maxBars && n <= s.wanted
}

// nodeName is a node's host name, or its ID where several have the same.
func (s *scene) nodeName(id string) string {
	return nodeName(s.nodes, id)
}

func nodeName(nodes map[string]swarm.Node, id string) string {
	name := nodes[id].Description.Hostname
	for other, n := range nodes {
		if name == "" || other != id && n.Description.Hostname == name {
			return formatter.TruncateID(id)
		}
	}
	return cmp.Or(name, formatter.TruncateID(id))
}

// taskName is a task's name for people: the service and its slot or node.
func (w *convergence) taskName(s *scene, t swarm.Task) string {
	if t.Slot != 0 {
		return fmt.Sprintf("%s.%d", s.service.Spec.Name, t.Slot)
	}
	return s.service.Spec.Name + "." + s.nodeName(t.NodeID)
}

var stateOrder = []swarm.TaskState{
	swarm.TaskStateNew, swarm.TaskStateAllocated, swarm.TaskStatePending, swarm.TaskStateAssigned, swarm.TaskStateAccepted,
	swarm.TaskStatePreparing, swarm.TaskStateReady, swarm.TaskStateStarting, swarm.TaskStateRunning, swarm.TaskStateComplete,
	swarm.TaskStateShutdown, swarm.TaskStateFailed, swarm.TaskStateRejected, swarm.TaskStateRemove, swarm.TaskStateOrphaned,
}

func order(s swarm.TaskState) int { return slices.Index(stateOrder, s) }

func ended(s swarm.TaskState) bool { return order(s) > order(swarm.TaskStateRunning) }

// live tells whether the swarm still wants a task to run; a job's tasks are to complete.
func live(t swarm.Task) bool { return order(t.DesiredState) <= order(swarm.TaskStateComplete) }

// currentTasks picks one task per place: the one with the lowest desired state, then the lowest state, then the newest,
// because a restart leaves the old task beside the new one. Tasks on nodes that are down do not count.
func currentTasks(s *scene) map[place]swarm.Task {
	newest := map[place]swarm.Task{}
	for _, t := range s.tasks {
		if t.NodeID != "" && !s.up(t.NodeID) {
			continue
		}
		at := placeOf(t)
		old, ok := newest[at]
		if !ok || cmp.Or(
			cmp.Compare(order(t.DesiredState), order(old.DesiredState)),
			cmp.Compare(order(t.Status.State), order(old.Status.State)),
			old.CreatedAt.Compare(t.CreatedAt),
		) < 0 {
			newest[at] = t
		}
	}
	return newest
}

// inOrder are the places by slot, then by the name of the node.
func (w *convergence) inOrder(s *scene, tasks map[place]swarm.Task) []place {
	return slices.SortedFunc(maps.Keys(tasks), func(a, b place) int {
		return cmp.Or(cmp.Compare(a.slot, b.slot), cmp.Compare(s.nodeName(a.node), s.nodeName(b.node)))
	})
}

// prepared is the worker's own word for a task that is ready, and says nothing more.
const prepared = "prepared"

// taskLine is what a place's line says: why it is not well, what it waits for, or how far it is.
func taskLine(t swarm.Task) string {
	const width = 75
	held := t.DesiredState == swarm.TaskStateReady && t.Status.State == swarm.TaskStateReady
	if held && t.Status.Message != "" && t.Status.Message != prepared {
		return ellipsis(fmt.Sprintf("%-9s %s", t.Status.State, t.Status.Message), width) // how long it is held back
	}
	if t.Status.Err != "" && t.Status.State != swarm.TaskStateRunning {
		return ellipsis(strings.ReplaceAll(t.Status.Err, "\n", " "), width)
	}
	goal := swarm.TaskStateRunning
	if t.DesiredState == swarm.TaskStateComplete {
		goal = swarm.TaskStateComplete
	}
	if order(t.Status.State) > order(goal) {
		return string(t.Status.State)
	}
	return fmt.Sprintf("%-9s %s", t.Status.State, bar(order(t.Status.State)+1, order(goal)+1))
}

func bar(n, of int) string {
	const width = 50
	if n >= of {
		return "[" + strings.Repeat("=", width) + ">]"
	}
	full := width * n / of
	return "[" + strings.Repeat("=", full) + ">" + strings.Repeat(" ", width-full) + "]"
}

func ellipsis(s string, width int) string {
	letters := []rune(s)
	if len(letters) <= width {
		return s
	}
	return string(letters[:width-1]) + "…"
}
