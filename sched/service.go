package sched

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

// serviceInfo is a service with its tasks. The service is nil when it is gone and something of it is still here.
type serviceInfo struct {
	id        string
	service   *state.Service
	revisions map[uint64]*revisionInfo
	versions  map[uint64]int // how many tasks follow each revision
	places    map[state.Place]*placeInfo
	tasks     int
	blocked   string // why the endpoint has no allocation

	// What is known about the places (assess), so that a look at a service costs what changed of it.
	touched map[state.Place]struct{} // places that changed since they were looked at
	recent  map[state.Place]struct{} // places that were looked at during this reconciliation
	all     bool                     // every place is to be looked at
	counts  [standings]int           // places by what stands for them
	stale   map[state.Place]struct{} // places that an update has to change
	clean   *cleanness               // remembered until the service changes
	moving  set                      // tasks that a rebalance replaces
	lowest  int                      // no slot below is free (jobs)

	rollout *rollout // the update that is going on
	tilt    tilt     // what is known about its spread (automatic rebalance)
}

// placeInfo is what the service has in one place: a numbered slot, or a node.
type placeInfo struct {
	tasks []*state.Task // oldest first, never changed in place
	stand standing      // as it was counted
	told  string        // the task whose status says how long it is held back
}

// standing is what stands for a place.
type standing int

const (
	vacant   standing = iota // nothing does
	occupied                 // a task that runs or is to run
	finished                 // a job's task that completed
	spent                    // the last task ended, and by the restart policy none follows it
	standings
)

// tasksIn lists the tasks of a place, oldest first.
func (s *serviceInfo) tasksIn(p state.Place) []*state.Task {
	if i := s.places[p]; i != nil {
		return i.tasks
	}
	return nil
}

// stand tells what stands for a place, as it was counted last.
func (s *serviceInfo) stand(p state.Place) standing {
	if i := s.places[p]; i != nil {
		return i.stand
	}
	return vacant
}

// standers lists the tasks that stand for a place: those that shall run, or else the last one if none is to follow it.
func (s *serviceInfo) standers(p state.Place) []*state.Task {
	tasks := s.tasksIn(p)
	var out []*state.Task
	for _, t := range tasks {
		if live(t) {
			out = append(out, t)
		}
	}
	if len(out) == 0 && len(tasks) > 0 && s.lasting(tasks[len(tasks)-1]) {
		return tasks[len(tasks)-1:]
	}
	return out
}

// lasting tells whether a place's last task stands for it though it is over.
func (s *serviceInfo) lasting(t *state.Task) bool {
	return t.Iteration == s.iteration() && (done(t) || t.DesiredState == swarm.TaskStateShutdown && !s.shouldRestart(t))
}

// mode is how a service wants its tasks.
type mode int

const (
	replicated mode = iota
	global
	replicatedJob
	globalJob
)

func modeOf(s *state.Service) mode {
	switch m := s.Spec.Mode; {
	case m.Global != nil:
		return global
	case m.ReplicatedJob != nil:
		return replicatedJob
	case m.GlobalJob != nil:
		return globalJob
	}
	return replicated
}

// job tells whether tasks run once, to their end.
func (m mode) job() bool { return m == replicatedJob || m == globalJob }

// perNode tells whether places are nodes.
func (m mode) perNode() bool { return m == global || m == globalJob }

// goal is the desired state of the service's tasks once nothing holds them back.
func (s *serviceInfo) goal() swarm.TaskState {
	if modeOf(s.service).job() {
		return swarm.TaskStateComplete
	}
	return swarm.TaskStateRunning
}

// iteration is the job's iteration that its tasks belong to; 0 for a service that is no job.
func (s *serviceInfo) iteration() uint64 {
	if s.service == nil || s.service.JobStatus == nil || !modeOf(s.service).job() {
		return 0
	}
	return s.service.JobStatus.JobIteration.Index
}

// assess brings up to date what is known about the places that changed.
func (b *board) assess(s *serviceInfo) {
	m := modeOf(s.service)
	for p := range s.touched {
		s.recent[p] = struct{}{}
		i := s.places[p]
		if i == nil {
			delete(s.stale, p)
			continue
		}
		tasks := s.standers(p)
		s.counts[i.stand]--
		switch {
		case len(tasks) == 0:
			i.stand = vacant
			s.lowest = min(s.lowest, p.Slot)
		case live(tasks[0]):
			i.stand = occupied
		case done(tasks[0]):
			i.stand = finished
		default:
			i.stand = spent
		}
		s.counts[i.stand]++
		if m.job() || len(tasks) == 0 || len(tasks) == 1 && (b.cleanness(s).clean(tasks[0]) || m == global && b.coverage(s, p.NodeID) != wanted) {
			delete(s.stale, p)
		} else {
			s.stale[p] = struct{}{}
		}
	}
	clear(s.touched)
}

