package state

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/swarm"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var t0 = time.Unix(1700000000, 0).UTC()

// apply applies ops at the next index, a second after the batch before.
func apply(t testing.TB, s *Store, ops ...Op) error {
	t.Helper()
	index := s.Index() + 1
	return s.Apply(index, Batch{Time: t0.Add(time.Duration(index) * time.Second), Ops: ops})
}

func mustApply(t testing.TB, s *Store, ops ...Op) {
	t.Helper()
	if err := apply(t, s, ops...); err != nil {
		t.Fatal(err)
	}
}

func create(o Object) Op { return Op{Action: Create, Object: o} }

// update changes the stored object of the same key.
func update(o Object, at uint64) Op { return Op{Action: Update, Object: o, Expected: at} }

func service(id, name string) *Service {
	s := &Service{ID: id}
	s.Spec.Name = name
	return s
}

func network(id, name string) *Network {
	n := &Network{ID: id}
	n.Spec.Name = name
	return n
}

func task(id, network string, addrs ...string) *Task {
	t := &Task{ID: id, ServiceID: "s1", Slot: 1}
	a := Attachment{NetworkID: network}
	for _, s := range addrs {
		a.Addresses = append(a.Addresses, netip.MustParsePrefix(s))
	}
	t.Networks = []Attachment{a}
	return t
}

func TestApplyHeader(t *testing.T) {
	s := New()
	mustApply(t, s, create(service("s1", "web")))
	at := func(n uint64) time.Time { return t0.Add(time.Duration(n) * time.Second) }
	want := Header{Meta: swarm.Meta{Version: swarm.Version{Index: 1}, CreatedAt: at(1), UpdatedAt: at(1)}, Modified: 1}
	if d := cmp.Diff(want, s.View().Service("s1").Header); d != "" {
		t.Errorf("after create: %s", d)
	}
	c := s.View().Service("s1").Clone()
	c.CreatedAt = time.Time{} // the store keeps it whatever a proposer says
	mustApply(t, s, update(c, 1))
	want.Modified = 2
	if d := cmp.Diff(want, s.View().Service("s1").Header); d != "" {
		t.Errorf("after allocation: %s", d)
	}
	mustApply(t, s, Op{Action: Update, Object: c, Expected: 2, SpecChange: true})
	want.Modified, want.Version.Index, want.UpdatedAt = 3, 3, at(3)
	if d := cmp.Diff(want, s.View().Service("s1").Header); d != "" {
		t.Errorf("after spec change: %s", d)
	}
}

