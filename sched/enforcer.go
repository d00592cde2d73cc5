package sched

import (
	"cmp"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

// Swarm's words for a task that had to go because its node changed.
const (
	evictedMessage = "task rejected by constraint enforcer"
	evictedErr     = "assigned node no longer meets constraints"
)

// enforcer ends tasks whose node changed so that it no longer has what they need. The restart supervisor replaces them,
// at once: it was not their fault.
type enforcer struct {
	b   *board
	log *slog.Logger
}

// run looks at the nodes that changed. Nodes that take no new tasks keep what they have.
func (e *enforcer) run() {
	b := e.b
	for _, id := range sorted(b.review) {
		i, was := b.nodes[id], b.review[id]
		if i == nil || i.node == nil || down(i.node) || i.node.Spec.Availability != swarm.NodeAvailabilityActive && i.node.Spec.Availability != "" {
			continue
		}
		e.node(i, was)
	}
	clear(b.review)
}

// node compares a node's tasks with what it offers now. Of those whose reservations do not fit together the oldest stay.
func (e *enforcer) node(i *nodeInfo, was *state.Node) {
	var tasks []*taskInfo
	for _, t := range i.tasks {
		if live(t.Task) && !state.Terminal(t.Status.State) && !preassigned(t.Task) && t.rev != nil {
			tasks = append(tasks, t)
		}
	}
	slices.SortFunc(tasks, func(x, y *taskInfo) int { return cmp.Or(byAge(x.Task, y.Task), cmp.Compare(x.ID, y.ID)) })
	has := i.node.Description.Resources
	offered := genericStock{}
	offered.offer(has.GenericResources)
	var cpu, memory int64
	for _, t := range tasks {
		if e.misplaced(t, i.node, was) {
			e.evict(t.Task)
			continue
		}
		lacks := t.rev.cpu > 0 && t.rev.cpu > has.NanoCPUs-cpu || t.rev.memory > 0 && t.rev.memory > has.MemoryBytes-memory ||
			!offered.holds(t.Task, t.rev)
		if lacks {
			e.evict(t.Task)
			continue
		}
		cpu += t.rev.cpu
		memory += t.rev.memory
		offered.use(t.Task, t.rev, 1)
	}
}

// misplaced tells whether a task must not be where it is, by what its service asks for now. What an update is going to
// move anyway is left to it: only what the node's change broke counts.
func (e *enforcer) misplaced(t *taskInfo, now, was *state.Node) bool {
	s := e.b.service(t.ServiceID)
	if s.service == nil || s.service.PendingDelete || modeOf(s.service).perNode() || s.revision() == nil {
		return false // the tasks of nodes are reconciled with these
	}
	r := s.revision()
	if r.placeable(now) {
		return false
	}
	return was != nil && r.placeable(was) || !t.rev.placeable(now)
}

func (e *enforcer) evict(t *state.Task) {
	b := e.b
	b.together()
	c := *t
	c.Evicted = true
	c.Status.Timestamp, c.Status.State, c.Status.Message, c.Status.Err = b.now, swarm.TaskStateRejected, evictedMessage, evictedErr
	b.put(&c)
	b.dirty[t.ServiceID] = struct{}{}
	e.log.Info("node no longer meets what a task needs", "node", t.NodeID, "service", t.ServiceID, "task", t.ID)
}

// placeable tells whether a node satisfies the constraints and has the platform.
func (i *revisionInfo) placeable(n *state.Node) bool {
	return i.constraints.match(n) && platformFits(i.platforms, n)
}

// holds tells whether what a task was given is still there, beside what is used.
func (s genericStock) holds(t *state.Task, r *revisionInfo) bool {
	if len(t.GenericResources) == 0 {
		return !slices.ContainsFunc(r.generic, func(g genericNeed) bool { return s.free(g.kind) < g.amount })
	}
	for _, g := range genericNeeds(t.GenericResources) {
		if s.free(g.kind) < g.amount {
			return false
		}
	}
	for _, g := range t.GenericResources {
		if n := g.NamedResourceSpec; n != nil && !slices.Contains(s[strings.ToLower(n.Kind)].named, n.Value) {
			return false
		}
	}
	return true
}

// nodeChanged asks for attention where a change of a node needs it. i is the node as it is now.
func (b *board) nodeChanged(id string, old *state.Node, i *nodeInfo) {
	n := i.node
	known := old != nil && n != nil
	moved := !known || down(old) != down(n) || old.Spec.Availability != n.Spec.Availability
	offers := !known || !sameOffer(old, n)
	if !moved && !offers && old.Status.State == n.Status.State {
		return
	}
	b.touchNode(id)
	if !moved && !offers {
		return
	}
	for _, t := range i.tasks {
		b.touchPlace(t.ServiceID, t.Place())
	}
	if _, waits := b.review[id]; !waits && n != nil {
		b.review[id] = old
	}
}

// touchNode asks for the services to be looked at that want a task on each node, or that follow changes of nodes.
func (b *board) touchNode(id string) {
	for s := range b.global {
		b.touchPlace(s, state.Place{NodeID: id})
	}
	for s := range b.gentle {
		b.touch(s)
	}
}

// sameOffer tells whether a node is the same for constraints, platforms and reservations.
func sameOffer(a, b *state.Node) bool {
	x, y := &a.Description, &b.Description
	return a.Role == b.Role && a.Status.Addr == b.Status.Addr && x.Hostname == y.Hostname && x.Platform == y.Platform &&
		maps.Equal(a.Spec.Labels, b.Spec.Labels) && maps.Equal(x.Engine.Labels, y.Engine.Labels) && reflect.DeepEqual(x.Resources, y.Resources)
}
