package sched

import (
	"maps"
	"slices"
	"time"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

const (
	// A node on which this many tasks of one revision failed within failureWindow is chosen last.
	maxFailures   = 5
	failureWindow = 5 * time.Minute
	// orphanAfter is how long a node may be down before its tasks are given up.
	orphanAfter = 24 * time.Hour
)

// nodeInfo is a node with what its tasks use of it. The node is nil when it was removed and still has tasks.
type nodeInfo struct {
	id      string
	node    *state.Node
	tasks   map[string]*taskInfo
	active  int            // tasks that shall run
	by      map[string]int // of them, by service ID
	cpu     int64          // reserved by tasks that have not ended
	memory  int64
	generic genericStock    // generic resources that it has, and what is used of them
	ports   map[portKey]int // host-mode ports in use
	hold    time.Time       // until when it is held down

	failures map[revisionKey][]time.Time // oldest first
}

type revisionKey struct {
	service string
	version uint64
}

// node finds or makes the entry of a node.
func (b *board) node(id string) *nodeInfo {
	n := b.nodes[id]
	if n == nil {
		n = &nodeInfo{
			id: id, tasks: map[string]*taskInfo{}, by: map[string]int{},
			ports: map[portKey]int{}, failures: map[revisionKey][]time.Time{},
		}
		b.nodes[id] = n
	}
	return n
}

func (b *board) setNode(id string, n *state.Node) {
	i := b.node(id)
	old := i.node
	i.node = n
	b.nodeChanged(id, old, i)
	i.hold = time.Time{}
	delete(b.held, id)
	if n != nil {
		i.generic.offer(n.Description.Resources.GenericResources)
		if i.hold = holdEnd(n.Downs); i.hold.After(b.now) {
			b.held[id] = i.hold
		}
	}
	b.capacity = true
	b.freed = b.freed || len(b.netless) > 0 // the prefixes of its host may have changed
	if old != nil && b.mesh != nil {
		b.mesh.give(old.Mesh.Addr, id)
	}
	delete(b.meshless, id)
	delete(b.desert, id)
	delete(b.deserted, id)
	if n == nil {
		if len(i.tasks) == 0 {
			delete(b.nodes, id)
			return
		}
		b.deserted[id] = struct{}{}
	} else {
		if b.mesh != nil {
			b.mesh.take(n.Mesh.Addr, id, n.CreatedAt)
		}
		if !n.Mesh.Addr.IsValid() {
			b.meshless[id] = struct{}{}
		}
		if down(n) && !n.Down.IsZero() {
			b.desert[id] = n.Down.Add(orphanAfter)
		}
	}
}

func down(n *state.Node) bool { return n.Status.State == swarm.NodeStateDown }

func drained(n *state.Node) bool { return n.Spec.Availability == swarm.NodeAvailabilityDrain }

// lost tells whether nobody can say any more what a task does: its node is down or gone.
func (b *board) lost(t *state.Task) bool {
	if t.NodeID == "" {
		return false
	}
	n := b.nodes[t.NodeID]
	return n == nil || n.node == nil || down(n.node)
}

func (n *nodeInfo) add(t *taskInfo) {
	n.tasks[t.ID] = t
	n.count(t, 1)
	n.note(t.Task)
}

// note remembers a task that failed.
func (n *nodeInfo) note(t *state.Task) {
	if s := t.Status.State; s == swarm.TaskStateFailed || s == swarm.TaskStateRejected {
		n.failed(revisionKey{t.ServiceID, t.SpecVersion}, endedAt(t))
	}
}

func (n *nodeInfo) remove(t *taskInfo) {
	delete(n.tasks, t.ID)
	n.count(t, -1)
}

func (n *nodeInfo) count(t *taskInfo, by int) {
	if preassigned(t.Task) {
		return
	}
	if live(t.Task) {
		n.active += by
		n.by[t.ServiceID] += by
		if n.by[t.ServiceID] == 0 {
			delete(n.by, t.ServiceID)
		}
	}
	if state.Terminal(t.Status.State) {
		return
	}
	if len(t.GenericResources) > 0 || t.rev != nil && len(t.rev.generic) > 0 {
		n.generic.use(t.Task, t.rev, by)
	}
	if t.rev == nil {
		return
	}
	n.cpu += int64(by) * t.rev.cpu
	n.memory += int64(by) * t.rev.memory
	for _, p := range t.rev.hostPorts {
		n.ports[p] += by
	}
}

// failed notes a failure; the same one may be noted again.
func (n *nodeInfo) failed(k revisionKey, at time.Time) {
	list := n.failures[k]
	i, known := slices.BinarySearchFunc(list, at, time.Time.Compare)
	if known {
		return
	}
	if len(list) == 0 { // what nobody asks for any more is forgotten here
		maps.DeleteFunc(n.failures, func(_ revisionKey, l []time.Time) bool { return at.Sub(l[len(l)-1]) > failureWindow })
	}
	list = slices.Insert(list, i, at)
	n.failures[k] = list[max(0, len(list)-maxFailures*2):]
}

// recentFailures counts, and forgets what is too old to count.
func (n *nodeInfo) recentFailures(k revisionKey, now time.Time) int {
	list := n.failures[k]
	for len(list) > 0 && now.Sub(list[0]) > failureWindow {
		list = list[1:]
	}
	if len(list) == 0 {
		delete(n.failures, k)
	} else {
		n.failures[k] = list
	}
	return len(list)
}

// endedAt is when the leader learned that a task had ended, or else when its node says so.
func endedAt(t *state.Task) time.Time {
	if !t.AppliedAt.IsZero() {
		return t.AppliedAt
	}
	return t.Status.Timestamp
}
