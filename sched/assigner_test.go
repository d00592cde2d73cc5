package sched

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/docker/docker/api/types/swarm"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/meshswarm/meshswarm/raft/state"
)

// listener is a node that puts its assignments together from what it is told.
type listener struct {
	*Subscription
	have state.Assignments
	full int  // times it was told everything
	late bool // it left something for the next time
}

// hear takes what there is to tell, as it would travel.
func (l *listener) hear(t interface{ Fatalf(string, ...any) }, full bool) Update {
	u, ok := l.Next(full)
	if !ok || u.Empty() {
		return u
	}
	d := state.Delta{Index: u.Index, Full: u.Full, Set: decodeRows(t, u.Set), Remove: u.Remove}
	l.have = Patch(l.have, d)
	if u.Full {
		l.full++
	}
	return u
}

func decodeRows(t interface{ Fatalf(string, ...any) }, r Rows) state.Assignments {
	var a state.Assignments
	for entries, into := range map[*[][]byte]any{
		&r.Tasks: &a.Tasks, &r.Networks: &a.Networks, &r.Services: &a.Services, &r.Endpoints: &a.Endpoints, &r.Nodes: &a.Nodes,
	} {
		object := slices.Concat([]byte("{"), bytes.Join(*entries, []byte(",")), []byte("}"))
		if err := json.Unmarshal(object, into); err != nil {
			t.Fatalf("%s: %v", object, err)
		}
	}
	return a
}

// asTold is what a node that was told of every change knows: of its own tasks that have not ended it may not have heard what
// it said of them itself.
func asTold(a state.Assignments) state.Assignments {
	out := Patch(a, state.Delta{})
	for id, t := range out.Tasks {
		if !state.Terminal(t.Task.Status.State) {
			t.Task.Status, t.Task.AppliedAt, t.Task.RunningAt, t.Task.Modified = swarm.TaskStatus{}, time.Time{}, time.Time{}, 0
		}
		out.Tasks[id] = t
	}
	return out
}

// TestAssigner: whatever happens in the store, and whenever nodes are told of it, what they put together is what Assign says.
func TestAssigner(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		w := newRandomStore(r)
		a := NewAssigner()
		view, watch := w.store.ViewAndWatch()
		defer watch.Close()
		a.Start(view)
		nodes := map[string]*listener{}
		for _, id := range w.nodes {
			nodes[id] = &listener{Subscription: a.Subscribe(id)}
		}
		for range rapid.IntRange(1, 40).Draw(r, "rounds") {
			for range rapid.IntRange(1, 3).Draw(r, "commits") {
				w.step(r)
			}
			var concerned []string
			if commits := w.commits(watch); len(commits) > 0 {
				concerned = a.Apply(commits)
			}
			if rapid.IntRange(0, 30).Draw(r, "lag") == 0 {
				a.Start(w.store.View())
				concerned = w.nodes
			}
			for _, id := range w.nodes {
				n := nodes[id]
				if rapid.IntRange(0, 3).Draw(r, "busy") == 0 {
					n.late = true
					continue
				}
				u := n.hear(r, rapid.IntRange(0, 20).Draw(r, "resync") == 0)
				if !u.Empty() && !u.Full && !n.late && !slices.Contains(concerned, id) {
					r.Fatalf("%s has news and is not concerned: %+v", id, u)
				}
				n.late = false
				w.check(n)
			}
		}
		for _, id := range w.nodes {
			nodes[id].hear(r, false)
			w.check(nodes[id])
			if u := nodes[id].hear(r, false); !u.Empty() {
				r.Fatalf("%s is told again: %+v", id, u)
			}
		}
		checkAssigner(r, a, w.store.View())
	})
}

// randomStore makes changes that keep to no plan.
type randomStore struct {
	*rapid.T
	store *state.Store
	nodes []string
	addrs int // given out
}

func newRandomStore(r *rapid.T) *randomStore {
	return &randomStore{T: r, store: state.New(), nodes: []string{"n0", "n1", "n2"}}
}

// commits are those that the watch has not delivered yet.
func (w *randomStore) commits(watch *state.Watch) []state.Commit {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	commits, _ := watch.Next(ctx)
	return commits
}

