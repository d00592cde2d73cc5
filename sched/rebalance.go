package sched

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

const (
	// RebalanceLabel is a service's label that says who rebalances it: RebalanceAuto, or else who asks for it.
	RebalanceLabel = "meshswarm.rebalance"
	// RebalanceAuto has the leader rebalance the service when its spread has been off for a while.
	RebalanceAuto = "auto"
	// tiltTime is for how long the spread must be off.
	tiltTime = 30 * time.Second
)

// What keeps a service from being rebalanced.
var (
	ErrNotReplicated    = errors.New("only replicated services can be rebalanced")
	ErrUpdateUnfinished = errors.New("an update of the service has not ended")
)

// Move is one task that a rebalance replaces.
type Move struct {
	TaskID string
	Slot   int
	From   string // node ID
}

// PlanRebalance works out the fewest moves that bring the spread of a replicated service within 1: over the nodes that
// may take its tasks at now, and before that over the branches of its spread preferences. No moves: nothing is to be
// gained. What does not run, and tasks on nodes that take no new ones, stay. Errors: state.ErrNotFound,
// ErrNotReplicated, ErrUpdateUnfinished.
//
// It reads the whole view: a picture of all tasks is made for one plan.
func PlanRebalance(v state.View, serviceID string, now time.Time) ([]Move, error) {
	b := newBoard(v, now)
	s := b.services[serviceID]
	if s == nil || s.service == nil || s.service.PendingDelete {
		return nil, fmt.Errorf("service %s: %w", serviceID, state.ErrNotFound)
	}
	if modeOf(s.service) != replicated {
		return nil, fmt.Errorf("service %s: %w", s.service.Spec.Name, ErrNotReplicated)
	}
	for p := range s.places {
		s.touched[p] = struct{}{}
	}
	b.assess(s)
	if s.revision() == nil || inState(s.service, swarm.UpdateStateUpdating, swarm.UpdateStateRollbackStarted) || len(s.stale) > 0 {
		return nil, fmt.Errorf("service %s: %w", s.service.Spec.Name, ErrUpdateUnfinished)
	}
	return b.planRebalance(s), nil
}

// bough is a level of spread preferences, or the nodes below the last one. It is counted as the scheduler counts: with
// the tasks on nodes that take no new ones.
type bough struct {
	tasks int // of the service
	index map[string]*bough
	below []*bough
	nodes []*stand
}

// stand is a node with the service's tasks that may move, the first to move last.
type stand struct {
	*nodeInfo
	service string
	tasks   []*state.Task
	bad     bool // the scheduler would choose it last
}

// planner moves tasks in mind; what nodes have reserved is put right again afterwards.
type planner struct {
	j     *judge
	moves []Move
	to    map[*nodeInfo]int // tasks that a node gets, less those that it loses
}

// planRebalance moves tasks in mind from the fullest node to the emptiest that takes one, as long as that gains anything.
func (b *board) planRebalance(s *serviceInfo) []Move {
	r := s.revision()
	k := revisionKey{r.ServiceID, r.SpecVersion}
	w := &planner{j: newJudge(r, b.now), to: map[*nodeInfo]int{}}
	root := &bough{}
	for _, id := range sorted(b.nodes) {
		n := b.nodes[id]
		if n.node == nil {
			continue
		}
		leaf := root.leaf(n.branchOf(r.spread), n.by[s.id])
		if w.j.ask(r.lasting, n) {
			leaf.nodes = append(leaf.nodes, &stand{n, s.id, movable(s, n), n.rank(k, b.now).failures > 0})
		}
	}
	for w.level(root) {
	}
	for n, by := range w.to {
		n.reserve(r, -by)
	}
	return w.moves
}

// movable lists the tasks of a service that run on a node, the youngest last.
func movable(s *serviceInfo, n *nodeInfo) []*state.Task {
	var out []*state.Task
	for _, t := range n.tasks {
		if t.ServiceID == s.id && live(t.Task) && t.Status.State == swarm.TaskStateRunning {
			out = append(out, t.Task)
		}
	}
	slices.SortFunc(out, byAge)
	return out
}

// leaf finds or makes the bough of a node, and counts the node's tasks on the way.
func (g *bough) leaf(branch []string, tasks int) *bough {
	g.tasks += tasks
	if len(branch) == 0 {
		return g
	}
	next := g.index[branch[0]]
	if next == nil {
		if g.index == nil {
			g.index = map[string]*bough{}
		}
		next = &bough{}
		g.index[branch[0]] = next
		g.below = append(g.below, next)
	}
	return next.leaf(branch[1:], tasks)
}

// level makes one move in a bough if one gains anything: on the level of its branches, or else inside one of them.
func (w *planner) level(g *bough) bool {
	from, to := g.fullest(), w.emptiest(g)
	if len(from) > 0 && len(to) > 0 && from[0].size()-to[0].size() >= 2 {
		w.move(from, to)
		return true
	}
	return slices.ContainsFunc(g.below, w.level)
}

// sized is a branch or a node on the way to where a task is taken or put.
type sized interface{ size() int }

func (g *bough) size() int { return g.tasks }
func (n *stand) size() int { return n.by[n.service] }

// fullest is the way to the node that gives up a task: in the fullest branch of each level that can, the fullest node.
func (g *bough) fullest() []sized {
	var best []sized
	for _, c := range g.below {
		if best == nil || c.tasks > best[0].size() {
			if way := c.fullest(); len(way) > 0 {
				best = append([]sized{c}, way...)
			}
		}
	}
	for _, n := range g.nodes {
		if len(n.tasks) > 0 && (best == nil || n.size() > best[0].size()) {
			best = []sized{n}
		}
	}
	return best
}