func TestApplyRefuses(t *testing.T) {
	vip := func(id, name, network, addr string) *Service {
		s := service(id, name)
		s.Endpoint.VirtualIPs = []swarm.EndpointVirtualIP{{NetworkID: network, Addr: addr}}
		return s
	}
	port := func(id string, proto swarm.PortConfigProtocol, p uint32, mode swarm.PortConfigPublishMode) *Service {
		s := service(id, id)
		s.Endpoint.Ports = []swarm.PortConfig{{Protocol: proto, PublishedPort: p, TargetPort: 80, PublishMode: mode}}
		return s
	}
	gateway := func(id, addr string) *Network {
		n := network(id, id)
		n.IPAM = &swarm.IPAMOptions{Configs: []swarm.IPAMConfig{{Subnet: "10.0.0.0/24", Gateway: addr}}}
		return n
	}
	mesh := func(id, addr string) *Node {
		return &Node{ID: id, Mesh: MeshIdentity{Addr: netip.MustParseAddr(addr)}}
	}
	var noTask *Task
	tests := []struct {
		name string
		had  []Object
		ops  []Op
		want error
	}{
		{"exists", []Object{service("s1", "a")}, []Op{create(service("s1", "b"))}, ErrExists},
		{"update of nothing", nil, []Op{update(service("s1", "a"), 1)}, ErrNotFound},
		{"delete of nothing", nil, []Op{{Action: Delete, Object: service("s1", "a")}}, ErrNotFound},
		{"stale update", []Object{service("s1", "a")}, []Op{update(service("s1", "a"), 9)}, ErrSequence},
		{"update without expectation", []Object{service("s1", "a")}, []Op{update(service("s1", "a"), 0)}, ErrSequence},
		{"stale delete", []Object{service("s1", "a")}, []Op{{Action: Delete, Object: service("s1", "a"), Expected: 9}}, ErrSequence},
		{"node deleted", []Object{&Node{ID: "n1"}}, []Op{{Action: Delete, Object: &Node{ID: "n1"}}}, nil},
		{"no object", nil, []Op{{Action: Create}}, ErrInvalid},
		{"typed nil", nil, []Op{{Action: Create, Object: noTask}}, ErrInvalid},
		{"no key", nil, []Op{create(&Task{})}, ErrInvalid},
		{"no action", nil, []Op{{Object: &Task{ID: "t"}}}, ErrInvalid},
		{"service name", []Object{service("s1", "web")}, []Op{create(service("s2", "WEB"))}, ErrNameConflict},
		{"network name", []Object{network("n1", "net")}, []Op{create(network("n2", "net"))}, ErrNameConflict},
		{"service and network share a name", []Object{network("n1", "x")}, []Op{create(service("s1", "x"))}, nil},
		{"name of a deleted service", []Object{&Service{ID: "s1", PendingDelete: true, Spec: service("", "web").Spec}}, []Op{create(service("s2", "web"))}, nil},
		{"name passed on in one batch", []Object{service("s1", "web")}, []Op{create(service("s2", "web")), {Action: Delete, Object: service("s1", "")}}, nil},
		{"task address", []Object{task("t1", "net", "10.0.0.5/24")}, []Op{create(task("t2", "net", "10.0.0.5/24"))}, ErrTaken},
		{"address in another network", []Object{task("t1", "net", "10.0.0.5/24")}, []Op{create(task("t2", "other", "10.0.0.5/24"))}, nil},
		{"mapped address is the same", []Object{task("t1", "net", "10.0.0.5/24")}, []Op{create(task("t2", "net", "::ffff:10.0.0.5/120"))}, ErrTaken},
		{"VIP and task", []Object{vip("s1", "a", "net", "10.0.0.5/24")}, []Op{create(task("t1", "net", "10.0.0.5/24"))}, ErrTaken},
		{"VIP and VIP", []Object{vip("s1", "a", "net", "10.0.0.5/24")}, []Op{create(vip("s2", "b", "net", "10.0.0.5"))}, ErrTaken},
		{"bad VIP", nil, []Op{create(vip("s1", "a", "net", "ten"))}, ErrInvalid},
		{"gateway and task", []Object{gateway("net", "10.0.0.1")}, []Op{create(task("t1", "net", "10.0.0.1/24"))}, ErrTaken},
		{"bad gateway", nil, []Op{create(gateway("net", "ten"))}, ErrInvalid},
		{"mesh address", []Object{mesh("n1", "100.127.0.2")}, []Op{create(mesh("n2", "100.127.0.2"))}, ErrTaken},
		{"ingress port", []Object{port("s1", "tcp", 80, "ingress")}, []Op{create(port("s2", "", 80, ""))}, ErrTaken},
		{"same port of another protocol", []Object{port("s1", "tcp", 80, "ingress")}, []Op{create(port("s2", "udp", 80, "ingress"))}, nil},
		{"host port", []Object{port("s1", "tcp", 80, "ingress")}, []Op{create(port("s2", "tcp", 80, "host"))}, nil},
		{"port not yet given", []Object{port("s1", "tcp", 0, "ingress")}, []Op{create(port("s2", "tcp", 0, "ingress"))}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := New()
			for _, o := range tt.had {
				mustApply(t, s, create(o))
			}
			before := dump(t, s)
			index := s.Index()
			// The op under test is preceded by a good one, which must not stay when the batch is refused.
			err := apply(t, s, append([]Op{create(&Node{ID: "witness"})}, tt.ops...)...)
			if !errors.Is(err, tt.want) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
			if s.Index() != index+1 {
				t.Errorf("index %d after %d", s.Index(), index)
			}
			if tt.want != nil && body(dump(t, s)) != body(before) {
				t.Error("a refused batch changed something")
			}
			checkClaims(t, s)
		})
	}
}

