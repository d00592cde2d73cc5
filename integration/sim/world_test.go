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

	// givenUp tells whether a manager that lives has a node for down now.
	givenUp func(node string) bool

	mu sync.Mutex
	// lost are the nodes that were ever out of reach, or that the managers gave up though they were not: nobody can promise
	// what runs there.
	lost       map[string]bool
	mistakes   int // nodes that were given up though they lived
	running    map[string]state.AssignedTask
	places     map[placeKey][]string // what runs, by task ID
	addrs      map[addrKey]string
	startFirst map[string]bool // services whose slots may run twice during an update
	faults     map[string]*fault
}

func newWorld() *world {
	return &world{
		givenUp: func(string) bool { return false }, lost: map[string]bool{}, running: map[string]state.AssignedTask{}, places: map[placeKey][]string{}, addrs: map[addrKey]string{},
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
}

// giveUp notes that the managers have a node for down.
func (w *world) giveUp(node string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.giveUpLocked(node)
}

func (w *world) giveUpLocked(node string) {
	if !w.lost[node] {
		w.lost[node] = true
		w.mistakes++
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
	k, allowed := placeOf(t), 1
	if w.startFirst[t.ServiceName] {
		allowed = 2
	}
	w.places[k] = append(w.places[k], t.ID)
	n := 0
	for _, id := range w.places[k] {
		node := w.running[id].Task.NodeID
		if len(w.places[k]) > allowed && w.givenUp(node) {
			w.giveUpLocked(node) // the audits have not come to that commit yet
		}
		if !w.lost[node] {
			n++
		}
	}
	if n > allowed {
		w.add("world: %d containers of %s.%d run", n, t.ServiceName, t.Slot)
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
	k := placeOf(&a.Task)
	if w.places[k] = slices.DeleteFunc(w.places[k], func(id string) bool { return id == taskID }); len(w.places[k]) == 0 {
		delete(w.places, k)
	}
}

// falselyDown is the number of nodes that were given up though they lived.
func (w *world) falselyDown() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.mistakes
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
