package dispatch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

const (
	// reportGap is the time between two batches that are not full, when there were more than reportBurst in a short while:
	// statuses that arrive meanwhile share the next one.
	reportGap   = 20 * time.Millisecond
	reportBurst = 16
	// maxStatusText bounds a status' message and error.
	maxStatusText = 2 << 10
	maxPorts      = 64
)

// report is one message with statuses. done is called when they are in the store, or not worth it.
type report struct {
	node     string
	statuses []TaskStatus
	done     func()
}

// inbox holds the reports that wait for the collector. A node sends its next one only after the last was acknowledged, so
// there is at most one per session; who does not keep to that is refused.
type inbox struct {
	ready chan struct{} // there is something
	full  chan struct{} // there is a whole batch

	mu      sync.Mutex
	reports []report
	total   int            // statuses in reports
	waiting map[string]int // reports by node
}

func newInbox() *inbox {
	return &inbox{ready: make(chan struct{}, 1), full: make(chan struct{}, 1), waiting: map[string]int{}}
}

// maxWaiting allows for sessions that replaced each other.
const maxWaiting = 4

func (i *inbox) put(r report) error {
	if len(r.statuses) > maxOps {
		return fmt.Errorf("node reports %d statuses at once, at most %d", len(r.statuses), maxOps)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.waiting[r.node] >= maxWaiting {
		return errors.New("node reports without waiting for the answer")
	}
	i.waiting[r.node]++
	i.reports = append(i.reports, r)
	i.total += len(r.statuses)
	i.signal()
	return nil
}

// signal says what there is. It needs mu.
func (i *inbox) signal() {
	if len(i.reports) > 0 {
		select {
		case i.ready <- struct{}{}:
		default:
		}
	}
	if i.total >= maxOps {
		select {
		case i.full <- struct{}{}:
		default:
		}
	}
}

// take removes the oldest reports, of at most maxOps statuses together.
func (i *inbox) take() []report {
	i.mu.Lock()
	defer i.mu.Unlock()
	n, total := 0, 0
	for ; n < len(i.reports); n++ {
		r := i.reports[n]
		if total += len(r.statuses); total > maxOps && n > 0 {
			break
		}
		if i.waiting[r.node]--; i.waiting[r.node] == 0 {
			delete(i.waiting, r.node)
		}
	}
	taken := i.reports[:n:n]
	i.reports = append([]report(nil), i.reports[n:]...)
	for _, r := range taken {
		i.total -= len(r.statuses)
	}
	select {
	case <-i.full: // it was said of what is taken now
	default:
	}
	i.signal()
	return taken
}

// collect writes reports into the store: at once when it has been quiet or there is a batch full of them, in batches
// otherwise.
func (t *term) collect(ctx context.Context) error {
	batches := pace{gap: reportGap, burst: reportBurst}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.inbox.ready:
		}
		if wait := batches.wait(time.Now()); wait > 0 {
			timer := time.NewTimer(wait)
			select {
			case <-ctx.Done():
			case <-t.inbox.full:
			case <-timer.C:
			}
			timer.Stop()
		}
		reports := t.inbox.take()
		if len(reports) == 0 {
			continue
		}
		if err := t.store(ctx, reports); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		batches.took(time.Now(), reportGap)
		for _, r := range reports {
			r.done()
		}
	}
}

// store proposes what reports change, until it is in.
func (t *term) store(ctx context.Context, reports []report) error {
	start := time.Now()
	for {
		batch := t.changes(reports)
		if len(batch.Ops) == 0 {
			return nil
		}
		_, err := t.cfg.Proposer.Propose(ctx, batch)
		switch {
		case err == nil:
			t.metrics.statuses.Add(float64(len(batch.Ops)))
			t.metrics.store.Observe(time.Since(start).Seconds())
			return nil
		case retry(err):
		case errors.Is(err, state.ErrTooLarge) && split(&reports):
			return t.storeHalves(ctx, reports)
		default:
			return fmt.Errorf("store statuses: %w", err)
		}
	}
}

// split makes two reports of a single one; false when there is nothing to split.
func split(reports *[]report) bool {
	if len(*reports) > 1 {
		return true
	}
	r := (*reports)[0]
	n := len(r.statuses) / 2
	if n == 0 {
		return false
	}
	*reports = []report{{node: r.node, statuses: r.statuses[:n]}, {node: r.node, statuses: r.statuses[n:]}}
	return true
}

