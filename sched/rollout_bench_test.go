package sched

import (
	"fmt"
	"testing"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

// BenchmarkRollout updates all replicas of one service, parallelism at a time, while others run. What is measured is the
// leader with an in-memory store, not the nodes.
func BenchmarkRollout(b *testing.B) {
	for _, size := range []struct{ replicas, parallelism int }{{1000, 20}, {5000, 20}, {5000, 100}} {
		b.Run(fmt.Sprintf("%d-by-%d", size.replicas, size.parallelism), func(b *testing.B) {
			w := benchWorld(b, 200)
			defer w.close()
			other := webSpec(10_000, "app:1")
			other.Name = "other"
			w.create("other", other)
			w.create("web", webSpec(uint64(size.replicas), "app:0"))
			w.work()
			w.advance(10 * defaultMonitor)
			b.ResetTimer()
			for i := range b.N {
				spec := webSpec(uint64(size.replicas), fmt.Sprintf("app:%d", i+1))
				spec.UpdateConfig = &swarm.UpdateConfig{Parallelism: uint64(size.parallelism)}
				w.updateService(w.store.View().Service("web"), spec)
				w.settle()
				for !inState(w.store.View().Service("web"), swarm.UpdateStateCompleted) {
					b.StopTimer()
					did := w.obey("web")
					b.StartTimer()
					if w.settle(); !did {
						w.advance(2 * defaultMonitor)
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*size.replicas), "µs/replica")
		})
	}
}

// obey has the nodes do the next thing that a service's tasks are told; false if there is none.
func (w *world) obey(service string) bool {
	did := false
	for _, t := range w.store.View().TasksByService(service) {
		if state.Terminal(t.Status.State) || state.Rank(t.Status.State) < state.Rank(swarm.TaskStateAssigned) {
			continue
		}
		switch desired := state.Rank(t.DesiredState); {
		case desired >= state.Rank(swarm.TaskStateShutdown):
			did = w.report(t.ID, swarm.TaskStateShutdown, "shutdown") || did
		case desired == state.Rank(swarm.TaskStateReady):
			did = w.report(t.ID, swarm.TaskStateReady, "prepared") || did
		default:
			did = w.report(t.ID, swarm.TaskStateRunning, "started") || did
		}
	}
	return did
}
