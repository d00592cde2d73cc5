package sim

import (
	"fmt"
	"net/netip"
	"sync"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

// audit follows one manager's store and holds every commit against what must always be true:
//
//   - a task's desired and observed state only grow, and its node, slot and service never change;
//   - no address of a network has two owners among tasks that have not ended and virtual IPs;
//   - no published port has two services;
//   - no slot has two tasks that run, or three where an update may start the new one first. Nodes that were ever lost, or
//     given up by mistake on a busy machine, do not count: nobody can promise what runs there.
//
// It also counts what runs, so that nobody has to walk the store to know.
type audit struct {
	complaints
	name     string
	suspects *suspects

	mu         sync.Mutex
	tasks      map[string]*state.Task
	services   map[string]*state.Service
	owners     map[addrKey]string
	ports      map[swarm.PortConfig]string // by protocol and published port only
	places     map[placeKey][]*state.Task  // tasks that are seen running
	wanted     map[string]map[uint64]int   // running and meant to: service, spec version, number
	entries    int
	changes    int
	restarts   int // times that the store had to be read anew
	index      uint64
	maxTasks   int
	startFirst map[string]bool
}

func newAudit(name string, s *suspects) *audit {
	a := &audit{name: name, suspects: s, tasks: map[string]*state.Task{}, services: map[string]*state.Service{}}
	a.reset()
	return a
}

func (a *audit) reset() {
	a.owners, a.ports, a.places = map[addrKey]string{}, map[swarm.PortConfig]string{}, map[placeKey][]*state.Task{}
	a.wanted, a.startFirst = map[string]map[uint64]int{}, map[string]bool{}
}

// begin takes a view: the first one, or another after falling behind. What is known already must have grown only.
func (a *audit) begin(v state.View) {
	a.mu.Lock()
	defer a.mu.Unlock()
	old := a.tasks
	a.tasks, a.services = map[string]*state.Task{}, map[string]*state.Service{}
	a.reset()
	if v.Index() < a.index {
		a.add("%s: the store went back from index %d to %d", a.name, a.index, v.Index())
	}
	a.index = v.Index()
	a.restarts++
	for _, n := range v.Nodes() {
		if n.Status.State == swarm.NodeStateDown {
			a.suspects.giveUp(n.ID)
		}
	}
	for _, s := range v.Services() {
		a.service(nil, s)
	}
	for _, t := range v.Tasks() {
		if was := old[t.ID]; was != nil {
			a.grows(was, t)
		}
		a.task(nil, t)
	}
}

// commits takes what changed.
func (a *audit) commits(list []state.Commit) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range list {
		a.entries++
		a.changes += len(c.Changes)
		a.index = c.Index
		a.commit(c)
	}
	a.maxTasks = max(a.maxTasks, len(a.tasks))
}

// commit first takes all objects away that a commit changed, then puts them back as they are after it: a batch may hand an
// address from one task to the next.
func (a *audit) commit(c state.Commit) {
	last := map[string]state.Object{} // by key, nil when deleted
	for _, ch := range c.Changes {
		key := ""
		switch o := either(ch).(type) {
		case *state.Task:
			key = o.ID
			if is := a.tasks[key]; is != nil {
				a.task(is, nil)
			}
		case *state.Service:
			key = o.ID
			if is := a.services[key]; is != nil {
				a.service(is, nil)
			}
		case *state.Node:
			if o.Status.State == swarm.NodeStateDown {
				a.suspects.giveUp(o.ID)
			}
			continue
		default:
			continue
		}
		was, _ := ch.Old.(*state.Task)
		is, _ := ch.New.(*state.Task)
		if was != nil && is != nil {
			a.grows(was, is)
		}
		last[key] = ch.New
	}
	for _, o := range last {
		switch o := o.(type) {
		case *state.Task:
			a.task(nil, o)
		case *state.Service:
			a.service(nil, o)
		}
	}
}

func either(c state.Change) state.Object {
	if c.New != nil {
		return c.New
	}
	return c.Old
}

// grows compares two versions of a task.
func (a *audit) grows(was, is *state.Task) {
	if state.Rank(is.DesiredState) < state.Rank(was.DesiredState) {
		a.add("%s: task %s: desired state went from %s back to %s", a.name, is.Name(), was.DesiredState, is.DesiredState)
	}
	if state.Rank(is.Status.State) < state.Rank(was.Status.State) {
		a.add("%s: task %s: state went from %s back to %s", a.name, is.Name(), was.Status.State, is.Status.State)
	}
	if was.NodeID != "" && is.NodeID != was.NodeID || is.Slot != was.Slot || is.ServiceID != was.ServiceID {
		a.add("%s: task %s moved", a.name, is.Name())
	}
}

// task puts a task into the books, or takes it out.
func (a *audit) task(out, in *state.Task) {
	if out != nil {
		delete(a.tasks, out.ID)
		a.own(out.ID, taskAddresses(out), false)
		a.runs(out, false)
	}
	if in != nil {
		a.tasks[in.ID] = in
		a.own(in.ID, taskAddresses(in), true)
		a.runs(in, true)
	}
}

func taskAddresses(t *state.Task) []addrKey {
	if state.Terminal(t.Status.State) {
		return nil
	}
	return addresses(t)
}