func TestAddressesAreFreed(t *testing.T) {
	taken := func(s *Store) bool { return s.View().Taken("net", netip.MustParseAddr("10.0.0.5")) }
	ends := map[string]func(*Task) []Op{
		"terminal state": func(x *Task) []Op { x.Status.State = swarm.TaskStateFailed; return []Op{update(x, x.Modified)} },
		"orphaned":       func(x *Task) []Op { x.Status.State = swarm.TaskStateOrphaned; return []Op{update(x, x.Modified)} },
		"deleted":        func(x *Task) []Op { return []Op{{Action: Delete, Object: x}} },
		"detached":       func(x *Task) []Op { x.Networks = nil; return []Op{update(x, x.Modified)} },
		"moved": func(x *Task) []Op {
			x.Networks = task("", "net", "10.0.0.6/24").Networks
			return []Op{update(x, x.Modified)}
		},
		"moved to another network": func(x *Task) []Op { x.Networks[0].NetworkID = "other"; return []Op{update(x, x.Modified)} },
		"passed on in one batch": func(x *Task) []Op {
			x.Status.State = swarm.TaskStateShutdown
			return []Op{create(task("t9", "other", "10.0.0.5/24")), update(x, x.Modified)}
		},
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			s := New()
			mustApply(t, s, create(task("t1", "net", "10.0.0.5/24", "fd00::5/64")))
			if !taken(s) {
				t.Fatal("not taken")
			}
			x := s.View().Task("t1").Clone()
			x.Status.State = swarm.TaskStateRunning
			mustApply(t, s, update(x, x.Modified))
			if !taken(s) {
				t.Fatal("a running task lost its address")
			}
			mustApply(t, s, end(s.View().Task("t1").Clone())...)
			if taken(s) {
				t.Error("still taken")
			}
			mustApply(t, s, create(task("t2", "net", "10.0.0.5/24", "fd00::5/64")))
			checkClaims(t, s)
		})
	}
}

func TestRemovedServiceFreesPortsButKeepsVIP(t *testing.T) {
	s := New()
	svc := service("s1", "web")
	svc.Endpoint = swarm.Endpoint{
		Ports:      []swarm.PortConfig{{Protocol: "tcp", PublishedPort: 80}},
		VirtualIPs: []swarm.EndpointVirtualIP{{NetworkID: "net", Addr: "10.0.0.2/24"}},
	}
	mustApply(t, s, create(svc))
	if s.View().PortOwner("tcp", 80) != "s1" {
		t.Fatal("port has no owner")
	}
	gone := s.View().Service("s1").Clone()
	gone.PendingDelete = true
	mustApply(t, s, update(gone, 1))
	v := s.View()
	if v.PortOwner("tcp", 80) != "" || v.ServiceByName("web") != nil || !v.Taken("net", netip.MustParseAddr("10.0.0.2")) {
		t.Error("port or name kept, or VIP lost")
	}
	mustApply(t, s, Op{Action: Delete, Object: gone})
	if s.View().Taken("net", netip.MustParseAddr("10.0.0.2")) {
		t.Error("VIP outlives its service")
	}
}

func TestApplyKeepsCopies(t *testing.T) {
	s := New()
	n := &Node{ID: "n1"}
	n.Spec.Labels = map[string]string{"a": "1"}
	mustApply(t, s, create(n))
	n.Spec.Labels["a"] = "2"
	if got := s.View().Node("n1").Spec.Labels["a"]; got != "1" {
		t.Errorf("label %q: the store shares memory with its caller", got)
	}
	if n.Modified != 0 {
		t.Error("the caller's object was changed")
	}
}

func TestApplyIndexGrows(t *testing.T) {
	s := New()
	if err := s.Apply(5, Batch{}); err != nil {
		t.Fatal(err)
	}
	if err := s.Apply(5, Batch{}); !errors.Is(err, ErrInvalid) {
		t.Errorf("same index again: %v", err)
	}
}

