package dispatch

import (
	"cmp"
	"slices"
	"sync"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

// maxBatchText bounds one batch of statuses, well below what the leader takes as one message.
const maxBatchText = 512 << 10

// outbox keeps what the leader does not yet have: the latest status of each task.
type outbox struct {
	wake chan struct{} // there may be something to take

	mu      sync.Mutex
	gen     uint64
	latest  map[string]entry
	flying  map[string]uint64 // generations in the batch that was not answered yet, by task
	batch   uint64
	waiting bool // for the answer
}

type entry struct {
	status swarm.TaskStatus
	gen    uint64
}

func newOutbox() *outbox { return &outbox{wake: make(chan struct{}, 1), latest: map[string]entry{}} }

// put notes a status. One that says less than what is waiting already is dropped.
func (o *outbox) put(taskID string, st swarm.TaskStatus) {
	st = trim(st)
	o.mu.Lock()
	old, ok := o.latest[taskID]
	if !ok || state.Rank(st.State) >= state.Rank(old.status.State) {
		o.gen++
		o.latest[taskID] = entry{st, o.gen}
	}
	o.mu.Unlock()
	o.poke()
}

func (o *outbox) poke() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// take gives the next batch, oldest statuses first, or nothing while one is on its way.
func (o *outbox) take() (batch uint64, statuses []TaskStatus) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.waiting || len(o.latest) == 0 {
		return 0, nil
	}
	ids := make([]string, 0, len(o.latest))
	for id := range o.latest {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b string) int { return cmp.Compare(o.latest[a].gen, o.latest[b].gen) })
	o.flying = map[string]uint64{}
	size := 0
	for _, id := range ids {
		e := o.latest[id]
		size += len(e.status.Message) + len(e.status.Err) + 1<<10
		if len(statuses) == maxOps || (size > maxBatchText && len(statuses) > 0) {
			break
		}
		statuses = append(statuses, TaskStatus{TaskID: id, Status: e.status})
		o.flying[id] = e.gen
	}
	o.batch++
	o.waiting = true
	return o.batch, statuses
}

// ack forgets what was in a batch, except statuses that have changed since.
func (o *outbox) ack(batch uint64) {
	o.mu.Lock()
	if o.waiting && batch == o.batch {
		for id, gen := range o.flying {
			if o.latest[id].gen == gen {
				delete(o.latest, id)
			}
		}
		o.flying, o.waiting = nil, false
	}
	more := len(o.latest) > 0
	o.mu.Unlock()
	if more {
		o.poke()
	}
}

// reset is for a new session: nothing is on its way.
func (o *outbox) reset() {
	o.mu.Lock()
	o.flying, o.waiting = nil, false
	o.mu.Unlock()
	o.poke()
}

// size is the number of statuses that the leader does not have yet.
func (o *outbox) size() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.latest)
}
