package sched

import (
	"encoding/json"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

// rowKind names a map of state.Assignments.
type rowKind int

const (
	taskRow rowKind = iota
	networkRow
	serviceRow
	endpointRow
	nodeRow
	rowKinds
)

// row is one entry of the assignments of those nodes that listen to one of its topics.
type row struct {
	kind    rowKind
	key     string
	version uint64 // index of the last change
	body    body
	places  []*place // one per topic
	// made is the JSON of this version, as far as somebody needed it.
	made atomic.Pointer[encoding]
}

// body is what a row says.
type body interface {
	// networks are those that a node must know for what is said of them.
	networks() []string
	// value is what goes into the assignments of a node that knows the networks for which knows is true.
	value(knows func(network string) bool) any
	// same tells whether other, of the same type, says the same.
	same(other body) bool
}

// encoding is the JSON of a row for nodes that know the same of its networks. Encodings of a row are a list.
type encoding struct {
	mask uint64 // of body.networks
	data []byte // "key":value
	next *encoding
}

// maxMask is how many networks a row may have for its JSON to be kept.
const maxMask = 64

// entry is the row's JSON, "key":value, for a node that knows these networks. What several nodes need is kept. Safe for
// concurrent use.
func (r *row) entry(knows func(network string) bool, k *keeper) []byte {
	networks := r.body.networks()
	if len(networks) > maxMask || r.kind == taskRow {
		return r.encode(knows)
	}
	var mask uint64
	for i, n := range networks {
		if knows(n) {
			mask |= 1 << i
		}
	}
	for {
		first := r.made.Load()
		for e := first; e != nil; e = e.next {
			if e.mask == mask {
				return e.data
			}
		}
		e := &encoding{mask: mask, data: r.encode(knows), next: first}
		if r.made.CompareAndSwap(first, e) {
			k.keep(r, len(e.data))
			return e.data
		}
	}
}

// encode never fails: these are our own types.
func (r *row) encode(knows func(string) bool) []byte {
	key, err := json.Marshal(r.key)
	if err != nil {
		panic(err)
	}
	value, err := json.Marshal(r.body.value(knows))
	if err != nil {
		panic(err)
	}
	out := make([]byte, 0, len(key)+1+len(value))
	return append(append(append(out, key...), ':'), value...)
}

// keeper bounds the memory for kept encodings: beyond it the oldest are dropped.
type keeper struct {
	limit int

	mu    sync.Mutex
	kept  []keptRow
	first int // of kept
	bytes int
}

type keptRow struct {
	row   *row
	bytes int
}

// maxKept is enough for the endpoints of some 300 000 tasks.
const maxKept = 128 << 20

func (k *keeper) keep(r *row, bytes int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.kept = append(k.kept, keptRow{r, bytes})
	k.bytes += bytes
	for k.bytes > k.limit {
		old := k.kept[k.first]
		k.kept[k.first] = keptRow{}
		k.first++
		k.bytes -= old.bytes
		old.row.made.Store(nil)
	}
	if k.first > len(k.kept)/2 {
		k.kept = append(k.kept[:0], k.kept[k.first:]...)
		k.first = 0
	}
}

type nodeBody state.AssignedNode

func (nodeBody) networks() []string            { return nil }
func (b nodeBody) value(func(string) bool) any { return state.AssignedNode(b) }
func (b nodeBody) same(other body) bool        { return b == other.(nodeBody) }

type networkBody state.AssignedNetwork

func (networkBody) networks() []string            { return nil }
func (b networkBody) value(func(string) bool) any { return state.AssignedNetwork(b) }
func (b networkBody) same(other body) bool {
	return sameNetwork(state.AssignedNetwork(b), state.AssignedNetwork(other.(networkBody)))
}

type serviceBody struct {
	state.AssignedService
	in        []string // networks
	published bool
}

func (b *serviceBody) networks() []string { return b.in }

func (b *serviceBody) value(knows func(string) bool) any {
	s := b.AssignedService
	s.VIPs, s.Aliases = only(s.VIPs, knows), only(s.Aliases, knows)
	return s
}

func (b *serviceBody) same(other body) bool {
	o := other.(*serviceBody)
	return sameService(b.AssignedService, o.AssignedService) && slices.Equal(b.in, o.in) && b.published == o.published
}

// endpointBody keeps the stored task instead of a copy of its addresses: there are many.
type endpointBody struct {
	task      *state.Task
	in        []string // networks in which it has addresses
	hostname  string
	state     state.EndpointState
	published bool // backs a port that all nodes publish
}

func (b *endpointBody) networks() []string { return b.in }

func (b *endpointBody) value(knows func(string) bool) any {
	e := b.endpoint()
	e.Addrs = only(e.Addrs, knows)
	return e
}

func (b *endpointBody) endpoint() state.Endpoint {
	t := b.task
	e := state.Endpoint{
		TaskID: t.ID, ServiceID: t.ServiceID, NodeID: t.NodeID, Slot: t.Slot, Name: t.Name(), Hostname: b.hostname, State: b.state,
		Addrs: make(map[string][]netip.Addr, len(b.in)),
	}
	for _, l := range t.Networks {
		for _, p := range l.Addresses {
			e.Addrs[l.NetworkID] = append(e.Addrs[l.NetworkID], p.Addr())
		}
	}
	return e
}

func (b *endpointBody) same(other body) bool {
	o := other.(*endpointBody)
	return b.state == o.state && b.hostname == o.hostname && b.published == o.published && b.task.NodeID == o.task.NodeID &&
		b.task.Slot == o.task.Slot && b.task.ServiceID == o.task.ServiceID && b.task.ServiceName == o.task.ServiceName &&
		slices.EqualFunc(b.task.Networks, o.task.Networks, func(x, y state.Attachment) bool {
			return x.NetworkID == y.NetworkID && slices.Equal(x.Addresses, y.Addresses)
		})
}

type taskBody struct {
	task     *state.Task
	revision *state.Revision // nil: none
	labels   map[string]string
	// holds are the networks that the node must know for this task.
	holds []string
}

func (*taskBody) networks() []string { return nil }

func (b *taskBody) value(func(string) bool) any { return assignedTask(b.task, b.revision, b.labels) }

// same takes a status that its own node reported for no news, unless it is the task's end: then the node has to know also if
// it forgets.
func (b *taskBody) same(other body) bool {
	o := other.(*taskBody)
	if b.revision != o.revision || !maps.Equal(b.labels, o.labels) || !slices.Equal(b.holds, o.holds) {
		return false
	}
	return b.task.Modified == o.task.Modified || isEcho(b.task, o.task)
}

// isEcho tells whether all that two versions of a task differ in is what its node has said of it.
func isEcho(a, b *state.Task) bool {
	if a.AppliedAt.Equal(b.AppliedAt) || state.Terminal(a.Status.State) || state.Terminal(b.Status.State) {
		return false
	}
	return a.SpecVersion == b.SpecVersion && a.DesiredState == b.DesiredState && a.NodeID == b.NodeID && a.Slot == b.Slot &&
		a.ServiceID == b.ServiceID && a.ServiceName == b.ServiceName && a.Iteration == b.Iteration && a.Crashes == b.Crashes &&
		a.Version == b.Version && slices.EqualFunc(a.Networks, b.Networks, sameAttachment) &&
		slices.EqualFunc(a.GenericResources, b.GenericResources, sameGeneric)
}

func sameAttachment(a, b state.Attachment) bool {
	return a.NetworkID == b.NetworkID && slices.Equal(a.Addresses, b.Addresses) && slices.Equal(a.Aliases, b.Aliases)
}

func sameGeneric(a, b swarm.GenericResource) bool {
	return equalPointers(a.NamedResourceSpec, b.NamedResourceSpec) && equalPointers(a.DiscreteResourceSpec, b.DiscreteResourceSpec)
}

func equalPointers[T comparable](a, b *T) bool {
	return a == b || (a != nil && b != nil && *a == *b)
}
