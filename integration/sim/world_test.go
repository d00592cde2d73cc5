package sim

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/meshswarm/meshswarm/raft/state"
)

// maxComplaints bounds what one auditor remembers: the first ones tell most.
const maxComplaints = 20

// complaints are rules that were broken.
type complaints struct {
	mu   sync.Mutex
	list []string
	n    int
}

func (c *complaints) add(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n++; len(c.list) < maxComplaints {
		c.list = append(c.list, fmt.Sprintf(format, args...))
	}
}

func (c *complaints) all() ([]string, int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.list), c.n
}

// placeKey is a slot of a service.
type placeKey struct {
	service string
	place   state.Place
}

// addrKey is an address in a network.
type addrKey struct {
	network string
	addr    netip.Addr
}

// world is the truth about all machines: what runs where, whatever the managers think. It complains when a slot runs twice
// beyond what its update's order allows, and when two containers have one address.
type world struct {
	complaints

	mu         sync.Mutex
	lost       map[string]bool // nodes that were ever lost: nobody can promise what runs there
	running    map[string]state.AssignedTask
	places     map[placeKey]int // of nodes that were never lost
	addrs      map[addrKey]string
	startFirst map[string]bool // services whose slots may run twice during an update
	faults     map[string]*fault
}

func newWorld() *world {
	return &world{
		lost: map[string]bool{}, running: map[string]state.AssignedTask{}, places: map[placeKey]int{}, addrs: map[addrKey]string{},
		startFirst: map[string]bool{}, faults: map[string]*fault{},
	}
}

// fault makes an operation fail for every nth slot of a service, a number of times each.
type fault struct {
	err   error
	every int
	times int
	seen  map[int]int
}

// Names of operations that can fail; the name of a fault is operation, space, service's name.
const (
	opPrepare = "prepare"
	opStart   = "start"
	opExit    = "exit" // soon after the start
)

// inject makes an operation on the tasks of a service fail.
func (w *world) inject(op, service string, err error, every, times int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults[op+" "+service] = &fault{err: err, every: every, times: times, seen: map[int]int{}}
}

// fails asks for the fate of an operation.
func (w *world) fails(op string, t *state.Task) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	f := w.faults[op+" "+t.ServiceName]
	if f == nil || t.Slot%f.every != 0 || f.seen[t.Slot] >= f.times {
		return nil
	}
	f.seen[t.Slot]++
	return f.err
}

// lose notes that nodes are out of reach from now on.
func (w *world) lose(nodes []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range nodes {
		w.lost[id] = true
	}
	clear(w.places)
	for _, t := range w.running {
		if !w.lost[t.Task.NodeID] {
			w.places[placeOf(&t.Task)]++
		}
	}
}

// everLost tells whether a node was ever lost.
func (w *world) everLost(node string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lost[node]
}

// starts notes that a container runs.
func (w *world) starts(a state.AssignedTask) {
	t := &a.Task
	w.mu.Lock()
	defer w.mu.Unlock()
	w.running[t.ID] = a
	for _, k := range addresses(t) {
		if other, ok := w.addrs[k]; ok && other != t.ID {
			w.add("world: %s of network %s is the address of task %s and of task %s, which both run", k.addr, k.network, other, t.ID)
		}
		w.addrs[k] = t.ID
	}
	if w.lost[t.NodeID] {
		return
	}
	k, allowed := placeOf(t), 1
	if w.startFirst[t.ServiceName] {
		allowed = 2
	}
	if w.places[k]++; w.places[k] > allowed {
		w.add("world: %d containers of %s.%d run", w.places[k], t.ServiceName, t.Slot)
	}
}

// stops notes that a container runs no more.
func (w *world) stops(taskID string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	a, ok := w.running[taskID]
	if !ok {
		return
	}
	delete(w.running, taskID)
	for _, k := range addresses(&a.Task) {
		if w.addrs[k] == taskID {
			delete(w.addrs, k)
		}
	}
	if !w.lost[a.Task.NodeID] {
		w.places[placeOf(&a.Task)]--
	}
}

// tasks lists what runs, with the node it runs on.
func (w *world) tasks() map[string]string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := make(map[string]string, len(w.running))
	for id, t := range w.running {
		out[id] = t.Task.NodeID
	}
	return out
}

func placeOf(t *state.Task) placeKey { return placeKey{t.ServiceID, t.Place()} }

// addresses lists a task's addresses.
func addresses(t *state.Task) []addrKey {
	var out []addrKey
	for _, n := range t.Networks {
		for _, p := range n.Addresses {
			out = append(out, addrKey{n.NetworkID, p.Addr()})
		}
	}
	return out
}
