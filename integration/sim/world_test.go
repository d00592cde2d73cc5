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

func (c *complaints) all() (list []string, n int) {
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

// world is the truth about all machines: what runs where, whatever the managers think. It notes when a slot runs more often
// than its update's order allows, and when two containers have one address.
type world struct {
	complaints

	mu         sync.Mutex
	running    map[string]state.AssignedTask
	places     map[placeKey][]string // what runs, by task ID
	addrs      map[addrKey]string
	startFirst map[string]bool // services whose slots may run twice during an update
	overlaps   []overlap
	faults     map[string]*fault
}

// overlap is a slot that runs more often than it should. Whether that is wrong depends on its nodes: nobody can promise what
// runs on those that were out of reach.
type overlap struct {
	Task    string // the last to start, by name
	Nodes   []string
	Allowed int
}

func newWorld() *world {
	return &world{
		running: map[string]state.AssignedTask{}, places: map[placeKey][]string{}, addrs: map[addrKey]string{},
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
	if len(w.places[k]) > allowed {
		o := overlap{Task: t.Name(), Allowed: allowed}
		for _, id := range w.places[k] {
			o.Nodes = append(o.Nodes, w.running[id].Task.NodeID)
		}
		w.overlaps = append(w.overlaps, o)
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