// touch asks for a service to be looked at. What a pass itself changes does not: its parts finish what they start.
func (b *board) touch(service string) {
	if !b.draft.open {
		b.dirty[service] = struct{}{}
	}
}

// touchPlace asks for one place of a service to be looked at. What the pass itself changes there is only counted anew.
func (b *board) touchPlace(service string, p state.Place) {
	b.service(service).touched[p] = struct{}{}
	b.touch(service)
}

// wakeAt asks for a service to be looked at then, or earlier.
func (b *board) wakeAt(service string, at time.Time) { b.wake.add(placeKey{service: service}, at) }

// wakePlace asks for one place of a service to be looked at then, or earlier.
func (b *board) wakePlace(service string, p state.Place, at time.Time) {
	b.wake.add(placeKey{service, p}, at)
}

// awake marks what is due.
func (b *board) awake() {
	for _, k := range b.wake.take(b.now) {
		s := b.services[k.service]
		if s == nil {
			continue
		}
		b.dirty[k.service] = struct{}{}
		if k.place != (state.Place{}) {
			s.touched[k.place] = struct{}{}
		}
	}
}

func (b *board) nextWake() (time.Time, bool) {
	first, ok := b.wake.next()
	for _, m := range []map[string]time.Time{b.desert, b.held} {
		for _, at := range m {
			if !ok || at.Before(first) {
				first, ok = at, true
			}
		}
	}
	return first, ok
}

// service finds or makes the entry of a service.
func (b *board) service(id string) *serviceInfo {
	s := b.services[id]
	if s == nil {
		s = &serviceInfo{
			id: id, revisions: map[uint64]*revisionInfo{}, versions: map[uint64]int{}, places: map[state.Place]*placeInfo{},
			touched: map[state.Place]struct{}{}, recent: map[state.Place]struct{}{}, stale: map[state.Place]struct{}{},
		}
		b.services[id] = s
	}
	return s
}

// forget drops the entry of a service of which nothing is left.
func (b *board) forget(s *serviceInfo) {
	if s.service == nil && s.tasks == 0 && len(s.revisions) == 0 {
		delete(b.services, s.id)
		delete(b.ending, s.id)
		delete(b.blocked, s.id)
	}
}

func (b *board) setService(id string, s *state.Service) {
	i := b.service(id)
	old := i.service
	if old != nil {
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
	if old == nil || s == nil || !sameOrders(old, s) {
		i.look(s)
	}
	b.touch(id)
	delete(b.global, id)
	delete(b.gentle, id)
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
	if modeOf(s).perNode() {
		b.global[id] = struct{}{}
	} else if rebalancesItself(s) {
		b.gentle[id] = struct{}{}
	}
	for _, p := range s.Endpoint.Ports {
		if k, ok := ingressPort(p); ok {
			b.ports[k] = id
		}
	}
}

// sameOrders tells whether a service asks the same of its tasks, so that only those that change need a look.
func sameOrders(a, b *state.Service) bool {
	return a.Version == b.Version && a.SpecVersion == b.SpecVersion && a.PendingDelete == b.PendingDelete &&
		(a.JobStatus == nil) == (b.JobStatus == nil) && (a.JobStatus == nil || a.JobStatus.JobIteration == b.JobStatus.JobIteration) &&
		(a.Rebalance == nil) == (b.Rebalance == nil) && (a.Rebalance == nil || slices.Equal(a.Rebalance.Tasks, b.Rebalance.Tasks))
}

// look forgets what is known about the places.
func (s *serviceInfo) look(now *state.Service) {
	s.all, s.clean, s.moving, s.lowest = true, nil, nil, 0
	if now != nil && now.Rebalance != nil {
		s.moving = make(set, len(now.Rebalance.Tasks))
		for _, id := range now.Rebalance.Tasks {
			s.moving[id] = struct{}{}
		}
	}
}

// comparePlaces orders by slot, then by node.
func comparePlaces(a, b state.Place) int {
	return cmp.Or(cmp.Compare(a.Slot, b.Slot), cmp.Compare(a.NodeID, b.NodeID))
}

// sortedPlaces lists the places of m in order.
func sortedPlaces[V any](m map[state.Place]V) []state.Place {
	return slices.SortedFunc(maps.Keys(m), comparePlaces)
}
