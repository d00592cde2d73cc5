package dispatch

import (
	"reflect"
	"testing"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
	"github.com/meshswarm/meshswarm/sched"
)

// The session with sched's own functions: what the node puts together from deltas is what sched.Assign says.
func TestWithSched(t *testing.T) {
	f := newSwarm(t)
	m := f.startManager("m1", func(c *Config) {
		c.Index = func(v state.View) func(string) state.Assignments { return sched.NewAssignIndex(v).Assign }
		c.Diff = sched.Diff
	}).lead()
	n := f.startNode("n1", m)
	f.becomes("n1", swarm.NodeStateReady)
	for i, id := range []string{"t1", "t2", "t3"} {
		f.addTask(id, "n1", swarm.TaskStateAssigned)
		eventually(t, "task "+id, func() bool { n.mu.Lock(); defer n.mu.Unlock(); return len(n.last.Tasks) == i+1 })
	}
	f.propose(state.Op{Action: state.Delete, Object: f.store.View().Task("t2")})
	want := sched.Assign(f.store.View(), "n1")
	eventually(t, "same assignments", func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		return len(n.last.Tasks) == 2 && reflect.DeepEqual(n.last.Nodes, want.Nodes)
	})
}
