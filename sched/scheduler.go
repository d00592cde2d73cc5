package sched

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

// scheduler gives pending tasks a node, or the reason why there is none.
type scheduler struct {
	b      *board
	roster *roster // of the current run
	// hopeless has, for what was asked for in vain since a task was placed last, why there is no node.
	hopeless map[string]string

	ranksAll bool // never take the shortcut of classes; for the test that compares
}

// run looks at the tasks that it has not seen, or at all when a node may take more than before.
func (s *scheduler) run() {
	b := s.b
	todo := b.freshTBD
	if b.capacity {
		todo = b.unassigned
	}
	b.capacity, b.freshTBD = false, nil // before drafting: what drafts free is for the next pass
	groups := grouped(todo)
	if len(groups) == 0 {
		return
	}
	s.roster, s.hopeless = newRoster(b), map[string]string{}
	for _, g := range groups {
		s.place(g)
	}
	s.roster, s.hopeless = nil, nil
}

// group is tasks that are alike, those that were made for a node first, then by slot.
type group struct {
	rev   *revisionInfo
	tasks []queued
}

// queued is a task with what it is sorted by most often.
type queued struct {
	slot int
	task *taskInfo
}

// grouped sorts tasks that (still) wait for a node by what they follow.
func grouped(todo []*taskInfo) []*group {
	by := map[*revisionInfo]*group{}
	var last *group
	for _, i := range todo {
		if i.waits != forNode || i.rev == nil {
			continue
		}
		if last == nil || last.rev != i.rev {
			if last = by[i.rev]; last == nil {
				last = &group{rev: i.rev}
				by[i.rev] = last
			}
		}
		last.tasks = append(last.tasks, queued{i.Slot, i})
	}
	for _, g := range by {
		slices.SortFunc(g.tasks, func(x, y queued) int {
			if x.slot != y.slot {
				return cmp.Compare(x.slot, y.slot)
			}
			return cmp.Or(cmp.Compare(x.task.NodeID, y.task.NodeID), cmp.Compare(x.task.ID, y.task.ID))
		})
		// One that waited, got a node, lost it in a refused batch and waits again may be listed twice.
		g.tasks = slices.CompactFunc(g.tasks, func(x, y queued) bool { return x.task == y.task })
	}
	return slices.SortedFunc(maps.Values(by), func(x, y *group) int {
		return cmp.Or(cmp.Compare(x.rev.ServiceID, y.rev.ServiceID), cmp.Compare(x.rev.SpecVersion, y.rev.SpecVersion))
	})
}

// place finds nodes for tasks that are alike: all nodes are filtered once, then the best takes a task, is asked again and
// goes back to its new rank. Tasks that were made for a node only have that one asked.
func (s *scheduler) place(todo *group) {
	b, r, tasks := s.b, todo.rev, todo.tasks
	k := revisionKey{r.ServiceID, r.SpecVersion}
	for len(tasks) > 0 && tasks[0].task.NodeID != "" {
		s.settle(r, tasks[0].task)
		tasks = tasks[1:]
	}
	if len(tasks) == 0 {
		return
	}
	if text, ok := s.hopeless[r.ask]; ok && r.maxReplicas == 0 {
		s.refuseAll(tasks, text)
		return
	}
	defer b.discount(r, tasks...)()
	j := newJudge(r, b.now)
	var g *grove
	if c := s.classFor(j); c != nil {
		g, tasks = s.placeFirst(j, c, tasks)
	} else {
		g = b.candidates(j, placing)
	}
	for len(tasks) > 0 && !g.empty() {
		n := g.best().node
		s.assign(tasks[0].task, n, r)
		tasks = tasks[1:]
		g.took(j.still(n), n.rank(k, b.now))
	}
	if len(tasks) > 0 {
		text := s.whyNone(r)
		if r.maxReplicas == 0 { // else others that ask the same may still fit
			s.hopeless[r.ask] = text
		}
		s.refuseAll(tasks, text)
	}
}

