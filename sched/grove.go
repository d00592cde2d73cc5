package sched

import "github.com/meshswarm/meshswarm/raft/state"

// direction is what a grove is for: to place tasks, best node first, or to take them away, worst node first.
type direction int

const (
	placing  direction = 1
	removing direction = -1
)

// grove orders nodes for tasks of one revision: a tree with a level per spread preference, and nodes in its leaves. Each
// branch is a heap of what is below it: so the first node is found by going down the tops, and after it got a task, or
// lost one, only the way to it is put in order again. Without preferences it is one heap of nodes.
type grove struct {
	keys []string
	dir  direction
	root branch
}

// branch is a part of a grove: either branches below it, or nodes.
type branch struct {
	value string
	tasks int // of the service, on all nodes in it, also on those that are no candidates
	below []*branch
	nodes []nodeRank
	index map[string]*branch // all branches below, by value, also those without a candidate
}

func newGrove(keys []string, d direction) *grove { return &grove{keys: keys, dir: d} }

// leaf finds or makes the branch that a node belongs to, and counts the node's tasks on the way.
func (g *grove) leaf(n *state.Node, tasks int) *branch {
	at := &g.root
	at.tasks += tasks
	for _, k := range g.keys {
		value, _ := label(n, k)
		next := at.index[value]
		if next == nil {
			next = &branch{value: value}
			if at.index == nil {
				at.index = map[string]*branch{}
			}
			at.index[value] = next
		}
		at = next
		at.tasks += tasks
	}
	return at
}

// grow makes heaps of what was added; branches without a candidate are left out.
func (g *grove) grow() { g.growBranch(&g.root) }

func (g *grove) growBranch(b *branch) {
	for _, v := range sorted(b.index) {
		c := b.index[v]
		if g.growBranch(c); !c.empty() {
			b.below = append(b.below, c)
		}
	}
	for i := len(b.below)/2 - 1; i >= 0; i-- {
		sink(b.below, i, g.branchFirst)
	}
	for i := len(b.nodes)/2 - 1; i >= 0; i-- {
		sink(b.nodes, i, g.nodeFirst)
	}
}

func (b *branch) empty() bool { return len(b.nodes) == 0 && len(b.below) == 0 }

// empty tells whether no node is left.
func (g *grove) empty() bool { return g.root.empty() }

// best is the first node: the first in the first branch, level by level.
func (g *grove) best() *nodeRank { return g.root.best() }

func (b *branch) best() *nodeRank {
	for len(b.below) > 0 {
		b = b.below[0]
	}
	return &b.nodes[0]
}

// took gives the first node its new rank after it got (or lost) a task, or takes it out if it is not to be kept.
func (g *grove) took(keep bool, r nodeRank) { g.tookBranch(&g.root, keep, r) }

func (g *grove) tookBranch(b *branch, keep bool, r nodeRank) {
	b.tasks += int(g.dir)
	if len(b.below) == 0 {
		if b.nodes[0] = r; !keep {
			b.nodes = behead(b.nodes)
		}
		sink(b.nodes, 0, g.nodeFirst)
		return
	}
	top := b.below[0]
	if g.tookBranch(top, keep, r); top.empty() {
		b.below = behead(b.below)
	}
	sink(b.below, 0, g.branchFirst)
}

// nodeFirst and branchFirst are the one order of both directions.
func (g *grove) nodeFirst(a, b *nodeRank) bool {
	if g.dir == placing {
		return a.before(b)
	}
	return b.before(a)
}

// branchFirst: few tasks of the service, then the better node, then the value.
func (g *grove) branchFirst(a, b **branch) bool {
	x, y := *a, *b
	if g.dir != placing {
		x, y = y, x
	}
	if x.tasks != y.tasks {
		return x.tasks < y.tasks
	}
	return x.best().before(y.best()) // never equal: a node is in one branch
}

// behead moves the last element of a heap to the front, where it is to sink.
func behead[T any](heap []T) []T {
	last := len(heap) - 1
	heap[0] = heap[last]
	return heap[:last]
}

// sink puts the element at i of a heap in its place below.
func sink[T any](heap []T, i int, first func(a, b *T) bool) {
	for {
		c := 2*i + 1
		if c >= len(heap) {
			return
		}
		if c+1 < len(heap) && first(&heap[c+1], &heap[c]) {
			c++
		}
		if !first(&heap[c], &heap[i]) {
			return
		}
		heap[i], heap[c] = heap[c], heap[i]
		i = c
	}
}
