package sched

import (
	"cmp"
	"log/slog"
	"maps"
	"slices"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

// defaultHistory is how many tasks a place keeps, the current one included (Swarm's default).
const defaultHistory = 5

// reaper deletes what is over.
type reaper struct {
	b   *board
	log *slog.Logger
}

func (r *reaper) run() {
	b := r.b
	ended := maps.Clone(b.ending) // services to look after
	clear(b.ending)
	for _, id := range sorted(b.reapable) {
		t := b.tasks[id]
		b.together()
		b.drop(t.Task)
		ended[t.ServiceID] = struct{}{}
	}
	for _, k := range slices.SortedFunc(maps.Keys(b.crowded), func(x, y placeKey) int {
		return cmp.Or(cmp.Compare(x.service, y.service), comparePlaces(x.place, y.place))
	}) {
		r.trim(k)
		ended[k.service] = struct{}{}
	}
	clear(b.crowded)
	for _, id := range sorted(ended) {
		if s := b.services[id]; s != nil {
			r.service(s)
		}
	}
	for _, id := range sorted(b.doomed) {
		r.network(b.networks[id])
	}
}

// trim deletes the oldest tasks of a place beyond the history that is kept. The last task of a place stays: it may be what
// tells that nothing shall follow it; so does what a task that is held back waits for, and how long.
func (r *reaper) trim(k placeKey) {
	b := r.b
	s := b.services[k.service]
	if s == nil {
		return
	}
	tasks := s.tasksIn(k.place)
	keep := b.history(s)
	if keep < 0 || len(tasks) <= keep {
		return
	}
	excess := len(tasks) - keep
	stay := len(tasks) - 1
	for stay > 0 && live(tasks[stay]) && tasks[stay].DesiredState == swarm.TaskStateReady {
		stay--
	}
	for _, t := range tasks[:stay] {
		if excess > 0 && !live(t) && state.Terminal(t.Status.State) {
			b.together()
			b.drop(t)
			excess--
		}
	}
}

// history is how many tasks a place keeps; negative: all. A limit of restart attempts is counted in the history.
func (b *board) history(s *serviceInfo) int {
	if s.service != nil {
		if n := s.revision().maxAttempts(); n > 0 {
			return int(min(n, 1<<20)) + 1
		}
	}
	if c := b.cluster; c != nil && c.Spec.Orchestration.TaskHistoryRetentionLimit != nil {
		return int(*c.Spec.Orchestration.TaskHistoryRetentionLimit)
	}
	return defaultHistory
}

// service deletes revisions that no task follows any more, and a removed service when only tasks are left of which
// nobody can say when they stop, because their node is away.
func (r *reaper) service(s *serviceInfo) {
	b := r.b
	b.together()
	if s.service != nil && s.service.PendingDelete && b.abandoned(s) {
		b.drop(s.service)
		r.log.Info("service removed", "service", s.id)
	}
	for _, v := range sorted(s.revisions) {
		if s.versions[v] == 0 && (s.service == nil || v != s.service.SpecVersion) {
			b.drop(s.revisions[v].Revision)
		}
	}
}

// abandoned tells whether nothing of a service is left that could say when it stops.
func (b *board) abandoned(s *serviceInfo) bool {
	for _, p := range s.places {
		for _, t := range p.tasks {
			if !b.lost(t) && !state.Terminal(t.Status.State) {
				return false
			}
		}
	}
	return true
}

// network deletes a removed network when the last task has let go.
func (r *reaper) network(n *networkInfo) {
	if n.users > 0 {
		return
	}
	for _, s := range r.b.services {
		if s.service == nil {
			continue
		}
		for _, v := range s.service.Endpoint.VirtualIPs {
			if v.NetworkID == n.network.ID {
				return
			}
		}
	}
	r.b.together()
	r.b.drop(n.network)
	r.log.Info("network removed", "network", n.network.ID)
}
