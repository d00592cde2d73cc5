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
	pass  int // counts the passes

	// Work. Sets that follow from the objects' states:
	unallocated map[string]struct{} // tasks that wait for addresses
	unassigned  taskList            // tasks that wait for a node
	reapable    map[string]struct{} // tasks that are over
	netless     map[string]struct{} // networks without a subnet
	doomed      map[string]struct{} // networks pending deletion
	meshless    map[string]struct{} // nodes without a mesh address
	deserted    map[string]struct{} // nodes that do not exist and still have tasks that have not ended
	blocked     map[string]struct{} // services whose endpoint could not be allocated
	// and marks, made by changes and cleared by the part that handles them:
	dirty    map[string]struct{}    // services to reconcile
	ending   map[string]struct{}    // removed services to look after
	crowded  map[placeKey]struct{}  // places whose history grew
	freshNew map[string]struct{}    // of unallocated: not tried yet
	freshTBD []*taskInfo            // of unassigned: not tried yet
	wake     agenda[placeKey]       // places (or, with no place, services) to look at later
	desert   map[string]time.Time   // down nodes: when their tasks are given up
	held     map[string]time.Time   // nodes that get no new tasks: until when
	review   map[string]*state.Node // nodes that changed: as they were when their tasks were last compared with them (nil: unknown)
	global   map[string]struct{}    // services that want a task on each node
	gentle   map[string]struct{}    // services that are rebalanced without being asked
	freed    bool                   // an address, a port or a subnet may have become free: try all unallocated
	capacity bool                   // a node may take more than before: try all unassigned
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

func newBoard(v state.View, at time.Time) *board {
	b := &board{
		now: at, index: v.Index(), news: true,
		nodes: map[string]*nodeInfo{}, networks: map[string]*networkInfo{}, services: map[string]*serviceInfo{},
		tasks: map[string]*taskInfo{}, ports: map[portKey]string{},
		unallocated: set{}, reapable: set{}, netless: set{}, doomed: set{}, meshless: set{}, deserted: set{}, blocked: set{},
		dirty: set{}, ending: set{}, crowded: map[placeKey]struct{}{}, freshNew: set{},
		desert: map[string]time.Time{}, held: map[string]time.Time{}, review: map[string]*state.Node{}, global: set{}, gentle: set{},
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

func sorted[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