// emptiest is the way to the node that gets a task: in the emptiest branch that can take one, the emptiest node that can.
func (w *planner) emptiest(g *bough) []sized {
	var best []sized
	for _, c := range g.below {
		if best == nil || c.tasks < best[0].size() {
			if way := w.emptiest(c); len(way) > 0 {
				best = append([]sized{c}, way...)
			}
		}
	}
	for _, n := range g.nodes {
		if (best == nil || n.size() < best[0].size()) && !n.bad && w.j.fits(n.nodeInfo) {
			best = []sized{n}
		}
	}
	return best
}

// move takes a task from the end of one way to the end of the other.
func (w *planner) move(from, to []sized) {
	source, target := from[len(from)-1].(*stand), to[len(to)-1].(*stand)
	last := len(source.tasks) - 1
	t := source.tasks[last]
	source.tasks = source.tasks[:last]
	for _, g := range from[:len(from)-1] {
		g.(*bough).tasks--
	}
	for _, g := range to[:len(to)-1] {
		g.(*bough).tasks++
	}
	w.shift(source.nodeInfo, -1)
	w.shift(target.nodeInfo, 1)
	w.moves = append(w.moves, Move{TaskID: t.ID, Slot: t.Slot, From: source.id})
}

func (w *planner) shift(n *nodeInfo, by int) {
	n.reserve(w.j.r, by)
	w.to[n] += by
}

// reserve counts tasks of a revision on a node that are not there.
func (n *nodeInfo) reserve(r *revisionInfo, by int) {
	n.by[r.ServiceID] += by
	if n.by[r.ServiceID] == 0 {
		delete(n.by, r.ServiceID)
	}
	n.active += by
	n.cpu += int64(by) * r.cpu
	n.memory += int64(by) * r.memory
	n.generic.use(&state.Task{}, r, by)
	for _, p := range r.hostPorts {
		n.ports[p] += by
	}
}

// discount has the scheduler not count, for a while, the tasks that a rebalance moves away, and those that the given ones
// replace: it chooses for the time when they are gone, also where the new tasks start first. Not where a node's tasks are
// limited: there all that run count.
func (b *board) discount(r *revisionInfo, replacements ...queued) (undo func()) {
	by := map[*nodeInfo]int{}
	if r.maxReplicas == 0 {
		moving := b.service(r.ServiceID).moving
		for id := range moving {
			if t := b.tasks[id]; t != nil && live(t.Task) && t.NodeID != "" {
				by[b.node(t.NodeID)]++
			}
		}
		for _, q := range replacements {
			for _, t := range q.task.place.tasks {
				if _, moves := moving[t.ID]; !moves && t != q.task.Task && live(t) && t.NodeID != "" {
					by[b.node(t.NodeID)]++
				}
			}
		}
	}
	add := func(sign int) {
		for n, tasks := range by {
			if n.by[r.ServiceID] += sign * tasks; n.by[r.ServiceID] == 0 {
				delete(n.by, r.ServiceID)
			}
		}
	}
	add(-1)
	return func() { add(1) }
}

// tilt is what is known about the spread of a service that is rebalanced without being asked.
type tilt struct {
	since time.Time // it was off; zero: it was not
	next  time.Time // when to look again, at the earliest
}

// rebalancesItself tells whether the service wants to be rebalanced without being asked.
func rebalancesItself(s *state.Service) bool {
	return s != nil && s.Spec.Labels[RebalanceLabel] == RebalanceAuto
}

// level starts a rebalance of a service that wants that by itself, when its spread has been off for a while. All that it
// has must run, on nodes that are there: else other things are to be waited for.
func (o *orchestrator) level(s *serviceInfo) {
	if !rebalancesItself(s.service) {
		return
	}
	b := o.b
	if s.rollout != nil || s.service.Rebalance != nil || paused(s.service) || len(s.stale) > 0 {
		s.tilt.since = time.Time{}
		return
	}
	if s.tilt.next.After(b.now) {
		b.wakeAt(s.id, s.tilt.next)
		return
	}
	s.tilt.next = b.now.Add(tiltTime)
	if !b.calm(s) {
		s.tilt.since = time.Time{}
		b.wakeAt(s.id, s.tilt.next)
		return
	}
	moves := b.planRebalance(s)
	switch {
	case len(moves) == 0:
		s.tilt.since = time.Time{}
	case s.tilt.since.IsZero():
		s.tilt.since = b.now
		b.wakeAt(s.id, s.tilt.next)
	case b.now.Sub(s.tilt.since) >= tiltTime:
		s.tilt.since = time.Time{}
		c := *s.service
		c.Rebalance = &state.Rebalance{Requested: b.now}
		for _, m := range moves {
			c.Rebalance.Tasks = append(c.Rebalance.Tasks, m.TaskID)
		}
		b.together()
		b.put(&c)
		b.wakeAt(s.id, b.now)
		o.log.Info("spread is off: tasks move", "service", s.id)
	default:
		b.wakeAt(s.id, s.tilt.next)
	}
}

// calm tells whether all tasks of a service run, on nodes that are ready.
func (b *board) calm(s *serviceInfo) bool {
	for p := range s.places {
		for _, t := range s.standers(p) {
			n := b.nodes[t.NodeID]
			if live(t) && (t.Status.State != swarm.TaskStateRunning || n == nil || n.node == nil || n.node.Status.State != swarm.NodeStateReady) {
				return false
			}
		}
	}
	return true
}
