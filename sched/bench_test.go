package sched

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

// BenchmarkSchedule places the tasks of one service.
func BenchmarkSchedule(b *testing.B) {
	for _, size := range []struct{ nodes, tasks int }{{1000, 1000}, {1000, 10_000}, {1000, 100_000}} {
		b.Run(fmt.Sprintf("%dx%d", size.nodes, size.tasks), func(b *testing.B) {
			for range b.N {
				b.StopTimer()
				board := benchBoard(size.nodes, size.tasks)
				s := &scheduler{b: board}
				board.begin(epoch)
				b.StartTimer()
				s.run()
				if len(board.unassigned) > 0 {
					b.Fatalf("%d tasks left", len(board.unassigned))
				}
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*size.tasks), "µs/task")
		})
	}
}

func benchBoard(nodes, tasks int) *board {
	b := newBoard(state.New().View(), epoch)
	for i := range nodes {
		b.set(&state.Node{ID: fmt.Sprintf("n%05d", i), Status: swarm.NodeStatus{State: swarm.NodeStateReady}})
	}
	b.set(&state.Service{ID: "web", SpecVersion: 1})
	b.set(&state.Revision{ServiceID: "web", SpecVersion: 1})
	for i := range tasks {
		b.set(&state.Task{
			ID: fmt.Sprintf("t%07d", i), ServiceID: "web", SpecVersion: 1, Slot: i + 1, DesiredState: swarm.TaskStateRunning,
			Status: swarm.TaskStatus{State: swarm.TaskStatePending},
		})
	}
	return b
}

// BenchmarkService takes a new service through the whole leader and an in-memory store: from its creation until all its
// tasks are assigned.
func BenchmarkService(b *testing.B) {
	for _, size := range []struct{ nodes, tasks int }{{10, 10}, {1000, 20_000}} {
		b.Run(fmt.Sprintf("%dx%d", size.nodes, size.tasks), func(b *testing.B) {
			for range b.N {
				b.StopTimer()
				w := benchWorld(b, size.nodes)
				w.settle()
				b.StartTimer()
				w.create("web", webSpec(uint64(size.tasks), "app:1"))
				w.settle()
				b.StopTimer()
				if n := len(w.mind.board.unassigned) + len(w.mind.board.unallocated); n > 0 || len(w.mind.board.tasks) != size.tasks {
					b.Fatalf("%d of %d tasks left", n, len(w.mind.board.tasks))
				}
				w.close()
			}
		})
	}
}

// BenchmarkAssign works out the assignments of all nodes for one view, and how they changed since the last.
func BenchmarkAssign(b *testing.B) {
	w := benchWorld(b, 100)
	defer w.close()
	w.create("web", webSpec(5000, "app:1"))
	w.work()
	had := NewAssignIndex(w.store.View())
	w.report(w.mind.board.services["web"].tasksIn(state.Place{Slot: 1})[0].ID, swarm.TaskStateFailed, "so it goes")
	w.settle()
	b.ResetTimer()
	for range b.N {
		x := NewAssignIndex(w.store.View())
		for i := range 100 {
			n := fmt.Sprintf("n%05d", i)
			if _, _, changed := Diff(had.Assign(n), x.Assign(n)); !changed {
				b.Fatal("nothing changed")
			}
		}
	}
}

func benchWorld(b *testing.B, nodes int) *world {
	w := newWorld(b)
	w.apply(state.Op{Action: state.Create, Object: &state.Network{ID: "front", Spec: swarm.NetworkSpec{
		Annotations: swarm.Annotations{Name: "front"}, IPAMOptions: &swarm.IPAMOptions{Configs: []swarm.IPAMConfig{{Subnet: "10.64.0.0/12"}}},
	}}})
	for i := range nodes {
		w.apply(state.Op{Action: state.Create, Object: &state.Node{ID: fmt.Sprintf("n%05d", i), Status: swarm.NodeStatus{State: swarm.NodeStateReady}}})
	}
	return w
}

// BenchmarkBoard is what a leader pays to begin: a board from the store, and its memory.
func BenchmarkBoard(b *testing.B) {
	const tasks = 20_000
	w := benchWorld(b, 1000)
	defer w.close()
	w.create("web", webSpec(tasks, "app:1"))
	w.settle()
	view := w.store.View()
	var before, after runtime.MemStats
	var board *board
	b.ResetTimer()
	for range b.N {
		board = nil
		runtime.GC()
		runtime.ReadMemStats(&before)
		board = newBoard(view, epoch)
		runtime.GC()
		runtime.ReadMemStats(&after)
	}
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/tasks, "B/task")
	runtime.KeepAlive(board)
}