func (t *term) storeHalves(ctx context.Context, reports []report) error {
	half := len(reports) / 2
	if err := t.store(ctx, reports[:half]); err != nil {
		return err
	}
	return t.store(ctx, reports[half:])
}

// changes holds reports against the store as it is now.
func (t *term) changes(reports []report) state.Batch {
	view := t.cfg.Store.View()
	batch := state.Batch{Time: t.cfg.Clock.Now()}
	place := map[string]int{} // index of the task's op
	for _, r := range reports {
		for _, st := range r.statuses {
			task := view.Task(st.TaskID)
			i, again := place[st.TaskID]
			if again {
				task = batch.Ops[i].Object.(*state.Task)
			}
			next, verdict := accept(task, r.node, st.Status)
			if verdict == verdictForeign {
				t.log.Warn("status refused: the task is not of this node", "node", r.node, "task", clip(st.TaskID, 64))
			}
			if verdict != verdictNews {
				t.metrics.dropped.WithLabelValues(string(verdict)).Inc()
				continue
			}
			next.AppliedAt = batch.Time
			if st.Status.State == swarm.TaskStateRunning && next.RunningAt.IsZero() {
				next.RunningAt = batch.Time
			}
			if again {
				batch.Ops[i].Object = next
				continue
			}
			place[st.TaskID] = len(batch.Ops)
			batch.Ops = append(batch.Ops, state.Op{Action: state.Update, Object: next, Expected: task.Modified})
		}
	}
	return batch
}

type verdict string

const (
	verdictNews    verdict = "news"
	verdictGone    verdict = "gone"    // there is no such task (any more)
	verdictForeign verdict = "foreign" // the task is another node's
	verdictStale   verdict = "stale"   // the store knows that or more
	verdictInvalid verdict = "invalid" // not for a node to say
)

// reportable are the states that a node may report; the others are the leader's.
var reportable = map[swarm.TaskState]bool{
	swarm.TaskStateAccepted: true, swarm.TaskStatePreparing: true, swarm.TaskStateReady: true, swarm.TaskStateStarting: true,
	swarm.TaskStateRunning: true, swarm.TaskStateComplete: true, swarm.TaskStateShutdown: true, swarm.TaskStateFailed: true,
	swarm.TaskStateRejected: true, swarm.TaskStateRemove: true,
}

// accept judges one status of one node, and gives the task as it should be stored if the status is news.
func accept(task *state.Task, node string, st swarm.TaskStatus) (*state.Task, verdict) {
	switch {
	case task == nil:
		return nil, verdictGone
	case task.NodeID != node:
		return nil, verdictForeign
	case !reportable[st.State]:
		return nil, verdictInvalid
	}
	now, next := state.Rank(task.Status.State), state.Rank(st.State)
	ended := state.Terminal(task.Status.State) && st.State != swarm.TaskStateRemove
	if next < now || (next > now && ended) {
		return nil, verdictStale
	}
	st = trim(st)
	if next == now && (st.Timestamp.Before(task.Status.Timestamp) || sameStatus(st, task.Status)) {
		return nil, verdictStale
	}
	task = task.Clone()
	task.Status = st
	return task, verdictNews
}

// trim bounds what a node may put into the store.
func trim(st swarm.TaskStatus) swarm.TaskStatus {
	st.Message, st.Err = clip(st.Message, maxStatusText), clip(st.Err, maxStatusText)
	if c := st.ContainerStatus; c != nil {
		c := *c
		c.ContainerID = clip(c.ContainerID, 128)
		st.ContainerStatus = &c
	}
	if len(st.PortStatus.Ports) > maxPorts {
		st.PortStatus.Ports = st.PortStatus.Ports[:maxPorts]
	}
	return st
}

// sameStatus compares all but the time.
func sameStatus(a, b swarm.TaskStatus) bool {
	a.Timestamp, b.Timestamp = time.Time{}, time.Time{}
	return sameJSON(a, b)
}

// sameJSON tells whether two values are stored alike: an absent list equals an empty one.
func sameJSON(a, b any) bool {
	x, errA := json.Marshal(a)
	y, errB := json.Marshal(b)
	return errA == nil && errB == nil && bytes.Equal(x, y)
}
