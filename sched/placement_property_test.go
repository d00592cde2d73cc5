package sched

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/docker/docker/api/types/swarm"
	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/meshswarm/meshswarm/raft/state"
)

// stage is a cluster and services of any kind, for the scheduler alone.
type stage struct {
	nodes     []*state.Node
	revisions []*state.Revision
	tasks     []*state.Task
}

// drawStage makes nodes with little room, and services that want much of it.
func drawStage(r *rapid.T) *stage {
	st := &stage{}
	draw := func(what string, from, to int) int { return rapid.IntRange(from, to).Draw(r, what) }
	for i := range draw("nodes", 1, 8) {
		n := &state.Node{ID: fmt.Sprintf("n%d", i), Status: swarm.NodeStatus{State: swarm.NodeStateReady}}
		n.Spec.Labels = map[string]string{}
		for _, label := range []string{"zone", "rack"} {
			if v := draw(label, 0, 3); v > 0 {
				n.Spec.Labels[label] = fmt.Sprint(v)
			}
		}
		if draw("state", 0, 9) == 0 {
			n.Status.State = swarm.NodeStateDown
		}
		res := &n.Description.Resources
		res.NanoCPUs, res.MemoryBytes = int64(draw("cpu", 0, 6)), int64(draw("memory", 0, 6))
		if discrete := draw("discrete", 0, 4); discrete > 0 {
			res.GenericResources = append(res.GenericResources, swarm.GenericResource{DiscreteResourceSpec: &swarm.DiscreteGenericResource{Kind: "SSD", Value: int64(discrete)}})
		}
		for g := range draw("named", 0, 4) {
			res.GenericResources = append(res.GenericResources, swarm.GenericResource{NamedResourceSpec: &swarm.NamedGenericResource{Kind: "GPU", Value: fmt.Sprint("id", g)}})
		}
		st.nodes = append(st.nodes, n)
	}
	for i := range draw("services", 1, 5) {
		rev := &state.Revision{ServiceID: fmt.Sprintf("s%d", i), SpecVersion: 1}
		res := &swarm.Resources{NanoCPUs: int64(draw("cpu", 0, 2)), MemoryBytes: int64(draw("memory", 0, 2))}
		for _, kind := range []string{"GPU", "ssd"} {
			if n := draw(kind, -2, 2); n > 0 {
				res.GenericResources = append(res.GenericResources, swarm.GenericResource{DiscreteResourceSpec: &swarm.DiscreteGenericResource{Kind: kind, Value: int64(n)}})
			}
		}
		rev.Spec.Resources = &swarm.ResourceRequirements{Reservations: res}
		p := &swarm.Placement{MaxReplicas: uint64(draw("most", 0, 2))}
		for _, label := range []string{"zone", "rack"} {
			if draw("prefer", 0, 2) == 0 {
				p.Preferences = append(p.Preferences, swarm.PlacementPreference{Spread: &swarm.SpreadOver{SpreadDescriptor: nodeLabels + label}})
			}
		}
		if draw("constrained", 0, 3) == 0 {
			p.Constraints = []string{"node.labels.zone!=1"}
		}
		rev.Spec.Placement = p
		if draw("port", 0, 4) == 0 {
			rev.Endpoint = &swarm.EndpointSpec{Ports: []swarm.PortConfig{{Protocol: "tcp", PublishedPort: 80, PublishMode: swarm.PortConfigPublishModeHost}}}
		}
		st.revisions = append(st.revisions, rev)
		for slot := range draw("replicas", 0, 12) {
			st.tasks = append(st.tasks, pendingTask(rev.ServiceID, slot+1, ""))
		}
		if draw("everywhere", 0, 3) == 0 {
			for _, n := range st.nodes {
				st.tasks = append(st.tasks, pendingTask(rev.ServiceID, 0, n.ID))
			}
		}
	}
	return st
}

func pendingTask(service string, slot int, node string) *state.Task {
	return &state.Task{
		ID: fmt.Sprintf("%s.%d%s", service, slot, node), ServiceID: service, SpecVersion: 1, Slot: slot, NodeID: node,
		DesiredState: swarm.TaskStateRunning, Status: swarm.TaskStatus{State: swarm.TaskStatePending},
	}
}

// board sets the stage, in any order.
func (st *stage) board(shuffle func(n int) []int) *board {
	b := newBoard(state.New().View(), epoch)
	for _, i := range shuffle(len(st.nodes)) {
		b.set(st.nodes[i])
	}
	for _, r := range st.revisions {
		b.set(&state.Service{ID: r.ServiceID, SpecVersion: 1})
		b.set(r)
	}
	for _, i := range shuffle(len(st.tasks)) {
		b.set(st.tasks[i])
	}
	return b
}