// service puts a service into the books, or takes it out.
func (a *audit) service(out, in *state.Service) {
	s := in
	if out != nil {
		s = out
		delete(a.services, s.ID)
	} else {
		a.services[s.ID] = s
		a.startFirst[s.ID] = s.Spec.UpdateConfig != nil && s.Spec.UpdateConfig.Order == swarm.UpdateOrderStartFirst
	}
	a.own(s.ID, vips(s), in != nil)
	if s.PendingDelete {
		return
	}
	for _, p := range s.Endpoint.Ports {
		k := swarm.PortConfig{Protocol: p.Protocol, PublishedPort: p.PublishedPort}
		other, taken := a.ports[k]
		switch {
		case out != nil && other == s.ID:
			delete(a.ports, k)
		case in != nil && taken && other != s.ID:
			a.add("%s: port %d/%s has services %s and %s", a.name, k.PublishedPort, k.Protocol, other, s.ID)
		case in != nil:
			a.ports[k] = s.ID
		}
	}
}

func vips(s *state.Service) []addrKey {
	var out []addrKey
	for _, v := range s.Endpoint.VirtualIPs {
		if p, err := netip.ParsePrefix(v.Addr); err == nil {
			out = append(out, addrKey{v.NetworkID, p.Addr()})
		}
	}
	return out
}

// own gives addresses to an owner, or takes them back.
func (a *audit) own(owner string, list []addrKey, give bool) {
	for _, k := range list {
		other, taken := a.owners[k]
		switch {
		case !give && other == owner:
			delete(a.owners, k)
		case give && taken && other != owner:
			a.add("%s: address %s of network %s has owners %s and %s", a.name, k.addr, k.network, other, owner)
		case give:
			a.owners[k] = owner
		}
	}
}

// runs counts a running task in or out.
func (a *audit) runs(t *state.Task, in bool) {
	if t.Status.State != swarm.TaskStateRunning {
		return
	}
	k := placeOf(t)
	if a.wanted[t.ServiceID] == nil {
		a.wanted[t.ServiceID] = map[uint64]int{}
	}
	n := 0
	if meant(t) {
		n = 1
	}
	if !in {
		a.wanted[t.ServiceID][t.SpecVersion] -= n
		for i, o := range a.places[k] {
			if o.ID == t.ID {
				a.places[k] = append(a.places[k][:i:i], a.places[k][i+1:]...)
				break
			}
		}
		if len(a.places[k]) == 0 {
			delete(a.places, k)
		}
		return
	}
	a.wanted[t.ServiceID][t.SpecVersion] += n
	a.places[k] = append(a.places[k], t)
	if len(a.places[k]) > 1 {
		a.crowd(k)
	}
}

// crowd judges a slot that has several running tasks.
func (a *audit) crowd(k placeKey) {
	allowed, n, text := 1, 0, ""
	if a.startFirst[k.service] {
		allowed = 2
	}
	for _, t := range a.places[k] {
		if !a.suspects.has(t.NodeID) {
			n++
			text += " " + t.Name() + " (wanted " + string(t.DesiredState) + ")"
		}
	}
	if n > allowed {
		a.add("%s: %d tasks of one slot run:%s", a.name, n, text)
	}
}

// meant tells whether a task shall run.
func meant(t *state.Task) bool {
	return state.Rank(t.DesiredState) <= state.Rank(swarm.TaskStateRunning)
}

// running counts the tasks of a service that run and shall, of one spec version; of all versions for 0.
func (a *audit) running(service string, version uint64) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := 0
	for v, k := range a.wanted[service] {
		if version == 0 || v == version {
			n += k
		}
	}
	return n
}

// describe counts a service's tasks by what they are and shall be, for complaints.
func (a *audit) describe(service string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	counts := map[string]int{}
	for _, t := range a.tasks {
		if t.ServiceID == service {
			counts[fmt.Sprintf("%s (shall be %s) %s", t.Status.State, t.DesiredState, t.Status.Err)]++
		}
	}
	return fmt.Sprint(counts)
}

// update tells the state of a service's update.
func (a *audit) update(service string) (st swarm.UpdateStatus, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.services[service]
	if s == nil || s.UpdateStatus == nil {
		return st, false
	}
	return *s.UpdateStatus, true
}

// on lists the places that have a task which shall run on one of some nodes.
func (a *audit) on(nodes map[string]bool) map[placeKey]bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := map[placeKey]bool{}
	for _, t := range a.tasks {
		if nodes[t.NodeID] && meant(t) && !state.Terminal(t.Status.State) {
			out[placeOf(t)] = true
		}
	}
	return out
}

// settled removes those of places that have a running task elsewhere than on some nodes.
func (a *audit) settled(places map[placeKey]bool, nodes map[string]bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for k := range places {
		for _, t := range a.places[k] {
			if meant(t) && !nodes[t.NodeID] {
				delete(places, k)
				break
			}
		}
	}
}

// lingering counts the tasks on some nodes that run and shall not.
func (a *audit) lingering(nodes map[string]bool) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := 0
	for _, list := range a.places {
		for _, t := range list {
			if nodes[t.NodeID] && !meant(t) {
				n++
			}
		}
	}
	return n
}