func (w *randomStore) pick(what string, from ...string) string {
	return rapid.SampledFrom(from).Draw(w.T, what)
}

func (w *randomStore) chance(what string, of int) bool {
	return rapid.IntRange(1, of).Draw(w.T, what) == 1
}

// step proposes a batch; the store may refuse it.
func (w *randomStore) step(r *rapid.T) {
	b := state.Batch{Time: time.Unix(int64(w.store.Index()), 0)}
	for range rapid.IntRange(1, 3).Draw(r, "ops") {
		b.Ops = append(b.Ops, w.op())
	}
	_ = w.store.Apply(w.store.Index()+1, b)
}

func (w *randomStore) op() state.Op {
	v := w.store.View()
	var next, old state.Object
	switch w.pick("kind", "task", "task", "task", "task", "service", "node", "network", "revision") {
	case "task":
		next = w.task(v)
		if t := v.Task(next.Key()); t != nil {
			old = t
		}
	case "service":
		next = w.service()
		if s := v.Service(next.Key()); s != nil {
			old = s
		}
	case "node":
		next = w.node()
		if n := v.Node(next.Key()); n != nil {
			old = n
		}
	case "network":
		next = w.network()
		if n := v.Network(next.Key()); n != nil {
			old = n
		}
	case "revision":
		next = w.revision()
		if x := v.Revision(next.(*state.Revision).ServiceID, next.(*state.Revision).SpecVersion); x != nil {
			old = x
		}
	}
	switch {
	case old == nil:
		return state.Op{Action: state.Create, Object: next}
	case w.chance("delete", 6):
		return state.Op{Action: state.Delete, Object: old}
	}
	return state.Op{Action: state.Update, Object: next, Expected: old.Head().Modified, SpecChange: w.chance("spec", 4)}
}

func (w *randomStore) node() *state.Node {
	n := &state.Node{ID: w.pick("node", w.nodes...), Status: swarm.NodeStatus{State: swarm.NodeState(w.pick("state", "ready", "ready", "down"))}}
	n.Description.Hostname = w.pick("hostname", "box", "rack")
	return n
}

func (w *randomStore) network() *state.Network {
	id := w.pick("network", "in", "in2", "a", "b", "c")
	n := &state.Network{ID: id, PendingDelete: w.chance("pending", 8)}
	n.Spec.Name, n.Spec.Ingress = id, id == "in" || id == "in2"
	if !w.chance("unallocated", 4) {
		n.IPAM = &swarm.IPAMOptions{Configs: []swarm.IPAMConfig{{Subnet: w.pick("subnet", "10.0.0.0/16", "10.1.0.0/16")}}}
	}
	return n
}

func (w *randomStore) addr() netip.Addr {
	w.addrs++
	return netip.AddrFrom4([4]byte{10, 0, byte(w.addrs >> 8), byte(w.addrs)})
}

func (w *randomStore) networks(what string) []string {
	var out []string
	for _, n := range []string{"in", "in2", "a", "b", "c"} {
		if w.chance(what+" "+n, 3) {
			out = append(out, n)
		}
	}
	return out
}

func (w *randomStore) service() *state.Service {
	s := &state.Service{ID: w.pick("service", "s0", "s1"), PendingDelete: w.chance("pending", 6)}
	s.Spec.Name, s.Spec.Labels = s.ID, map[string]string{"color": w.pick("color", "red", "blue")}
	for _, n := range w.networks("VIP") {
		s.Endpoint.VirtualIPs = append(s.Endpoint.VirtualIPs, swarm.EndpointVirtualIP{NetworkID: n, Addr: w.addr().String() + "/16"})
	}
	for _, n := range w.networks("attach") {
		s.Spec.TaskTemplate.Networks = append(s.Spec.TaskTemplate.Networks, swarm.NetworkAttachmentConfig{Target: n, Aliases: []string{"alias"}})
	}
	if w.chance("port", 3) {
		s.Endpoint.Ports = []swarm.PortConfig{{PublishedPort: 8080, TargetPort: 80, PublishMode: "host"}}
	}
	return s
}

