package sched

import "github.com/meshswarm/meshswarm/raft/state"

// source is what rows are made from, by key.
type source interface {
	Node(id string) *state.Node
	Service(id string) *state.Service
	Revision(serviceID string, spec uint64) *state.Revision
	Network(id string) *state.Network
}

// lookup is a view that remembers what it was asked for: many tasks ask for few services and nodes.
type lookup struct {
	state.View
	nodes     map[string]*state.Node
	services  map[string]*state.Service
	revisions map[revisionOf]*state.Revision
	networks  map[string]*state.Network
}

type revisionOf struct {
	service string
	spec    uint64
}

func newLookup(v state.View) *lookup {
	return &lookup{
		View: v, nodes: map[string]*state.Node{}, services: map[string]*state.Service{},
		revisions: map[revisionOf]*state.Revision{}, networks: map[string]*state.Network{},
	}
}

// Node implements source.
func (l *lookup) Node(id string) *state.Node { return remember(l.nodes, id, l.View.Node) }

// Service implements source.
func (l *lookup) Service(id string) *state.Service { return remember(l.services, id, l.View.Service) }

// Network implements source.
func (l *lookup) Network(id string) *state.Network { return remember(l.networks, id, l.View.Network) }

// Revision implements source.
func (l *lookup) Revision(serviceID string, spec uint64) *state.Revision {
	return remember(l.revisions, revisionOf{serviceID, spec}, func(k revisionOf) *state.Revision { return l.View.Revision(k.service, k.spec) })
}

func remember[K comparable, V any](known map[K]*V, key K, find func(K) *V) *V {
	v, ok := known[key]
	if !ok {
		v = find(key)
		known[key] = v
	}
	return v
}
