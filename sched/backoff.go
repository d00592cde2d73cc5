package sched

import (
	"fmt"
	"time"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

// A task that ends by itself sooner than crashTime after it ran, or without having run, crashed. The first freeCrashes
// restarts in a row wait as long as the restart policy says; then the wait doubles, up to mostBackoff. A policy that
// limits the attempts is followed to the letter.
const (
	crashTime    = 10 * time.Second
	freeCrashes  = 3
	leastBackoff = time.Second
	mostBackoff  = 5 * time.Minute
)

// crashed tells whether a task ended by itself soon after its start.
func crashed(t *state.Task) bool {
	return endedItself(t) && (t.RunningAt.IsZero() || endedAt(t).Sub(t.RunningAt) < crashTime)
}

// crashesAfter is how many tasks in a row crashed, counted for the one that follows t.
func (s *serviceInfo) crashesAfter(t *state.Task) uint32 {
	if !crashed(t) || t.SpecVersion != s.service.SpecVersion {
		return 0
	}
	return t.Crashes + 1
}

// restartAfter is how long a task waits that follows so many crashes.
func (i *revisionInfo) restartAfter(crashes uint32) time.Duration {
	d := i.restartDelay()
	if !i.backsOff(crashes) {
		return d
	}
	most := max(d, mostBackoff)
	d = max(d, leastBackoff)
	for n := crashes - freeCrashes; n > 0 && d < most; n-- {
		d *= 2
	}
	return min(d, most)
}

// backsOff tells whether a task that follows so many crashes waits longer than the policy says.
func (i *revisionInfo) backsOff(crashes uint32) bool {
	return crashes > freeCrashes && i.maxAttempts() == 0
}

// announce says once, in the status of a task that is held back by crashes, how long.
func (o *orchestrator) announce(s *serviceInfo, t *state.Task, until time.Time) {
	p := s.places[t.Place()]
	if t.Status.State != swarm.TaskStateReady || p.told == t.ID || !s.revisions[t.SpecVersion].backsOff(t.Crashes) {
		return
	}
	p.told = t.ID
	wait := until.Sub(o.b.now).Round(time.Second)
	o.b.together()
	o.b.setStatus(t, t.Status.State, fmt.Sprintf("restart in %s: crashed %d times in a row", wait, t.Crashes), t.Status.Err)
}
