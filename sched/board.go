package sched

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

// board is the leader's own picture of the store, indexed for its parts, with the changes of the current pass already in
// it. It changes only through set and unset: by commits, by drafts (draft.go), and by taking refused drafts back.
type board struct {
	now   time.Time // of the current pass
	index uint64    // of the newest commit in the picture
	news  bool      // commits were taken in since the last pass began

	cluster  *state.Cluster
	nodes    map[string]*nodeInfo
	networks map[string]*networkInfo
	services map[string]*serviceInfo
	tasks    map[string]*taskInfo
	ports    map[portKey]string // published ingress ports: service ID
	mesh     *pool              // the nodes' mesh addresses
	ingress  *networkInfo       // the network of published ports; nil if there is none

	draft draft

	// Work. Sets that follow from the objects' states:
	unallocated map[string]struct{} // tasks that wait for addresses
	unassigned  map[string]struct{} // tasks that wait for a node
	reapable    map[string]struct{} // tasks that are over
	netless     map[string]struct{} // networks without a subnet
	doomed      map[string]struct{} // networks pending deletion
	meshless    map[string]struct{} // nodes without a mesh address
	deserted    map[string]struct{} // nodes that do not exist and still have tasks that have not ended
	blocked     map[string]struct{} // services whose endpoint could not be allocated
	// and marks, made by changes and cleared by the part that handles them:
	dirty    map[string]struct{}   // services to reconcile
	ending   map[string]struct{}   // removed services to look after
	crowded  map[placeKey]struct{} // places whose history grew
	freshNew map[string]struct{}   // of unallocated: not tried yet
	freshTBD map[string]struct{}   // of unassigned: not tried yet
	wake     map[string]time.Time  // services to reconcile later
	desert   map[string]time.Time  // down nodes: when their tasks are given up
	held     map[string]time.Time  // nodes that get no new tasks: until when
	freed    bool                  // an address, a port or a subnet may have become free: try all unallocated
	capacity bool                  // a node may take more than before: try all unassigned
}

type (
	placeKey struct {
		service string
		place   state.Place
	}
	portKey struct {
		proto swarm.PortConfigProtocol
		port  uint32
	}
	set = map[string]struct{}
)

// serviceInfo is a service with its tasks. The service is nil when it is gone and something of it is still here.
type serviceInfo struct {
	id        string
	service   *state.Service
	revisions map[uint64]*revisionInfo
	places    map[state.Place]*placeInfo
	tasks     int
	blocked   string   // why the endpoint has no allocation
	rollout   *rollout // the update that is going on
}

// placeInfo is what the service has in one place: a numbered slot, or a node.
type placeInfo struct {
	tasks []*state.Task // oldest first, never changed in place
}

// tasksIn lists the tasks of a place, oldest first.
func (s *serviceInfo) tasksIn(p state.Place) []*state.Task {
	if i := s.places[p]; i != nil {
		return i.tasks
	}
	return nil
}

// taskInfo is a task with what it was counted with.
type taskInfo struct {
	*state.Task
	rev *revisionInfo // nil if unknown
}

func newBoard(v state.View, at time.Time) *board {
	b := &board{
		now: at, index: v.Index(), news: true,
		nodes: map[string]*nodeInfo{}, networks: map[string]*networkInfo{}, services: map[string]*serviceInfo{},
		tasks: map[string]*taskInfo{}, ports: map[portKey]string{},
		unallocated: set{}, unassigned: set{}, reapable: set{}, netless: set{}, doomed: set{}, meshless: set{}, deserted: set{}, blocked: set{},
		dirty: set{}, ending: set{}, crowded: map[placeKey]struct{}{}, freshNew: set{}, freshTBD: set{},
		wake: map[string]time.Time{}, desert: map[string]time.Time{}, held: map[string]time.Time{},
	}
	if c := v.Cluster(); c != nil {
		b.set(c)
	}
	setAll(b, v.Nodes())
	setAll(b, v.Networks())
	for _, s := range v.Services() {
		b.set(s)
		setAll(b, v.Revisions(s.ID))
	}
	for _, t := range v.Tasks() {
		if b.service(t.ServiceID).service == nil { // outlived its service: its revisions did, too
			for _, r := range v.Revisions(t.ServiceID) {
				b.set(r)
			}
		}
		b.set(t)
	}
	return b
}

