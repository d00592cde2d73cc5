package sched

import (
	"cmp"
	"slices"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

// lastPlaced chooses n of a service's places to give up: first those without a node, then those that the scheduler would
// have filled last on the nodes that they are on. It is the scheduler's order turned round: in the branch that has the
// most tasks, on the node that ranks last, what does not run, then the highest slot.
func (b *board) lastPlaced(r *revisionInfo, have map[state.Place][]*state.Task, n int) []state.Place {
	var out []state.Place
	on := map[string][]state.Place{} // by node, in order of slots; what does not run comes last
	order := sortedPlaces(have)
	slices.SortStableFunc(order, func(x, y state.Place) int { return cmp.Compare(idle(have[x]), idle(have[y])) })
	for _, p := range slices.Backward(order) {
		if b.nodes[nodeOf(have[p])] == nil && len(out) < n {
			out = append(out, p)
		}
	}
	for _, p := range order {
		if id := nodeOf(have[p]); b.nodes[id] != nil {
			on[id] = append(on[id], p)
		}
	}
	g := newGrove(r.spread, removing)
	k := revisionKey{r.ServiceID, r.SpecVersion}
	for id, places := range on {
		i := b.nodes[id]
		node := i.node
		if node == nil {
			node = &state.Node{ID: id}
		}
		leaf := g.leaf(node, len(places))
		rank := i.rank(k, b.now)
		rank.same = len(places)
		leaf.nodes = append(leaf.nodes, rank)
	}
	g.grow()
	for len(out) < n && !g.empty() {
		rank := *g.best()
		places := on[rank.id]
		last := len(places) - 1
		out = append(out, places[last])
		on[rank.id] = places[:last]
		rank.same, rank.active = last, rank.active-1
		g.took(last > 0, rank)
	}
	return out
}

// nodeOf is the node of a place's tasks: of the newest one that runs, or else of the newest that has one.
func nodeOf(tasks []*state.Task) string {
	id := ""
	for _, t := range slices.Backward(tasks) {
		if t.NodeID != "" && t.Status.State == swarm.TaskStateRunning {
			return t.NodeID
		}
		id = cmp.Or(id, t.NodeID)
	}
	return id
}
