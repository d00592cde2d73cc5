package sched

import (
	"maps"
	"slices"
	"sync"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

// Assigner keeps what all nodes must know in step with the store, and tells for each node what has changed since it was told
// last. What it makes of a change it makes once, whatever the number of nodes; a commit costs in proportion to what it
// changed and to the nodes that must hear of it. For each node the result is that of Assign, except that a task's status
// is not sent back to the node that reported it.
//
// All methods are safe for concurrent use; Start and Apply are to be called in the order of the store.
type Assigner struct {
	kept *keeper

	mu    sync.RWMutex
	index uint64 // of the store, 0 before Start
	epoch int    // counts Starts: what was told before does not count
	rows  [rowKinds]map[string]*row
	// common is the topic of what every node knows; the others are by network.
	common   *topic
	topics   map[string]*topic
	members  map[string]*member
	ingress  string // network ID, "" if there is none
	sessions map[string]*Subscription
	touched  map[*topic]struct{}
}

// member is a node, or what has tasks as if it were one.
type member struct {
	own   *topic         // what only this node knows
	holds map[string]int // networks of its tasks that have not ended, with the number of these
	known bool           // there is such a node
}

// NewAssigner returns an Assigner that knows nothing yet.
func NewAssigner() *Assigner {
	return &Assigner{kept: &keeper{limit: maxKept}, sessions: map[string]*Subscription{}}
}

// Index is that of the store which the Assigner knows.
func (a *Assigner) Index() uint64 {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.index
}

// Start takes a whole view. Every node has to be told everything anew.
func (a *Assigner) Start(v state.View) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.start(v)
}

func (a *Assigner) start(v state.View) {
	a.index = v.Index()
	a.epoch++
	for k := range a.rows {
		a.rows[k] = map[string]*row{}
	}
	a.common, a.topics, a.members = newTopic("", a.index), map[string]*topic{}, map[string]*member{}
	a.touched = map[*topic]struct{}{}
	a.ingress = ingressOf(v)
	l := newLookup(v)
	for _, n := range v.Networks() {
		a.setNetwork(l, n.ID)
	}
	for _, n := range v.Nodes() {
		a.setNode(l, n.ID)
	}
	for _, s := range v.Services() {
		a.setService(l, s.ID)
	}
	for _, t := range v.Tasks() {
		a.setTask(l, t.ID, t)
	}
	clear(a.touched)
}