func TestView(t *testing.T) {
	s := New()
	t1, t2, t3 := &Task{ID: "aa1", ServiceID: "s1", Slot: 2, NodeID: "n1"}, &Task{ID: "aa2", ServiceID: "s1", Slot: 1}, &Task{ID: "ab3", ServiceID: "s10", Slot: 1, NodeID: "n1"}
	mustApply(t, s, create(t1), create(t2), create(t3), create(&Cluster{ID: "c"}), create(&Node{ID: "n1"}),
		create(&Revision{ServiceID: "s1", SpecVersion: 10}), create(&Revision{ServiceID: "s1", SpecVersion: 9}), create(&Revision{ServiceID: "s10", SpecVersion: 1}))
	v := s.View()
	mustApply(t, s, Op{Action: Delete, Object: t1})
	keys := func(o any) string {
		var out []string
		switch o := o.(type) {
		case []*Task:
			for _, x := range o {
				out = append(out, x.Key())
			}
		case []*Revision:
			for _, x := range o {
				out = append(out, x.Key())
			}
		case []Object:
			for _, x := range o {
				out = append(out, x.Key())
			}
		}
		return strings.Join(out, " ")
	}
	for _, tt := range []struct{ name, got, want string }{
		{"tasks", keys(v.Tasks()), "aa1 aa2 ab3"},
		{"tasks after", keys(s.View().Tasks()), "aa2 ab3"},
		{"by service", keys(v.TasksByService("s1")), "aa2 aa1"},
		{"by service after", keys(s.View().TasksByService("s1")), "aa2"},
		{"by node", keys(v.TasksByNode("n1")), "aa1 ab3"},
		{"unassigned", keys(v.TasksByNode("")), "aa2"},
		{"by slot", keys(v.TasksBySlot("s1", 2)), "aa1"},
		{"revisions", keys(v.Revisions("s1")), "s1.9 s1.10"},
		{"prefix", keys(v.ByIDPrefix(KindTask, "aa", 0)), "aa1 aa2"},
		{"prefix with limit", keys(v.ByIDPrefix(KindTask, "a", 1)), "aa1"},
		{"prefix of unknown kind", keys(v.ByIDPrefix("x", "a", 1)), ""},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, tt.got, tt.want)
		}
	}
	if v.Cluster() == nil || v.Node("n1") == nil || v.Revision("s1", 9) == nil {
		t.Error("an object is missing")
	}
	if v.Node("x") != nil || v.Service("x") != nil || v.Network("x") != nil || v.Revision("s1", 1) != nil || v.ServiceByName("") != nil || v.NetworkByName("x") != nil {
		t.Error("an object from nowhere")
	}
	if len(v.Nodes()) != 1 || len(v.Services()) != 0 || len(v.Networks()) != 0 {
		t.Error("lists are wrong")
	}
}

