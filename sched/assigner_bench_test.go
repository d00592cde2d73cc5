package sched

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

// crowd is a store with tasks in networks, each on a node of its own choice.
type crowd struct {
	testing.TB
	store    *state.Store
	watch    *state.Watch
	assigner *Assigner
	subs     []*Subscription
	nodes    int
	tasks    int
}

func newCrowd(b testing.TB, nodes, tasks, networks int) *crowd {
	c := &crowd{TB: b, store: state.New(), nodes: nodes, tasks: tasks}
	var ops []state.Op
	add := func(o state.Object) {
		if ops = append(ops, state.Op{Action: state.Create, Object: o}); len(ops) == 2000 {
			c.apply(ops)
			ops = nil
		}
	}
	for i := range networks {
		n := &state.Network{ID: networkID(i), IPAM: &swarm.IPAMOptions{Configs: []swarm.IPAMConfig{{Subnet: "10.0.0.0/8"}}}}
		n.Spec.Name = n.ID
		add(n)
		s := &state.Service{ID: fmt.Sprintf("service%018d", i), SpecVersion: 1}
		s.Spec.Name = fmt.Sprint("web", i)
		s.Spec.TaskTemplate.Networks = []swarm.NetworkAttachmentConfig{{Target: n.ID}}
		add(s)
		r := &state.Revision{ServiceID: s.ID, SpecVersion: 1}
		r.Spec.ContainerSpec = &swarm.ContainerSpec{Image: "app:1"}
		add(r)
	}
	for i := range nodes {
		add(&state.Node{ID: nodeID(i), Status: swarm.NodeStatus{State: swarm.NodeStateReady}})
	}
	for i := range tasks {
		addr := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		add(&state.Task{
			ID: taskID(i), ServiceID: fmt.Sprintf("service%018d", i%networks), ServiceName: fmt.Sprint("web", i%networks), SpecVersion: 1, Slot: i + 1,
			NodeID: nodeID(i % nodes), DesiredState: swarm.TaskStateRunning, Status: swarm.TaskStatus{State: swarm.TaskStateStarting},
			Networks: []state.Attachment{{NetworkID: networkID(i % networks), Addresses: []netip.Prefix{netip.PrefixFrom(addr, 8)}}},
		})
	}
	c.apply(ops)
	return c
}

func networkID(i int) string { return fmt.Sprintf("network%018d", i) }
func nodeID(i int) string    { return fmt.Sprintf("node%021d", i) }
func taskID(i int) string    { return fmt.Sprintf("task%021d", i) }

func (c *crowd) apply(ops []state.Op) {
	if err := c.store.Apply(c.store.Index()+1, state.Batch{Ops: ops, Time: time.Now()}); err != nil {
		c.Fatal(err)
	}
}

// follow starts an Assigner whose nodes have been told everything.
func (c *crowd) follow() {
	view, watch := c.store.ViewAndWatch()
	c.watch, c.assigner = watch, NewAssigner()
	c.Cleanup(watch.Close)
	c.assigner.Start(view)
	for i := range c.nodes {
		c.subs = append(c.subs, c.assigner.Subscribe(nodeID(i)))
		s := c.subs[i]
		s.epoch, s.at, s.holds = c.assigner.epoch, c.assigner.index, newNarrator(c.assigner, c.assigner.members[s.node]).holds
	}
}

// report lets n tasks from first on go on to a state, in one commit.
func (c *crowd) report(first, n int, to swarm.TaskState) {
	v := c.store.View()
	var ops []state.Op
	for i := range n {
		t := v.Task(taskID((first + i) % c.tasks)).Clone()
		t.Status.State, t.AppliedAt = to, time.Now()
		ops = append(ops, state.Op{Action: state.Update, Object: t, Expected: t.Modified})
	}
	c.apply(ops)
}

// flip goes to and fro between states that others see.
func flip(i int) swarm.TaskState {
	return []swarm.TaskState{swarm.TaskStateRunning, swarm.TaskStateStarting}[i%2]
}

// BenchmarkAssignments tells all nodes of one commit in which 200 tasks became visible to others, or stopped being so:
// through the Assigner, and by working out everything and comparing.
func BenchmarkAssignments(b *testing.B) {
	for _, size := range []struct{ nodes, tasks, networks int }{{1000, 20_000, 1}, {1000, 20_000, 100}, {10_000, 100_000, 100}} {
		name := fmt.Sprintf("%dx%d in %d networks", size.nodes, size.tasks, size.networks)
		b.Run("assigner/"+name, func(b *testing.B) {
			c := newCrowd(b, size.nodes, size.tasks, size.networks)
			c.follow()
			b.ResetTimer()
			var rows, concerned int
			for i := range b.N {
				b.StopTimer()
				c.report(0, 200, flip(i))
				commits, err := c.watch.Next(b.Context())
				if err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				concerned += len(c.assigner.Apply(commits))
				for _, s := range c.subs {
					u, _ := s.Next(false)
					rows += len(u.Set.Endpoints)
				}
			}
			b.ReportMetric(float64(rows)/float64(b.N), "rows/op")
			b.ReportMetric(float64(concerned)/float64(b.N), "nodes/op")
		})
		if size.nodes > 1000 {
			continue
		}
		b.Run("compare/"+name, func(b *testing.B) {
			c := newCrowd(b, size.nodes, size.tasks, size.networks)
			// One node in 50, times 50: everything for all nodes at once is gigabytes.
			const share = 50
			had := map[string]state.Assignments{}
			x := NewAssignIndex(c.store.View())
			for i := 0; i < size.nodes; i += share {
				had[nodeID(i)] = x.Assign(nodeID(i))
			}
			b.ResetTimer()
			var perNode time.Duration
			for i := range b.N {
				b.StopTimer()
				c.report(0, 200, flip(i))
				b.StartTimer()
				x := NewAssignIndex(c.store.View())
				start := time.Now()
				for id, was := range had {
					now := x.Assign(id)
					Diff(was, now)
					had[id] = now
				}
				perNode += time.Since(start)
			}
			b.ReportMetric(float64(perNode.Milliseconds()*(share-1)+b.Elapsed().Milliseconds())/float64(b.N), "ms/op-of-all-nodes")
		})
	}
}

// BenchmarkAssignerStart is what a new leader does first, and then for each of its nodes.
func BenchmarkAssignerStart(b *testing.B) {
	c := newCrowd(b, 1000, 100_000, 10)
	b.Run("start", func(b *testing.B) {
		for range b.N {
			NewAssigner().Start(c.store.View())
		}
	})
	c.follow()
	b.Run("node", func(b *testing.B) {
		for i := range b.N {
			c.subs[i%len(c.subs)].Next(true)
		}
	})
}