// Apply takes the commits that follow what the Assigner knows; there is at least one. It returns the nodes with a
// Subscription that have to be told something.
func (a *Assigner) Apply(commits []state.Commit) (concerned []string) {
	v := commits[len(commits)-1].View
	d := newDirty()
	for _, c := range commits {
		for _, change := range c.Changes {
			d.note(v, change)
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if d.ingress {
		a.start(v)
		return slices.Collect(maps.Keys(a.sessions))
	}
	a.index = v.Index()
	l := newLookup(v)
	for id := range d.networks {
		a.setNetwork(l, id)
	}
	for id := range d.nodes {
		a.setNode(l, id)
	}
	for id := range d.services {
		a.setService(l, id)
	}
	for id := range d.tasks {
		a.setTask(l, id, v.Task(id))
	}
	return a.concerned()
}

// concerned are the nodes that listen to a topic that was touched. It also forgets who is no node and has no tasks.
func (a *Assigner) concerned() []string {
	nodes := map[string]struct{}{}
	for t := range a.touched {
		for id := range t.listeners {
			if m := a.members[id]; m != nil && !m.known && m.own.rows == 0 && len(m.holds) == 0 {
				delete(a.members, id)
			}
			if a.sessions[id] != nil {
				nodes[id] = struct{}{}
			}
		}
	}
	_, all := a.touched[a.common]
	clear(a.touched)
	if all {
		return slices.Collect(maps.Keys(a.sessions))
	}
	return slices.Collect(maps.Keys(nodes))
}

func (a *Assigner) setNode(v source, id string) {
	n := v.Node(id)
	if n == nil {
		a.drop(nodeRow, id)
		if m := a.members[id]; m != nil {
			m.known = false
			a.touched[m.own] = struct{}{}
		}
		return
	}
	m := a.member(id)
	if !m.known {
		m.known = true
		a.touched[m.own] = struct{}{}
	}
	a.put(nodeRow, id, nodeBody(assignedNode(n)), a.common)
}

func (a *Assigner) setNetwork(v source, id string) {
	n := v.Network(id)
	if n == nil || n.IPAM == nil {
		a.drop(networkRow, id)
		return
	}
	a.put(networkRow, id, networkBody(assignedNetwork(n)), a.topic(id))
}

func (a *Assigner) setService(v source, id string) {
	b := newServiceBody(v.Service(id))
	if b == nil {
		a.drop(serviceRow, id)
		return
	}
	var topics []*topic
	if b.published {
		topics = append(topics, a.common)
	}
	for _, n := range b.in {
		topics = append(topics, a.networkTopic(n)) // also the ingress network's: of services in it only who has tasks in it
	}
	a.put(serviceRow, id, b, topics...)
}

// setTask takes a task, nil for one that is gone.
func (a *Assigner) setTask(v source, id string, t *state.Task) {
	a.setAssigned(v, id, t)
	e := newEndpointBody(v, t)
	if e == nil {
		a.drop(endpointRow, id)
		return
	}
	var topics []*topic
	for _, id := range e.in {
		// Nobody is reached in the ingress network but by published ports, and the node's own tasks by the node.
		n := v.Network(id)
		switch {
		case n == nil || !n.Spec.Ingress || e.published:
			topics = append(topics, a.topic(id))
		case n.IPAM != nil:
			topics = append(topics, a.member(t.NodeID).own)
		}
	}
	a.put(endpointRow, id, e, topics...)
}

// setAssigned gives a task to its node.
func (a *Assigner) setAssigned(v source, id string, t *state.Task) {
	var had []string
	var node string
	if r := a.rows[taskRow][id]; r != nil {
		had, node = r.body.(*taskBody).holds, r.body.(*taskBody).task.NodeID
	}
	if t == nil || t.NodeID == "" || state.Rank(t.Status.State) < state.Rank(swarm.TaskStateAssigned) {
		a.drop(taskRow, id)
		a.hold(node, had, nil)
		return
	}
	b := &taskBody{task: t, revision: v.Revision(t.ServiceID, t.SpecVersion)}
	if s := v.Service(t.ServiceID); s != nil {
		b.labels = s.Spec.Labels
	}
	if !state.Terminal(t.Status.State) {
		for _, l := range t.Networks {
			b.holds = append(b.holds, l.NetworkID)
		}
	}
	a.put(taskRow, id, b, a.member(t.NodeID).own)
	if node != t.NodeID { // another task with the same ID
		a.hold(node, had, nil)
		had = nil
	}
	a.hold(t.NodeID, had, b.holds)
}

// hold counts the networks of a node's tasks.
func (a *Assigner) hold(node string, had, has []string) {
	if node == "" {
		return
	}
	m := a.member(node)
	if slices.Equal(had, has) {
		had, has = nil, nil
	}
	for _, n := range has {
		if m.holds[n]++; m.holds[n] == 1 {
			a.networkTopic(n).listeners[node] = struct{}{}
			a.touched[m.own] = struct{}{}
		}
	}
	for _, n := range had {
		if m.holds[n]--; m.holds[n] == 0 {
			delete(m.holds, n)
			delete(a.networkTopic(n).listeners, node)
			a.touched[m.own] = struct{}{}
			a.discard(n)
		}
	}
}

// member finds or makes a node.
func (a *Assigner) member(id string) *member {
	m := a.members[id]
	if m == nil {
		m = &member{own: newTopic("", a.index), holds: map[string]int{}}
		m.own.listeners[id] = struct{}{}
		a.members[id] = m
	}
	return m
}

// topic is the one in which others are told of a network: everybody knows the ingress network.
func (a *Assigner) topic(network string) *topic {
	if network == a.ingress {
		return a.common
	}
	return a.networkTopic(network)
}

// networkTopic finds or makes the topic of those that have tasks in a network.
func (a *Assigner) networkTopic(id string) *topic {
	t := a.topics[id]
	if t == nil {
		t = newTopic(id, a.index)
		a.topics[id] = t
	}
	return t
}

// discard drops the topic of a network if nobody needs it. Who was told of it and not of its end is told everything anew.
func (a *Assigner) discard(network string) {
	if t := a.topics[network]; t != nil && t.empty() {
		delete(a.topics, network)
	}
}

// put sets a row, and where it is listed.
func (a *Assigner) put(k rowKind, key string, b body, topics ...*topic) {
	topics = unique(topics)
	r := a.rows[k][key]
	if r == nil {
		r = &row{kind: k, key: key}
		a.rows[k][key] = r
	} else if r.in(topics) {
		if r.body.same(b) {
			r.body = b
			return
		}
	}
	r.body, r.version = b, a.index
	r.made.Store(nil)
	had := r.places
	r.places = make([]*place, 0, len(topics))
	for _, t := range topics {
		p := &place{row: r, topic: t}
		if i := slices.IndexFunc(had, func(p *place) bool { return p.topic == t }); i >= 0 {
			p = had[i]
			t.cut(p)
			had = slices.Delete(had, i, i+1)
		}
		t.add(p)
		a.touched[t] = struct{}{}
		r.places = append(r.places, p)
	}
	a.leave(had)
}

// drop takes a row away, if it is there.
func (a *Assigner) drop(k rowKind, key string) {
	r := a.rows[k][key]
	if r == nil {
		return
	}
	delete(a.rows[k], key)
	a.leave(r.places)
}

func (a *Assigner) leave(places []*place) {
	for _, p := range places {
		p.topic.lose(p, a.index)
		a.touched[p.topic] = struct{}{}
		if p.topic.network != "" {
			a.discard(p.topic.network)
		}
	}
}

// in tells whether the row is listed in these topics, in this order.
func (r *row) in(topics []*topic) bool {
	return slices.EqualFunc(r.places, topics, func(p *place, t *topic) bool { return p.topic == t })
}

func unique(topics []*topic) []*topic {
	out := topics[:0]
	for _, t := range topics {
		if !slices.Contains(out, t) {
			out = append(out, t)
		}
	}
	return out
}
