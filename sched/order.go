package sched

import (
	"cmp"
	"math/bits"
	"slices"
)

// maxClasses bounds how many classes one run of the scheduler remembers the nodes of.
const maxClasses = 256

// roster is what one run of the scheduler knows of all nodes. Many groups of tasks ask the same of a node apart from its
// room: they are of one class, and share the nodes that are fit for it, in order. A service of one task then costs a look
// at few nodes, not at all.
type roster struct {
	nodes   []*nodeInfo // by ID
	classes map[string]*class
}

func newRoster(b *board) *roster {
	r := &roster{nodes: make([]*nodeInfo, 0, len(b.nodes)), classes: map[string]*class{}}
	for _, n := range b.nodes {
		if n.node != nil {
			r.nodes = append(r.nodes, n)
		}
	}
	slices.SortFunc(r.nodes, func(a, b *nodeInfo) int { return cmp.Compare(a.id, b.id) })
	return r
}

// class gives the nodes for the judge's tasks; nil if there are too many classes already.
func (r *roster) class(j *judge) *class {
	c := r.classes[j.r.class]
	if c == nil {
		if len(r.classes) == maxClasses {
			return nil
		}
		c = newClass(r.nodes, j)
		r.classes[j.r.class] = c
	}
	return c
}

// class holds the nodes that pass the filters whose answer does not change in a run, in levels by how many tasks they
// have. A node's level is that of when it was last looked at; as tasks only come in a run, it can only have to move up.
type class struct {
	nodes  []*nodeInfo // by ID
	levels []level     // lowest first, none empty at the start
}

// level is a set of nodes that had the same number of tasks: a bit for each, by position.
type level struct {
	active int
	set    []uint64
}

func newClass(nodes []*nodeInfo, j *judge) *class {
	c := &class{}
	asked := newJudge(j.r, j.now)
	for _, n := range nodes {
		if asked.ask(asked.r.lasting, n) {
			c.nodes = append(c.nodes, n)
		}
	}
	for i, n := range c.nodes {
		c.put(i, n.active)
	}
	return c
}

// put adds a node to the level that it belongs to.
func (c *class) put(i, active int) {
	at, ok := slices.BinarySearchFunc(c.levels, active, func(l level, a int) int { return cmp.Compare(l.active, a) })
	if !ok {
		c.levels = slices.Insert(c.levels, at, level{active, make([]uint64, (len(c.nodes)+63)/64)})
	}
	c.levels[at].set[i/64] |= 1 << (i % 64)
}

// walk yields the nodes by how many tasks they had when it came to them, then by ID.
func (c *class) walk(yield func(*nodeInfo) bool) {
	for at := 0; at < len(c.levels); at++ {
		active, empty := c.levels[at].active, true
		for w := range c.levels[at].set {
			for rest := c.levels[at].set[w]; rest != 0; rest &= rest - 1 {
				i := w*64 + bits.TrailingZeros64(rest)
				n := c.nodes[i]
				if n.active != active {
					c.levels[at].set[w] &^= 1 << (i % 64)
					c.put(i, n.active) // above: it comes later
					continue
				}
				empty = false
				if !yield(n) {
					return
				}
			}
		}
		if empty {
			c.levels = slices.Delete(c.levels, at, at+1)
			at--
		}
	}
}