// whyNone asks all nodes why they do not take a task, of which none does.
func (s *scheduler) whyNone(r *revisionInfo) string {
	j := newJudge(r, s.b.now)
	for _, n := range s.roster.nodes {
		j.fits(n)
	}
	return j.explain()
}

// classFor is the class of nodes that the judge's tasks share with other groups; nil where all nodes have to be looked at.
func (s *scheduler) classFor(j *judge) *class {
	if len(j.r.spread) > 0 || s.ranksAll {
		return nil
	}
	return s.roster.class(j)
}

// placeFirst gives the first tasks to nodes that have none of the service and no failures: they rank before all others,
// by how many tasks they have. What is left has the other nodes to choose from, which are the candidates returned.
func (s *scheduler) placeFirst(j *judge, c *class, tasks []queued) (*grove, []queued) {
	k := revisionKey{j.r.ServiceID, j.r.SpecVersion}
	g := newGrove(nil, placing)
	for n := range c.walk {
		if len(tasks) == 0 {
			return g, nil
		}
		if !j.still(n) {
			continue
		}
		r := n.rank(k, s.b.now)
		if r.failures == 0 && r.same == 0 {
			s.assign(tasks[0].task, n, j.r)
			tasks = tasks[1:]
			if !j.still(n) {
				continue
			}
			r = n.rank(k, s.b.now)
		}
		g.root.nodes = append(g.root.nodes, r)
	}
	g.grow()
	return g, tasks
}

// settle decides about a task that was made for one node.
func (s *scheduler) settle(r *revisionInfo, t *taskInfo) {
	j := newJudge(r, s.b.now)
	if n := s.b.nodes[t.NodeID]; n != nil && j.fits(n) {
		s.assign(t, n, r)
		return
	}
	s.refuse(t.Task, j.explain())
}

// candidates orders the nodes that may take a task, as the judge says.
func (b *board) candidates(j *judge, d direction) *grove {
	k := revisionKey{j.r.ServiceID, j.r.SpecVersion}
	g := newGrove(j.r.spread, d)
	for _, n := range b.nodes {
		if n.node == nil {
			continue
		}
		leaf := g.leaf(n.node, n.by[k.service])
		if j.fits(n) {
			leaf.nodes = append(leaf.nodes, n.rank(k, b.now))
		}
	}
	g.grow()
	return g
}

func (s *scheduler) assign(t *taskInfo, n *nodeInfo, r *revisionInfo) {
	clear(s.hopeless)
	s.b.together()
	c := *t.Task
	c.NodeID = n.node.ID
	c.Status = swarm.TaskStatus{Timestamp: s.b.now, State: swarm.TaskStateAssigned, Message: "scheduler assigned task to node"}
	if len(r.generic) > 0 {
		c.GenericResources = n.generic.take(r.generic)
	}
	s.b.change(t, &c)
}

func (s *scheduler) refuseAll(tasks []queued, text string) {
	for _, t := range tasks {
		s.refuse(t.task.Task, text)
	}
}

// refuse notes why a task has no node, if that is not what it says already.
func (s *scheduler) refuse(t *state.Task, text string) {
	if t.Status.Err != text {
		s.b.together()
		s.b.setStatus(t, t.Status.State, t.Status.Message, text)
	}
}

// rank is how good a node is for one more task of a revision. A few failures say nothing, many count.
func (n *nodeInfo) rank(k revisionKey, at time.Time) nodeRank {
	f := 0
	if len(n.failures) > 0 {
		if f = n.recentFailures(k, at); f < maxFailures {
			f = 0
		}
	}
	return nodeRank{id: n.id, node: n, failures: f, same: n.by[k.service], active: n.active}
}

// nodeRank orders nodes for one revision: few recent failures, few tasks of the service, few tasks at all, then by ID.
type nodeRank struct {
	id                     string
	failures, same, active int
	node                   *nodeInfo
}

func (x *nodeRank) before(y *nodeRank) bool {
	switch {
	case x.failures != y.failures:
		return x.failures < y.failures
	case x.same != y.same:
		return x.same < y.same
	case x.active != y.active:
		return x.active < y.active
	}
	return x.id < y.id
}