func (w *randomStore) revision() *state.Revision {
	x := &state.Revision{ServiceID: w.pick("service", "s0", "s1"), SpecVersion: rapid.Uint64Range(1, 2).Draw(w.T, "spec version")}
	x.Spec.ContainerSpec = &swarm.ContainerSpec{Hostname: w.pick("template", "", "{{.Node.Hostname}}-{{.Task.Slot}}", "{{index .Service.Labels \"color\"}}")}
	if w.chance("published", 2) {
		x.Endpoint = &swarm.EndpointSpec{Ports: []swarm.PortConfig{{PublishedPort: 80, TargetPort: 80}}}
	}
	return x
}

// task is a new task, or one that moved on.
func (w *randomStore) task(v state.View) *state.Task {
	id := fmt.Sprint("t", rapid.IntRange(0, 7).Draw(w.T, "task"))
	t := v.Task(id)
	if t == nil {
		t = &state.Task{ID: id, ServiceID: w.pick("service", "s0", "s1"), SpecVersion: rapid.Uint64Range(1, 2).Draw(w.T, "spec version"), Slot: 1}
		t.ServiceName = t.ServiceID
		for _, n := range w.networks("task") {
			t.Networks = append(t.Networks, state.Attachment{NetworkID: n, Addresses: []netip.Prefix{netip.PrefixFrom(w.addr(), 16)}})
		}
	}
	t = t.Clone()
	if t.NodeID == "" && !w.chance("unassigned", 3) {
		t.NodeID = w.pick("node", w.nodes...)
	}
	report := w.chance("report", 2)
	if report {
		t.AppliedAt = t.AppliedAt.Add(time.Second)
		t.Status.Message = fmt.Sprint(rapid.IntRange(0, 99).Draw(w.T, "message"))
	}
	if report || w.chance("leader", 2) {
		t.Status.State = rapid.SampledFrom([]swarm.TaskState{"pending", "assigned", "starting", "running", "running", "failed", "orphaned"}).Draw(w.T, "state")
	}
	if !report {
		t.DesiredState = rapid.SampledFrom([]swarm.TaskState{"ready", "running", "running", "complete", "shutdown"}).Draw(w.T, "desired")
	}
	return t
}

// check holds what a node put together against what it shall know.
func (w *randomStore) check(l *listener) {
	v := w.store.View()
	if v.Node(l.node) == nil {
		return
	}
	want, have := asTold(Assign(v, l.node)), asTold(l.have)
	if d := cmp.Diff(want, have, rows, cmp.Comparer(func(a, b swarm.Meta) bool { return a.Version == b.Version })); d != "" {
		w.Fatalf("%s at %d (-Assign +told):\n%s", l.node, v.Index(), d)
	}
}

// checkAssigner holds what an Assigner came to know against one that was started from the view.
func checkAssigner(r *rapid.T, a *Assigner, v state.View) {
	fresh := NewAssigner()
	fresh.Start(v)
	if d := cmp.Diff(topicKeys(fresh), topicKeys(a)); d != "" {
		r.Fatalf("rows by topic (-fresh +grown):\n%s", d)
	}
	for name, t := range a.topics {
		n, last := 0, uint64(0)
		for p := t.first; p != nil; p = p.next {
			if n++; p.row.version < last || a.rows[p.row.kind][p.row.key] != p.row {
				r.Fatalf("topic %s: row %s of %d after %d", name, p.row.key, p.row.version, last)
			}
			last = p.row.version
		}
		if n != t.rows {
			r.Fatalf("topic %s counts %d rows of %d", name, t.rows, n)
		}
	}
}

// topicKeys lists the rows of each topic, and who listens to it.
func topicKeys(a *Assigner) map[string][]string {
	out := map[string][]string{}
	list := func(name string, t *topic) {
		t.since(0, func(r *row) { out[name] = append(out[name], fmt.Sprint(r.kind, r.key)) })
		for n := range t.listeners {
			out[name] = append(out[name], "listener "+n)
		}
		slices.Sort(out[name])
	}
	list("common", a.common)
	for n, t := range a.topics {
		list("network "+n, t)
	}
	for n, m := range a.members {
		list("node "+n, m.own)
	}
	return out
}