func setAll[O state.Object](b *board, objects []O) {
	for _, o := range objects {
		b.set(o)
	}
}

// take brings the picture forward by commits.
func (b *board) take(commits []state.Commit) {
	b.news = b.news || len(commits) > 0
	for _, c := range commits {
		if c.Index <= b.index {
			continue
		}
		for _, ch := range c.Changes {
			if ch.New != nil {
				b.set(ch.New)
			} else if ch.Old != nil {
				b.unset(ch.Old)
			}
		}
		b.index = c.Index
	}
}

// get is the object with o's key as the board has it, nil if there is none.
func (b *board) get(o state.Object) state.Object {
	switch o := o.(type) {
	case *state.Cluster:
		if b.cluster != nil {
			return b.cluster
		}
	case *state.Node:
		if n := b.nodes[o.ID]; n != nil && n.node != nil {
			return n.node
		}
	case *state.Network:
		if n := b.networks[o.ID]; n != nil {
			return n.network
		}
	case *state.Service:
		if s := b.services[o.ID]; s != nil && s.service != nil {
			return s.service
		}
	case *state.Revision:
		if s := b.services[o.ServiceID]; s != nil && s.revisions[o.SpecVersion] != nil {
			return s.revisions[o.SpecVersion].Revision
		}
	case *state.Task:
		if t := b.tasks[o.ID]; t != nil {
			return t.Task
		}
	}
	return nil
}

// set puts an object in, in place of the one with its key.
func (b *board) set(o state.Object) {
	switch o := o.(type) {
	case *state.Cluster:
		b.setCluster(o)
	case *state.Node:
		b.setNode(o.ID, o)
	case *state.Network:
		b.setNetwork(o.ID, o)
	case *state.Service:
		b.setService(o.ID, o)
	case *state.Revision:
		s := b.service(o.ServiceID)
		if s.revisions[o.SpecVersion] == nil {
			s.revisions[o.SpecVersion] = newRevisionInfo(o)
			b.touch(o.ServiceID)
		}
	case *state.Task:
		b.setTask(o.ID, o)
	}
}

// unset takes the object with o's key out.
func (b *board) unset(o state.Object) {
	switch o := o.(type) {
	case *state.Node:
		b.setNode(o.ID, nil)
	case *state.Network:
		b.setNetwork(o.ID, nil)
	case *state.Service:
		b.setService(o.ID, nil)
	case *state.Revision:
		s := b.service(o.ServiceID)
		delete(s.revisions, o.SpecVersion)
		b.forget(s)
	case *state.Task:
		b.setTask(o.ID, nil)
	}
}

// touch asks for a service to be looked at. What a pass itself changes does not: its parts finish what they start.
func (b *board) touch(service string) {
	if !b.draft.open {
		b.dirty[service] = struct{}{}
	}
}

// wakeAt asks for a service to be looked at then, or earlier.
func (b *board) wakeAt(service string, at time.Time) {
	if was, ok := b.wake[service]; !ok || at.Before(was) {
		b.wake[service] = at
	}
}

func (b *board) nextWake() (time.Time, bool) {
	var first time.Time
	for _, m := range []map[string]time.Time{b.wake, b.desert, b.held} {
		for _, at := range m {
			if first.IsZero() || at.Before(first) {
				first = at
			}
		}
	}
	return first, !first.IsZero()
}

// service finds or makes the entry of a service.
func (b *board) service(id string) *serviceInfo {
	s := b.services[id]
	if s == nil {
		s = &serviceInfo{id: id, revisions: map[uint64]*revisionInfo{}, places: map[state.Place]*placeInfo{}}
		b.services[id] = s
	}
	return s
}

