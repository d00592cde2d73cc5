package sched

import (
	"fmt"
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