func TestWaitIndex(t *testing.T) {
	s := New()
	done := make(chan error, 1)
	go func() { done <- s.WaitIndex(t.Context(), 2) }()
	mustApply(t, s)
	_ = apply(t, s, create(&Task{})) // a refused one counts
	if err := <-done; err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.WaitIndex(ctx, 9); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestClone(t *testing.T) {
	n := uint64(3)
	svc := service("s1", "web")
	svc.Spec.Labels = map[string]string{"a": "1"}
	svc.Spec.Mode.Replicated = &swarm.ReplicatedService{Replicas: &n}
	svc.Spec.TaskTemplate.ContainerSpec = &swarm.ContainerSpec{Env: []string{"A=1"}}
	svc.Header.CreatedAt = t0
	c := svc.Clone()
	if d := cmp.Diff(svc, c); d != "" {
		t.Fatal(d)
	}
	*c.Spec.Mode.Replicated.Replicas = 5
	c.Spec.Labels["a"] = "2"
	c.Spec.TaskTemplate.ContainerSpec.Env[0] = "A=2"
	if n != 3 || svc.Spec.Labels["a"] != "1" || svc.Spec.TaskTemplate.ContainerSpec.Env[0] != "A=1" {
		t.Error("the clone shares memory")
	}
	x := task("t1", "net", "10.0.0.5/24")
	x.Networks[0].Aliases = []string{"a"}
	x.Status.ContainerStatus = &swarm.ContainerStatus{PID: 1}
	y := x.Clone()
	if d := cmp.Diff(x, y, cmpopts.EquateComparable(netip.Prefix{})); d != "" {
		t.Fatal(d)
	}
	y.Networks[0].Aliases[0], y.Status.ContainerStatus.PID = "b", 2
	if x.Networks[0].Aliases[0] != "a" || x.Status.ContainerStatus.PID != 1 {
		t.Error("the task's clone shares memory")
	}
	cl := &Cluster{ID: "c", MeshSubnet: netip.MustParsePrefix("100.127.0.0/16"), RemovedNodes: map[string]time.Time{"n": t0}}
	if got := cl.Clone(); got.MeshSubnet != cl.MeshSubnet || !got.RemovedNodes["n"].Equal(t0) {
		t.Error("the cluster's clone is another one")
	}
}

func TestIDs(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		id := NewID()
		if len(id) != 25 || strings.Trim(id, "0123456789abcdefghijklmnopqrstuvwxyz") != "" || seen[id] {
			t.Fatalf("bad ID %q", id)
		}
		seen[id] = true
	}
	if got := (&Task{ID: "t", ServiceName: "web", Slot: 3, NodeID: "n"}).Name(); got != "web.3.t" {
		t.Error(got)
	}
	if got := (&Task{ID: "t", ServiceName: "web", NodeID: "n"}).Name(); got != "web.n.t" {
		t.Error(got)
	}
	for _, bad := range []string{"", "s", "s.", "s.x", "s.01"} {
		if _, _, err := parseRevisionKey(bad); err == nil {
			t.Errorf("revision key %q accepted", bad)
		}
	}
}

func TestRank(t *testing.T) {
	order := []swarm.TaskState{
		swarm.TaskStateNew, swarm.TaskStatePending, swarm.TaskStateAssigned, swarm.TaskStateAccepted, swarm.TaskStatePreparing,
		swarm.TaskStateReady, swarm.TaskStateStarting, swarm.TaskStateRunning, swarm.TaskStateComplete, swarm.TaskStateShutdown,
		swarm.TaskStateFailed, swarm.TaskStateRejected, swarm.TaskStateRemove, swarm.TaskStateOrphaned,
	}
	for i := 1; i < len(order); i++ {
		if Rank(order[i-1]) >= Rank(order[i]) {
			t.Errorf("%s is not below %s", order[i-1], order[i])
		}
	}
	if Rank("") != 0 || Rank("nonsense") >= 0 || Terminal(swarm.TaskStateRunning) || !Terminal(swarm.TaskStateComplete) {
		t.Error("rank of the special cases")
	}
}

// checkClaims compares the table of claims with what the objects say.
func checkClaims(t testing.TB, s *Store) {
	t.Helper()
	v := s.View()
	want := map[string]string{}
	for _, k := range kinds {
		for _, o := range v.ByIDPrefix(k, "", 0) {
			things, err := claimsOf(o)
			if err != nil {
				t.Fatal(err)
			}
			for _, x := range things {
				owner := fmt.Sprint(o.Kind(), " ", o.Key())
				if other, ok := want[x.id()]; ok && other != owner {
					t.Errorf("%s belongs to %s and %s", x, other, owner)
				}
				want[x.id()] = owner
			}
		}
	}
	got := map[string]string{}
	it, err := v.txn.Get(claimTable, byID)
	if err != nil {
		t.Fatal(err)
	}
	for raw := it.Next(); raw != nil; raw = it.Next() {
		c := raw.(*claim)
		got[c.thing.id()] = fmt.Sprint(c.kind, " ", c.key)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("claims: %s", d)
	}
}