func (l taskList) ids() set {
	out := set{}
	for _, i := range l {
		out[i.ID] = struct{}{}
	}
	return out
}

func inOrder(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}

func (b *board) schedule() {
	b.begin(epoch)
	(&scheduler{b: b}).run()
}

// placed is where each task is, with what it was given, or why it is nowhere.
func (b *board) placed() map[string]string {
	out := map[string]string{}
	for id, t := range b.tasks {
		out[id] = fmt.Sprintf("%s %s %s", t.NodeID, t.Status.Err, genericText(t.GenericResources))
	}
	return out
}

func genericText(list []swarm.GenericResource) string {
	var out []string
	for _, g := range list {
		kind, amount, name := genericParts(g)
		out = append(out, fmt.Sprintf("%s=%d%s", kind, amount, name))
	}
	return fmt.Sprint(out)
}

// TestPlacementProperties: whatever is asked, nothing is given twice, no limit is passed, no task waits that fits, each
// that waits says why, and the result depends on nothing but the snapshot.
func TestPlacementProperties(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		st := drawStage(r)
		b := st.board(inOrder)
		b.schedule()
		for _, n := range b.nodes {
			st.checkNode(r, b, n)
		}
		for _, i := range b.unassigned {
			id := i.ID
			j := newJudge(i.rev, epoch)
			for _, n := range b.nodes {
				if (i.NodeID == "" || i.NodeID == n.id) && j.fits(n) {
					r.Fatalf("task %s waits (%s) though %s would take it", id, i.Status.Err, n.id)
				}
			}
			if i.Status.Err == "" {
				r.Fatalf("task %s waits without a reason", id)
			}
		}
		again := st.board(func(n int) []int {
			if n == 0 {
				return nil
			}
			return rapid.Permutation(inOrder(n)).Draw(r, "order")
		})
		again.schedule()
		if d := gocmp.Diff(b.placed(), again.placed()); d != "" {
			r.Fatalf("another result from the same snapshot:\n%s", d)
		}
	})
}

// checkNode adds up what the tasks on a node were given, without the board's own sums.
func (st *stage) checkNode(r *rapid.T, b *board, n *nodeInfo) {
	var cpu, memory, ssd int64
	names, ports, by := map[string]string{}, map[string]int{}, map[string]uint64{}
	for _, t := range b.tasks {
		if t.NodeID != n.id || t.Status.State != swarm.TaskStateAssigned {
			continue
		}
		if n.node.Status.State != swarm.NodeStateReady {
			r.Fatalf("task %s got node %s, which is down", t.ID, n.id)
		}
		res := t.rev.Spec.Resources.Reservations
		cpu, memory = cpu+res.NanoCPUs, memory+res.MemoryBytes
		given := map[string]int64{}
		for _, g := range t.GenericResources {
			kind, amount, name := genericParts(g)
			given[kind] += amount
			if name != "" && names[name] != "" {
				r.Fatalf("%s %s of node %s belongs to %s and %s", kind, name, n.id, names[name], t.ID)
			}
			names[name] = t.ID
			if kind == "SSD" {
				ssd += amount
			}
		}
		for _, need := range t.rev.generic {
			if given[map[string]string{"gpu": "GPU", "ssd": "SSD"}[need.kind]] != need.amount {
				r.Fatalf("task %s asked for %v and got %v", t.ID, t.rev.generic, given)
			}
		}
		if t.rev.Endpoint != nil {
			ports["80/tcp"]++
		}
		if by[t.ServiceID]++; t.rev.Spec.Placement.MaxReplicas > 0 && by[t.ServiceID] > t.rev.Spec.Placement.MaxReplicas {
			r.Fatalf("node %s has %d tasks of %s, at most %d are allowed", n.id, by[t.ServiceID], t.ServiceID, t.rev.Spec.Placement.MaxReplicas)
		}
		if len(t.rev.Spec.Placement.Constraints) > 0 && n.node.Spec.Labels["zone"] == "1" {
			r.Fatalf("task %s is on %s in zone 1, which it excludes", t.ID, n.id)
		}
	}
	has := n.node.Description.Resources
	stock := genericStock{}
	stock.offer(has.GenericResources)
	if cpu > has.NanoCPUs || memory > has.MemoryBytes || ssd > stock.kind("ssd").discrete || ports["80/tcp"] > 1 {
		r.Fatalf("node %s has given %d of %d CPU, %d of %d memory, %d of %d SSDs, its port %d times", n.id, cpu, has.NanoCPUs, memory, has.MemoryBytes,
			ssd, stock.kind("ssd").discrete, ports["80/tcp"])
	}
}

