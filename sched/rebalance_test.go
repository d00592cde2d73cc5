package sched

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/docker/docker/api/types/swarm"
	"pgregory.net/rapid"
)

// TestRebalance: whatever nodes come and go, a rebalance makes the fewest moves that bring the spread within 1, and the
// scheduler then does what was planned.
func TestRebalance(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		s := &scenario{world: newWorld(t), specs: map[string]map[string][]string{}}
		defer s.close()
		s.command([]string{"network", "front", "subnet=10.1.0.0/16"})
		n := rapid.IntRange(1, 6).Draw(r, "nodes")
		line := []string{"service", "web", "network=front", "parallelism=0", fmt.Sprintf("replicas=%d", rapid.IntRange(0, 20).Draw(r, "replicas")),
			"order=" + rapid.SampledFrom([]string{"", "start-first"}).Draw(r, "order")}
		zones := rapid.Bool().Draw(r, "zones")
		if zones {
			line = append(line, "prefer=node.labels.zone")
		}
		for range 3 {
			for i := range n {
				s.command([]string{"node", fmt.Sprintf("n%d", i), "label=zone=" + rapid.SampledFrom([]string{"a", "b", "c"}).Draw(r, "zone"),
					"availability=" + rapid.SampledFrom([]string{"active", "active", "active", "drain"}).Draw(r, "availability")})
			}
			s.command(line)
			s.work()
		}
		s.command([]string{"node", "n0", "availability=active"})
		s.work()
		s.advance(10 * defaultMonitor)
		before := s.perNode()
		plan, err := PlanRebalance(s.store.View(), "svc-web", s.clock.Now())
		if err != nil {
			r.Fatal(err)
		}
		if want := fewestMoves(before); !zones && len(plan) != want {
			r.Fatalf("%d moves, want %d: %v", len(plan), want, before)
		}
		s.command([]string{"rebalance", "web"})
		s.work()
		s.advance(10 * defaultMonitor)
		svc := s.store.View().Service("svc-web")
		if svc.Rebalance != nil || len(plan) > 0 && !inState(svc, swarm.UpdateStateCompleted) {
			r.Fatalf("not over: %+v %+v", svc.Rebalance, svc.UpdateStatus)
		}
		after := s.perNode()
		if again, err := PlanRebalance(s.store.View(), "svc-web", s.clock.Now()); err != nil || len(again) > 0 {
			r.Fatalf("moves %v left (%v): %v became %v", again, err, before, after)
		}
		if !zones && fewestMoves(after) > 0 {
			r.Fatalf("uneven: %v became %v", before, after)
		}
		checkBoard(r, s.world)
	})
}

// perNode counts the tasks of all active nodes.
func (s *scenario) perNode() map[string]int {
	count := map[string]int{}
	for id, n := range s.mind.board.nodes {
		if ready(n, nil) {
			count[id] = n.active
		}
	}
	return count
}

// fewestMoves is how many tasks have to move for the counts to differ by 1 at most.
func fewestMoves(count map[string]int) int {
	v := slices.Sorted(maps.Values(count))
	slices.Reverse(v)
	total := 0
	for _, n := range v {
		total += n
	}
	moves := 0
	for i, n := range v {
		share := total / len(v)
		if i < total%len(v) {
			share++
		}
		moves += max(0, n-share)
	}
	return moves
}
