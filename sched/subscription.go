package sched

import (
	"slices"

	"github.com/meshswarm/meshswarm/raft/state"
)

// Subscription is one node's place in what an Assigner knows. Its methods are for one goroutine at a time.
type Subscription struct {
	a    *Assigner
	node string

	epoch int // what follows counts in this one only; 0: the node was told nothing
	at    uint64
	holds map[string]struct{} // networks that it knew for its tasks
}

// Update is what one node has to be told.
type Update struct {
	// Index is that of the store which the node's assignments follow, with this Update.
	Index uint64
	// Full: it is everything, whatever the node was told before. Otherwise it follows the Update before it.
	Full   bool
	Set    Rows
	Remove state.Removals
}

// Rows are entries of the maps of state.Assignments, each in JSON: "key":value. They are shared: never change them.
type Rows struct{ Tasks, Networks, Services, Endpoints, Nodes [][]byte }

// Subscribe returns a new place for a node that was told nothing. It is the node's only one until it is closed or replaced.
func (a *Assigner) Subscribe(node string) *Subscription {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := &Subscription{a: a, node: node}
	a.sessions[node] = s
	return s
}

// Close ends it.
func (s *Subscription) Close() {
	s.a.mu.Lock()
	defer s.a.mu.Unlock()
	if s.a.sessions[s.node] == s {
		delete(s.a.sessions, s.node)
	}
}

// Empty tells whether there is nothing to tell.
func (u *Update) Empty() bool {
	n := 0
	for k := range rowKinds {
		n += len(*u.Set.of(k)) + len(*removed(&u.Remove, k))
	}
	return n == 0 && !u.Full
}

// Next is what the node has to be told now: everything when it asks for that, was told nothing, or was told too little too
// long ago; else what has changed since the last call. ok is false when the Assigner does not know the node yet.
func (s *Subscription) Next(full bool) (u Update, ok bool) {
	a := s.a
	a.mu.RLock()
	defer a.mu.RUnlock()
	m := a.members[s.node]
	if m == nil || !m.known {
		return Update{}, false
	}
	n := newNarrator(a, m)
	n.update.Index = a.index
	if full || s.epoch != a.epoch || !n.since(s.at, s.holds) {
		n.update = Update{Index: a.index, Full: true}
		n.all()
	}
	for k := range rowKinds {
		keys := removed(&n.update.Remove, k)
		slices.Sort(*keys)
		*keys = slices.Compact(*keys) // what left two topics
	}
	s.epoch, s.at, s.holds = a.epoch, a.index, n.holds
	return n.update, true
}

// narrator works out one Update. It needs the Assigner's lock for reading.
type narrator struct {
	a      *Assigner
	update Update
	holds  map[string]struct{} // networks that the node must know for its tasks
	topics map[*topic]bool     // what it listens to
	knows  func(network string) bool
}

func newNarrator(a *Assigner, m *member) *narrator {
	n := &narrator{a: a, holds: make(map[string]struct{}, len(m.holds)), topics: map[*topic]bool{a.common: true, m.own: true}}
	for id := range m.holds {
		if a.rows[networkRow][id] != nil {
			n.holds[id] = struct{}{}
			n.topics[a.topics[id]] = true
		}
	}
	n.knows = func(id string) bool {
		_, ok := n.holds[id]
		return ok || id == a.ingress
	}
	return n
}

// all tells everything.
func (n *narrator) all() {
	for t := range n.topics {
		t.since(0, func(r *row) { n.tell(r, t, n.topics) })
	}
}

// since tells what has changed after version for a node that had these networks; false when that is forgotten.
func (n *narrator) since(version uint64, had map[string]struct{}) bool {
	gained, lost := map[*topic]bool{}, map[*topic]bool{}
	for id := range n.holds {
		if _, ok := had[id]; !ok {
			gained[n.a.topics[id]] = true
			if n.a.isSecondIngress(id) {
				return false
			}
		}
	}
	for id := range had {
		if _, ok := n.holds[id]; ok {
			continue
		}
		t := n.a.topics[id]
		if t == nil || n.a.isSecondIngress(id) {
			return false
		}
		lost[t] = true
	}
	for t := range n.topics {
		if !gained[t] && t.floor > version {
			return false
		}
	}
	for t := range lost {
		if t.floor > version {
			return false
		}
	}
	n.changes(version, lost)
	// What a network brings, and what is said of it in rows that the node knew without.
	for t := range gained {
		t.since(0, func(r *row) {
			if r.version <= version {
				n.tell(r, t, gained)
			}
		})
	}
	for t := range lost {
		t.since(0, func(r *row) {
			switch {
			case !r.heard(n.topics):
				n.remove(r.kind, r.key)
			case r.version <= version && !r.heard(gained):
				n.tell(r, t, lost)
			}
		})
	}
	return true
}

// isSecondIngress tells whether a network is one of published ports that is not in use. Its topic does not list all that is
// said of it.
func (a *Assigner) isSecondIngress(id string) bool {
	r := a.rows[networkRow][id]
	return r != nil && id != a.ingress && r.body.(networkBody).Ingress
}

// changes tells what changed after version in the topics that the node listens to, and what left them or those it lost.
func (n *narrator) changes(version uint64, lost map[*topic]bool) {
	left := func(g goneRow) {
		if r := n.a.rows[g.kind][g.key]; r == nil || !r.heard(n.topics) {
			n.remove(g.kind, g.key)
		}
	}
	for t := range n.topics {
		t.since(version, func(r *row) { n.tell(r, t, n.topics) })
		t.goneSince(version, left)
	}
	for t := range lost {
		t.goneSince(version, left)
	}
}

// heard tells whether the row is listed in one of these topics.
func (r *row) heard(topics map[*topic]bool) bool {
	for _, p := range r.places {
		if topics[p.topic] {
			return true
		}
	}
	return false
}

// tell sets a row that was found in topic t. A row in several of the topics that are gone through is told once, in the first
// of its own.
func (n *narrator) tell(r *row, t *topic, topics map[*topic]bool) {
	for _, p := range r.places {
		if topics[p.topic] {
			if p.topic == t {
				set := n.update.Set.of(r.kind)
				*set = append(*set, r.entry(n.knows, n.a.kept))
			}
			return
		}
	}
}

func (n *narrator) remove(k rowKind, key string) {
	keys := removed(&n.update.Remove, k)
	*keys = append(*keys, key)
}

func (r *Rows) of(k rowKind) *[][]byte {
	return [rowKinds]*[][]byte{&r.Tasks, &r.Networks, &r.Services, &r.Endpoints, &r.Nodes}[k]
}

func removed(r *state.Removals, k rowKind) *[]string {
	return [rowKinds]*[]string{&r.Tasks, &r.Networks, &r.Services, &r.Endpoints, &r.Nodes}[k]
}
