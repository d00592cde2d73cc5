package sched

import (
	"fmt"
	"time"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

// explainTasks adds what is not as wanted, place by place.
func (b *board) explainTasks(e *Explanation, s *serviceInfo) {
	for _, p := range sortedPlaces(s.places) {
		for _, t := range s.standers(p) {
			if done(t) {
				continue
			}
			if reason, next := b.hindrance(s, t); reason != "" {
				e.Tasks = append(e.Tasks, b.taskExplanation(t, reason, next))
			}
		}
	}
	b.explainMissing(e, s)
}

func (b *board) taskExplanation(t *state.Task, reason string, next time.Time) TaskExplanation {
	x := TaskExplanation{
		ID: t.ID, Slot: t.Slot, NodeID: t.NodeID, State: t.Status.State, DesiredState: t.DesiredState, Crashes: t.Crashes,
		Reason: reason, Next: pointer(next),
	}
	if n := b.nodes[t.NodeID]; n != nil {
		x.Node = nodeName(n)
	}
	return x
}

// explainMissing adds the places that shall have a task and have none.
func (b *board) explainMissing(e *Explanation, s *serviceInfo) {
	switch m := modeOf(s.service); {
	case m.perNode():
		for _, id := range sorted(b.nodes) {
			if b.coverage(s, id) == wanted && s.stand(state.Place{NodeID: id}) == vacant {
				e.Tasks = append(e.Tasks, TaskExplanation{NodeID: id, Node: nodeName(b.nodes[id]), Reason: "the leader has not made its task yet"})
			}
		}
	case m == replicatedJob:
		atOnce, total := jobSize(s.service)
		if left := total - s.counts[finished] - s.counts[spent] - s.counts[occupied]; left > 0 {
			reason := fmt.Sprintf("%d more runs follow: at most %d at a time", left, atOnce)
			if left == 1 {
				reason = fmt.Sprintf("one more run follows: at most %d at a time", atOnce)
			}
			e.Tasks = append(e.Tasks, TaskExplanation{Reason: reason})
		}
	default:
		if missing := replicas(s.service) - (len(s.places) - s.counts[vacant]); missing > 0 {
			e.Tasks = append(e.Tasks, TaskExplanation{Reason: fmt.Sprintf("the leader has not made %d of its tasks yet", missing)})
		}
	}
}

// hindrance says why a task is not (yet) as its service wants it, and when that will be looked at again; "" if it is.
func (b *board) hindrance(s *serviceInfo, t *state.Task) (reason string, next time.Time) {
	switch at := state.Rank(t.Status.State); {
	case !live(t):
		return s.whyOver(t), next
	case state.Terminal(t.Status.State):
		return "ended, and is about to be replaced" + because(t.Status.Err), b.startAt(s, t)
	case at < state.Rank(swarm.TaskStatePending):
		return "waits for an address" + because(t.Status.Err), next
	case at < state.Rank(swarm.TaskStateAssigned):
		if t.Status.Err == "" {
			return "waits for a node: the leader has not looked for one yet", next
		}
		return t.Status.Err, b.nextRoom()
	}
	n := b.nodes[t.NodeID]
	switch {
	case b.lost(t):
		return "its node is down or gone", next
	case b.onDrained(t):
		return "its node is drained: another task takes its place", next
	case t.DesiredState == swarm.TaskStateReady:
		return b.whyHeldBack(s, t)
	case t.Status.State != swarm.TaskStateRunning:
		return fmt.Sprintf("%s is at it: %s%s", nodeName(n), t.Status.Message, because(t.Status.Err)), next
	}
	if _, moves := s.moving[t.ID]; moves {
		return "moves to another node by the rebalance", next
	}
	if _, stale := s.stale[t.Place()]; stale && !b.cleanness(s).clean(t) {
		return s.whyStale(t), next
	}
	return "", next
}

// whyOver: the last task of a place ended, and stands for it because none follows.
func (s *serviceInfo) whyOver(t *state.Task) string {
	ended := fmt.Sprintf("ended (%s%s) and is not restarted: ", t.Status.State, because(t.Status.Err))
	r := s.revisions[t.SpecVersion]
	if r == nil || r.Spec.RestartPolicy == nil {
		return ended + "by its restart policy"
	}
	switch p := r.Spec.RestartPolicy; {
	case p.Condition == swarm.RestartPolicyConditionNone:
		return ended + "the restart condition is none"
	case p.Condition == swarm.RestartPolicyConditionOnFailure && t.Status.State == swarm.TaskStateComplete:
		return ended + "the restart condition is on-failure, and it succeeded"
	case p.Window != nil && *p.Window > 0:
		return ended + fmt.Sprintf("the %d attempts within %s are used up", r.maxAttempts(), *p.Window)
	}
	return ended + fmt.Sprintf("the %d attempts are used up", r.maxAttempts())
}

// whyHeldBack: a replacement is ready on its node, and waits.
func (b *board) whyHeldBack(s *serviceInfo, t *state.Task) (string, time.Time) {
	at := b.startAt(s, t)
	wait := at.Sub(b.now).Round(time.Second)
	switch r := s.revisions[t.SpecVersion]; {
	case wait <= 0:
		return "is about to be started", time.Time{}
	case b.predecessorRuns(s, t):
		return fmt.Sprintf("waits until the task before it has stopped, at most %s", wait), at
	case r.backsOff(t.Crashes):
		return fmt.Sprintf("restart in %s: crashed %d times in a row", wait, t.Crashes), at
	default:
		return fmt.Sprintf("restart in %s, by the delay of the restart policy", wait), at
	}
}

// predecessorRuns tells whether a task of the same place has still to stop.
func (b *board) predecessorRuns(s *serviceInfo, t *state.Task) bool {
	for _, p := range s.tasksIn(t.Place()) {
		if p.ID != t.ID && !live(p) && byAge(p, t) < 0 && !state.Terminal(p.Status.State) && !b.lost(p) {
			return true
		}
	}
	return false
}

// whyStale: a task runs, but not as the spec says now.
func (s *serviceInfo) whyStale(t *state.Task) string {
	runs := fmt.Sprintf("runs by version %d of the spec; %d is wanted", t.SpecVersion, s.service.SpecVersion)
	if t.SpecVersion == s.service.SpecVersion {
		runs = "is to be replaced"
	}
	switch u := s.service.UpdateStatus; {
	case u == nil:
		return runs + ": the update has not begun"
	case paused(s.service):
		return runs + ": " + u.Message
	default:
		return runs + ": its turn in the update will come"
	}
}

// nextRoom is when the next node that is held down gets tasks again; zero if none is.
func (b *board) nextRoom() time.Time {
	var first time.Time
	for _, at := range b.held {
		if first.IsZero() || at.Before(first) {
			first = at
		}
	}
	return first
}

func because(err string) string {
	if err == "" {
		return ""
	}
	return ": " + err
}
