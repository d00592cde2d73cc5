package sched

import "github.com/meshswarm/meshswarm/raft/state"

// cleanness answers whether tasks of a service follow its spec, as long as the spec is the same. Tasks share few revisions.
type cleanness struct {
	b    *board
	s    *serviceInfo
	memo map[uint64]difference
}

type difference int

const (
	same difference = iota
	placementOnly
	different
)

func (b *board) cleanness(s *serviceInfo) *cleanness {
	if s.clean == nil {
		s.clean = &cleanness{b: b, s: s, memo: map[uint64]difference{s.service.SpecVersion: same}}
	}
	return s.clean
}

// clean tells whether a task may stay as it is. If only the placement changed it may while its node still satisfies it.
// A task that shall move to another node may not.
func (c *cleanness) clean(t *state.Task) bool {
	if _, moves := c.s.moving[t.ID]; moves {
		return false
	}
	d, ok := c.memo[t.SpecVersion]
	if !ok {
		d = compare(c.s.revisions[t.SpecVersion], c.s.revision())
		c.memo[t.SpecVersion] = d
	}
	switch d {
	case same:
		return true
	case placementOnly:
		n := c.b.nodes[t.NodeID]
		return n != nil && n.node != nil && c.s.revision().placeable(n.node)
	}
	return false
}

func compare(a, b *revisionInfo) difference {
	if a == nil || b == nil {
		return different
	}
	if !equal(a.Endpoint, b.Endpoint) {
		return different
	}
	as, bs := a.Spec, b.Spec
	ap, bp := as.Placement, bs.Placement
	as.Placement, bs.Placement = nil, nil
	if !equal(as, bs) {
		return different
	}
	if equal(ap, bp) {
		return same
	}
	return placementOnly
}
