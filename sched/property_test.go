package sched

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/swarm"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/meshswarm/meshswarm/raft/state"
)

// TestSchedulerProperties: whatever the nodes and services, the scheduler comes to rest, never takes more of a node than
// it has, leaves nothing pending that fits, explains the rest, and does the same again.
func TestSchedulerProperties(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		var lines [][]string
		for i := range rapid.IntRange(0, 6).Draw(r, "nodes") {
			lines = append(lines, []string{"node", fmt.Sprintf("n%d", i),
				fmt.Sprintf("cpus=%d", rapid.IntRange(0, 4).Draw(r, "cpus")), fmt.Sprintf("mem=%d", rapid.IntRange(0, 8).Draw(r, "mem")),
				"label=zone=" + rapid.SampledFrom([]string{"a", "b"}).Draw(r, "zone"),
				"availability=" + rapid.SampledFrom([]string{"active", "active", "active", "pause", "drain"}).Draw(r, "availability"),
			})
		}
		lines = append(lines, []string{"network", "front", "subnet=10.1.0.0/16"})
		for i := range rapid.IntRange(1, 4).Draw(r, "services") {
			line := []string{"service", fmt.Sprintf("s%d", i), "network=front", fmt.Sprintf("replicas=%d", rapid.IntRange(0, 9).Draw(r, "replicas")),
				fmt.Sprintf("cpus=%d", rapid.IntRange(0, 2).Draw(r, "reserved")), fmt.Sprintf("mem=%d", rapid.IntRange(0, 3).Draw(r, "reserved")),
				fmt.Sprintf("per-node=%d", rapid.IntRange(0, 2).Draw(r, "per-node")),
			}
			if rapid.Bool().Draw(r, "constrained") {
				line = append(line, "constraint=node.labels.zone==a")
			}
			if rapid.IntRange(0, 3).Draw(r, "port") == 0 {
				line = append(line, "port=8080:80/host")
			}
			lines = append(lines, line)
		}
		run := func() (*scenario, map[string]string) {
			s := &scenario{world: newWorld(t), specs: map[string]map[string][]string{}}
			for _, l := range lines {
				s.command(l)
			}
			s.settle()
			where := map[string]string{}
			for _, task := range s.store.View().Tasks() {
				where[task.ID] = task.NodeID + task.Status.Err
			}
			return s, where
		}
		s, first := run()
		defer s.close()
		checkPlacement(r, s.world)
		checkBoard(r, s.world)
		again, second := run()
		again.close()
		if d := cmp.Diff(first, second); d != "" {
			r.Fatalf("another result the second time:\n%s", d)
		}
	})
}

// checkPlacement looks at the store alone.
func checkPlacement(r *rapid.T, w *world) {
	b := newBoard(w.store.View(), w.clock.Now())
	for id, n := range b.nodes {
		res := n.node.Description.Resources
		if n.cpu > res.NanoCPUs || n.memory > res.MemoryBytes {
			r.Fatalf("node %s has more than it can take: %d of %d CPUs, %d of %d bytes", id, n.cpu, res.NanoCPUs, n.memory, res.MemoryBytes)
		}
		for p, users := range n.ports {
			if users > 1 {
				r.Fatalf("node %s: port %v has %d users", id, p, users)
			}
		}
	}
	for _, t := range b.tasks {
		switch {
		case t.NodeID != "":
			n := b.nodes[t.NodeID]
			if !ready(n, nil) || !t.rev.constraints.match(n.node) || t.rev.maxReplicas > 0 && uint64(n.by[t.ServiceID]) > t.rev.maxReplicas {
				r.Fatalf("task %s must not be on node %s", t.ID, t.NodeID)
			}
		case !strings.HasPrefix(t.Status.Err, "no suitable node"):
			r.Fatalf("task %s waits without a reason: %+v", t.ID, t.Status)
		default:
			for id, n := range b.nodes {
				if newJudge(t.rev, w.clock.Now()).fits(n) {
					r.Fatalf("task %s waits (%s) though node %s would take it", t.ID, t.Status.Err, id)
				}
			}
		}
	}
}

// TestSpread: on nodes that are alike a service spreads within 1, and so do all services together.
func TestSpread(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		s := &scenario{world: newWorld(t), specs: map[string]map[string][]string{}}
		defer s.close()
		for i := range rapid.IntRange(1, 7).Draw(r, "nodes") {
			s.command([]string{"node", fmt.Sprintf("n%d", i)})
		}
		s.command([]string{"network", "front", "subnet=10.1.0.0/16"})
		for i := range rapid.IntRange(1, 4).Draw(r, "services") {
			s.command([]string{"service", fmt.Sprintf("s%d", i), "network=front", fmt.Sprintf("replicas=%d", rapid.IntRange(0, 20).Draw(r, "replicas"))})
			s.settle()
		}
		total := map[string]int{}
		b := s.mind.board
		for id, n := range b.nodes {
			total[id] = n.active
		}
		for id := range b.services {
			by := map[string]int{}
			for n, i := range b.nodes {
				by[n] = i.by[id]
			}
			within1(r, id, by)
		}
		within1(r, "all", total)
	})
}