// forget drops the entry of a service of which nothing is left.
func (b *board) forget(s *serviceInfo) {
	if s.service == nil && s.tasks == 0 && len(s.revisions) == 0 {
		delete(b.services, s.id)
		delete(b.wake, s.id)
		delete(b.ending, s.id)
		delete(b.blocked, s.id)
	}
}

func (b *board) setCluster(c *state.Cluster) {
	if b.mesh == nil || b.cluster == nil || b.cluster.MeshSubnet != c.MeshSubnet {
		b.mesh = newPool(c.MeshSubnet, c.MeshSubnet)
		for _, n := range b.nodes {
			if n.node != nil {
				b.mesh.take(n.node.Mesh.Addr, n.node.ID, n.node.CreatedAt)
			}
		}
	}
	b.cluster = c
	b.freed = true
}

func (b *board) setService(id string, s *state.Service) {
	i := b.service(id)
	if old := i.service; old != nil {
		for _, v := range old.Endpoint.VirtualIPs {
			b.giveBack(v.NetworkID, addrOf(v.Addr), id)
		}
		for _, p := range old.Endpoint.Ports {
			if k, ok := ingressPort(p); ok && b.ports[k] == id {
				delete(b.ports, k)
			}
		}
		b.freed = true
	}
	i.service = s
	b.touch(id)
	if s == nil {
		b.forget(i)
		return
	}
	for _, v := range s.Endpoint.VirtualIPs {
		b.occupy(v.NetworkID, addrOf(v.Addr), id, s.CreatedAt)
	}
	if s.PendingDelete {
		return // its ports are free at once
	}
	for _, p := range s.Endpoint.Ports {
		if k, ok := ingressPort(p); ok {
			b.ports[k] = id
		}
	}
}

// setTask replaces a task and moves everything that is counted by tasks.
func (b *board) setTask(id string, t *state.Task) {
	old := b.tasks[id]
	if old != nil {
		b.uncount(old)
		delete(b.tasks, id)
	}
	b.markTask(old, t)
	if t == nil {
		if old != nil {
			b.forget(b.service(old.ServiceID))
		}
		return
	}
	s := b.service(t.ServiceID)
	i := &taskInfo{Task: t, rev: s.revisions[t.SpecVersion]}
	if i.rev == nil && old != nil {
		i.rev = old.rev
	}
	b.tasks[id] = i
	b.count(i)
}

func (b *board) count(i *taskInfo) {
	t, s := i.Task, b.service(i.ServiceID)
	s.tasks++
	p := s.places[t.Place()]
	if p == nil {
		p = &placeInfo{}
		s.places[t.Place()] = p
	}
	at, _ := slices.BinarySearchFunc(p.tasks, t, byAge)
	p.tasks = slices.Insert(slices.Clip(p.tasks), at, t)
	if t.NodeID != "" {
		b.node(t.NodeID).add(i)
	}
	ended := state.Terminal(t.Status.State)
	for _, a := range t.Networks {
		n := b.networks[a.NetworkID]
		if n == nil {
			continue
		}
		if !ended {
			n.users++
		}
		for _, p := range a.Addresses {
			if ended {
				n.note(p.Addr(), t.CreatedAt)
			} else {
				n.take(p.Addr(), t.ID, t.CreatedAt)
			}
		}
	}
	assigned := state.Rank(t.Status.State) >= state.Rank(swarm.TaskStateAssigned)
	switch {
	case live(t) && !assigned && state.Rank(t.Status.State) < state.Rank(swarm.TaskStatePending):
		b.unallocated[t.ID] = struct{}{}
		b.freshNew[t.ID] = struct{}{}
	case live(t) && !assigned:
		b.unassigned[t.ID] = struct{}{}
		b.freshTBD[t.ID] = struct{}{}
	case state.Rank(t.DesiredState) >= state.Rank(swarm.TaskStateRemove) && (ended || !assigned):
		b.reapable[t.ID] = struct{}{}
	}
	if n := b.nodes[t.NodeID]; t.NodeID != "" && !ended && n.node == nil {
		b.deserted[t.NodeID] = struct{}{}
	}
}