// TestSpreadPreferences: where nothing else limits, the branches of each level have the same number of tasks within one,
// and so have the nodes inside a branch: after placing, after scaling up further, and after scaling down.
func TestSpreadPreferences(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		st := &stage{}
		var keys []string
		for _, label := range []string{"zone", "rack"}[:rapid.IntRange(0, 2).Draw(r, "levels")] {
			keys = append(keys, nodeLabels+label)
		}
		for i := range rapid.IntRange(1, 9).Draw(r, "nodes") {
			n := &state.Node{ID: fmt.Sprintf("n%d", i), Status: swarm.NodeStatus{State: swarm.NodeStateReady}}
			n.Spec.Labels = map[string]string{"zone": fmt.Sprint(rapid.IntRange(0, 2).Draw(r, "zone")), "rack": fmt.Sprint(rapid.IntRange(0, 2).Draw(r, "rack"))}
			st.nodes = append(st.nodes, n)
		}
		rev := &state.Revision{ServiceID: "s", SpecVersion: 1}
		rev.Spec.Placement = &swarm.Placement{}
		for _, k := range keys {
			rev.Spec.Placement.Preferences = append(rev.Spec.Placement.Preferences, swarm.PlacementPreference{Spread: &swarm.SpreadOver{SpreadDescriptor: k}})
		}
		st.revisions = []*state.Revision{rev}
		b := st.board(inOrder)
		slots := 0
		for range 2 {
			for range rapid.IntRange(0, 20).Draw(r, "replicas") {
				slots++
				b.set(pendingTask("s", slots, ""))
			}
			b.schedule()
			evenTree(r, b, keys, slices.Collect(maps.Values(b.nodes)))
		}
		have := map[state.Place][]*state.Task{}
		for p, i := range b.services["s"].places {
			have[p] = i.tasks
		}
		for _, p := range b.lastPlaced(b.services["s"].revisions[1], have, rapid.IntRange(0, slots).Draw(r, "fewer")) {
			b.unset(have[p][0])
			slots--
		}
		if n := len(b.tasks); n != slots {
			r.Fatalf("%d tasks are left, want %d", n, slots)
		}
		evenTree(r, b, keys, slices.Collect(maps.Values(b.nodes)))
	})
}

// evenTree looks at one level of the tree that labels make of nodes, and at those below.
func evenTree(r *rapid.T, b *board, keys []string, nodes []*nodeInfo) {
	groups := map[string][]*nodeInfo{}
	for _, n := range nodes {
		value := n.id
		if len(keys) > 0 {
			value = n.node.Spec.Labels[keys[0][len(nodeLabels):]]
		}
		groups[value] = append(groups[value], n)
	}
	count := map[string]int{}
	for value, members := range groups {
		for _, n := range members {
			count[value] += n.by["s"]
		}
		if len(keys) > 0 {
			evenTree(r, b, keys[1:], members)
		}
	}
	least, most := slices.MinFunc(slices.Collect(maps.Values(count)), cmp.Compare), slices.MaxFunc(slices.Collect(maps.Values(count)), cmp.Compare)
	if most-least > 1 {
		r.Fatalf("uneven: %v", count)
	}
}

// TestPlacementOrder: the shortcut for groups that share the look at nodes chooses what ranking all nodes would.
func TestPlacementOrder(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		st := drawStage(r)
		for i := range st.revisions {
			st.revisions[i].Spec.Placement.Preferences = nil
		}
		b, plain := st.board(inOrder), st.board(inOrder)
		k := revisionKey{st.revisions[0].ServiceID, 1}
		for range rapid.IntRange(0, 8).Draw(r, "failures") {
			id := rapid.SampledFrom(st.nodes).Draw(r, "failing").ID
			at := epoch.Add(-time.Duration(rapid.IntRange(1, 8).Draw(r, "minutes")) * time.Minute)
			b.nodes[id].failed(k, at)
			plain.nodes[id].failed(k, at)
		}
		b.schedule()
		plain.begin(epoch)
		(&scheduler{b: plain, ranksAll: true}).run()
		if d := gocmp.Diff(plain.placed(), b.placed()); d != "" {
			r.Fatalf("another choice than by ranking all nodes:\n%s", d)
		}
	})
}