func within1(r *rapid.T, what string, count map[string]int) {
	v := slices.Collect(maps.Values(count))
	if slices.Max(v)-slices.Min(v) > 1 {
		r.Fatalf("%s: uneven: %v", what, count)
	}
}

// checkBoard compares the board that grew with the changes with one made from the store.
func checkBoard(r *rapid.T, w *world) {
	got, want := w.mind.board, newBoard(w.store.View(), w.clock.Now())
	for _, id := range slices.Concat(sorted(got.nodes), sorted(want.nodes)) {
		g, x := got.nodes[id], want.nodes[id]
		if g == nil || x == nil {
			r.Fatalf("node %s: on the board %v, in the store %v", id, g != nil, x != nil)
		}
		if g.active != x.active || g.cpu != x.cpu || g.memory != x.memory || len(g.tasks) != len(x.tasks) {
			r.Fatalf("node %s: board counts %d active, %d cpu, %d memory, %d tasks; store %d, %d, %d, %d", id,
				g.active, g.cpu, g.memory, len(g.tasks), x.active, x.cpu, x.memory, len(x.tasks))
		}
		if d := cmp.Diff(x.by, g.by); d != "" {
			r.Fatalf("node %s: tasks by service: %s", id, d)
		}
		for p, n := range g.ports {
			if n != x.ports[p] {
				r.Fatalf("node %s: port %v: %d users, want %d", id, p, n, x.ports[p])
			}
		}
	}
	for _, id := range slices.Concat(sorted(got.networks), sorted(want.networks)) {
		g, x := got.networks[id], want.networks[id]
		if g == nil || x == nil || g.users != x.users {
			r.Fatalf("network %s differs from the store", id)
		}
		for i := range x.pools {
			if d := cmp.Diff(x.pools[i].used, g.pools[i].used, cmpopts.EquateComparable()); d != "" {
				r.Fatalf("network %s: addresses in use (-store +board):\n%s", id, d)
			}
		}
	}
	for name, sets := range map[string][2]set{
		"unallocated": {want.unallocated, got.unallocated}, "unassigned": {want.unassigned.ids(), got.unassigned.ids()}, "reapable": {want.reapable, got.reapable},
		"netless": {want.netless, got.netless}, "doomed": {want.doomed, got.doomed}, "meshless": {want.meshless, got.meshless},
	} {
		if d := cmp.Diff(sets[0], sets[1], cmpopts.EquateEmpty()); d != "" {
			r.Fatalf("%s (-store +board):\n%s", name, d)
		}
	}
	for id, x := range want.services {
		checkPlaces(r, want, got.services[id], x)
	}
	if d := cmp.Diff(want.ports, got.ports, cmpopts.EquateEmpty(), cmpopts.EquateComparable(portKey{})); d != "" {
		r.Fatalf("published ports (-store +board):\n%s", d)
	}
	if len(got.tasks) != len(want.tasks) || len(got.services) != len(want.services) {
		r.Fatalf("board has %d tasks and %d services, store %d and %d", len(got.tasks), len(got.services), len(want.tasks), len(want.services))
	}
}

// checkAddresses: nothing is given twice, and everything is inside its subnet.
func checkAddresses(r *rapid.T, v state.View) {
	owners := map[string]string{}
	take := func(network, addr, owner string) {
		k := network + " " + addr
		if o := owners[k]; o != "" {
			r.Fatalf("%s belongs to %s and %s", k, o, owner)
		}
		owners[k] = owner
	}
	subnets := map[string]*networkInfo{}
	for _, n := range v.Networks() {
		i := &networkInfo{network: n}
		i.makePools()
		subnets[n.ID] = i
		for _, p := range i.pools {
			for _, o := range subnets {
				for _, q := range o.pools {
					if o != i && p.subnet.Overlaps(q.subnet) {
						r.Fatalf("networks %s and %s overlap", i.name(), o.name())
					}
				}
			}
		}
		if n.IPAM != nil {
			for _, c := range n.IPAM.Configs {
				take(n.ID, addrOf(c.Gateway).String(), "gateway")
			}
		}
	}
	for _, s := range v.Services() {
		for _, p := range s.Endpoint.VirtualIPs {
			take(p.NetworkID, addrOf(p.Addr).String(), "service "+s.ID)
		}
	}
	for _, t := range v.Tasks() {
		if state.Terminal(t.Status.State) {
			continue
		}
		if state.Rank(t.Status.State) >= state.Rank(swarm.TaskStatePending) && len(t.Networks) == 0 {
			r.Fatalf("task %s has no network", t.ID)
		}
		for _, a := range t.Networks {
			for _, p := range a.Addresses {
				take(a.NetworkID, p.Addr().String(), "task "+t.ID)
				if n := subnets[a.NetworkID]; n != nil && !slices.ContainsFunc(n.pools, func(q *pool) bool { return q.holds(p.Addr()) && q.subnet.Bits() == p.Bits() }) {
					r.Fatalf("task %s: %s is not in network %s", t.ID, p, n.name())
				}
			}
		}
	}
}
