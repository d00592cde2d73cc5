package sched

import (
	"cmp"
	"container/heap"
	"maps"
	"slices"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

// scheduler gives pending tasks a node, or the reason why there is none.
type scheduler struct {
	b *board
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
	for _, k := range keys {
		tasks := groups[k]
		slices.SortFunc(tasks, func(x, y *state.Task) int {
			return cmp.Or(cmp.Compare(x.Slot, y.Slot), cmp.Compare(x.ID, y.ID))
		})
		s.place(k, tasks)
	}
	clear(b.freshTBD)
}

// place finds nodes for tasks that are alike: all nodes are filtered once, then the best of a heap takes a task, is
// asked again and goes back to its new rank.
func (s *scheduler) place(k revisionKey, tasks []*state.Task) {
	b := s.b
	r := b.service(k.service).revisions[k.version]
	if r == nil {
		return
	}
	var why refusals
	ranks := &ranking{}
	for id, n := range b.nodes {
		if n.node != nil && why.check(n, r) {
			ranks.nodes = append(ranks.nodes, s.rank(id, n, k))
		}
	}
	heap.Init(ranks)
	for len(tasks) > 0 && ranks.Len() > 0 {
		best := &ranks.nodes[0]
		s.assign(tasks[0], best.id)
		tasks = tasks[1:]
		if n := b.nodes[best.id]; why.check(n, r) {
			*best = s.rank(best.id, n, k)
			heap.Fix(ranks, 0)
		} else {
			heap.Pop(ranks)
		}
	}
	if len(tasks) == 0 {
		return
	}
	text := why.explain()
	for _, t := range tasks {
		if t.Status.Err != text {
			b.together()
			b.setStatus(t, t.Status.State, t.Status.Message, text)
		}
	}
}

func (s *scheduler) assign(t *state.Task, node string) {
	s.b.together()
	c := *t
	c.NodeID = node
	c.Status = swarm.TaskStatus{Timestamp: s.b.now, State: swarm.TaskStateAssigned, Message: "scheduler assigned task to node"}
	s.b.put(&c)
}

func (s *scheduler) rank(id string, n *nodeInfo, k revisionKey) nodeRank {
	f := n.recentFailures(k, s.b.now)
	if f < maxFailures {
		f = 0
	}
	return nodeRank{id: id, failures: f, same: n.by[k.service], active: n.active}
}

// nodeRank orders nodes for one group: few recent failures, few tasks of the service, few tasks at all, then by ID.
type nodeRank struct {
	id                     string
	failures, same, active int
}

// ranking is a heap, best node first.
type ranking struct{ nodes []nodeRank }

func (r *ranking) Len() int      { return len(r.nodes) }
func (r *ranking) Swap(i, j int) { r.nodes[i], r.nodes[j] = r.nodes[j], r.nodes[i] }
func (r *ranking) Less(i, j int) bool {
	x, y := &r.nodes[i], &r.nodes[j]
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
func (r *ranking) Push(x any) { r.nodes = append(r.nodes, x.(nodeRank)) }
func (r *ranking) Pop() any {
	last := len(r.nodes) - 1
	x := r.nodes[last]
	r.nodes = r.nodes[:last]
	return x
}