func (b *board) uncount(i *taskInfo) {
	t, s := i.Task, b.service(i.ServiceID)
	s.tasks--
	p := s.places[t.Place()]
	p.tasks = slices.DeleteFunc(slices.Clone(p.tasks), func(o *state.Task) bool { return o.ID == t.ID })
	if len(p.tasks) == 0 {
		delete(s.places, t.Place())
	}
	if t.NodeID != "" {
		n := b.node(t.NodeID)
		n.remove(i)
		if n.node == nil && len(n.tasks) == 0 {
			delete(b.nodes, t.NodeID)
		}
	}
	if !state.Terminal(t.Status.State) {
		for _, a := range t.Networks {
			if n := b.networks[a.NetworkID]; n != nil {
				n.users--
			}
			for _, p := range a.Addresses {
				b.giveBack(a.NetworkID, p.Addr(), t.ID)
			}
		}
	}
	for _, m := range []set{b.unallocated, b.unassigned, b.reapable, b.freshNew, b.freshTBD} {
		delete(m, t.ID)
	}
}

// markTask asks for attention where a change of a task needs it.
func (b *board) markTask(i *taskInfo, t *state.Task) {
	if i == nil {
		if t != nil {
			b.touch(t.ServiceID)
			b.crowded[placeKey{t.ServiceID, t.Place()}] = struct{}{}
		}
		return
	}
	old := i.Task
	if t == nil {
		b.touch(old.ServiceID)
		b.capacity = true
		return
	}
	ended, was := state.Terminal(t.Status.State), state.Terminal(old.Status.State)
	if old.DesiredState != t.DesiredState || ended != was {
		b.touch(t.ServiceID)
		b.crowded[placeKey{t.ServiceID, t.Place()}] = struct{}{}
		b.capacity = true
	}
	if b.service(t.ServiceID).rollout != nil && old.Status.State != t.Status.State && t.Status.State == swarm.TaskStateRunning {
		b.touch(t.ServiceID)
	}
}

// occupy and giveBack move an address of a network between owners.
func (b *board) occupy(network string, a netip.Addr, owner string, since time.Time) {
	if n := b.networks[network]; n != nil {
		n.take(a, owner, since)
	}
}

func (b *board) giveBack(network string, a netip.Addr, owner string) {
	if n := b.networks[network]; n != nil && n.give(a, owner) {
		b.freed = true
	}
}

// preassigned tells whether a task was made for a node that the scheduler has yet to agree to. It uses nothing of the
// node until then.
func preassigned(t *state.Task) bool {
	return t.NodeID != "" && state.Rank(t.Status.State) < state.Rank(swarm.TaskStateAssigned)
}

// live tells whether a task stands for its place: nobody told it to stop.
func live(t *state.Task) bool {
	return state.Rank(t.DesiredState) <= state.Rank(swarm.TaskStateComplete)
}

// comparePlaces orders by slot, then by node.
func comparePlaces(a, b state.Place) int {
	return cmp.Or(cmp.Compare(a.Slot, b.Slot), cmp.Compare(a.NodeID, b.NodeID))
}

// sortedPlaces lists the places of m in order.
func sortedPlaces[V any](m map[state.Place]V) []state.Place {
	return slices.SortedFunc(maps.Keys(m), comparePlaces)
}

// byAge orders tasks of a place, oldest first. A draft has no index yet and is the newest.
func byAge(a, b *state.Task) int {
	return cmp.Or(
		a.CreatedAt.Compare(b.CreatedAt),
		cmp.Compare(a.Version.Index-1, b.Version.Index-1),
		cmp.Compare(a.ID, b.ID),
	)
}

func sorted[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
