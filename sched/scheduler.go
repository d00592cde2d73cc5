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
	if len(todo) == 0 {
		b.capacity = false
		return
	}
	groups := map[revisionKey][]*state.Task{}
	for id := range todo {
		t := b.tasks[id].Task
		k := revisionKey{t.ServiceID, t.SpecVersion}
		groups[k] = append(groups[k], t)
	}
	keys := slices.SortedFunc(maps.Keys(groups), func(x, y revisionKey) int {
		return cmp.Or(cmp.Compare(x.service, y.service), cmp.Compare(x.version, y.version))
	})
	b.capacity = false // before drafting: what drafts free is for the next pass
	s.roster, s.hopeless = newRoster(b), map[string]string{}
	for _, k := range keys {
		tasks := groups[k]
		slices.SortFunc(tasks, func(x, y *state.Task) int {
			return cmp.Or(cmp.Compare(x.Slot, y.Slot), cmp.Compare(x.NodeID, y.NodeID), cmp.Compare(x.ID, y.ID))
		})
		s.place(k, tasks)
	}
	clear(b.freshTBD)
}

// place finds nodes for tasks that are alike: all nodes are filtered once, then the best takes a task, is asked again and
// goes back to its new rank. Tasks that were made for a node only have that one asked.
func (s *scheduler) place(k revisionKey, tasks []*state.Task) {
	b := s.b
	r := b.service(k.service).revisions[k.version]
	if r == nil {
		return
	}
	for len(tasks) > 0 && tasks[0].NodeID != "" {
		s.settle(r, tasks[0])
		tasks = tasks[1:]
	}
	if len(tasks) == 0 {
		return
	}
	if text, ok := s.hopeless[r.ask]; ok && r.maxReplicas == 0 {
		s.refuse(tasks, text)
		return
	}
	j := newJudge(r, b.now)
	var g *grove
	if c := s.classFor(j); c != nil {
		g, tasks = s.placeFirst(j, c, tasks)
	} else {
		g = b.candidates(j, placing)
	}
	for len(tasks) > 0 && !g.empty() {
		n := g.best().node
		s.assign(tasks[0], n, r)
		tasks = tasks[1:]
		g.took(j.still(n), n.rank(k, b.now))
	}
	if len(tasks) > 0 {
		text := s.whyNone(r)
		if r.maxReplicas == 0 { // else others that ask the same may still fit
			s.hopeless[r.ask] = text
		}
		s.refuse(tasks, text)
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
func (s *scheduler) placeFirst(j *judge, c *class, tasks []*state.Task) (*grove, []*state.Task) {
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
			s.assign(tasks[0], n, j.r)
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
func (s *scheduler) settle(r *revisionInfo, t *state.Task) {
	j := newJudge(r, s.b.now)
	if n := s.b.nodes[t.NodeID]; n != nil && j.fits(n) {
		s.assign(t, n, r)
		return
	}
	s.refuse([]*state.Task{t}, j.explain())
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

func (s *scheduler) assign(t *state.Task, n *nodeInfo, r *revisionInfo) {
	clear(s.hopeless)
	s.b.together()
	c := *t
	c.NodeID = n.node.ID
	c.Status = swarm.TaskStatus{Timestamp: s.b.now, State: swarm.TaskStateAssigned, Message: "scheduler assigned task to node"}
	if len(r.generic) > 0 {
		c.GenericResources = n.generic.take(r.generic)
	}
	s.b.put(&c)
}

// refuse notes why tasks have no node, where that is not what they say already.
func (s *scheduler) refuse(tasks []*state.Task, text string) {
	for _, t := range tasks {
		if t.Status.Err != text {
			s.b.together()
			s.b.setStatus(t, t.Status.State, t.Status.Message, text)
		}
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
