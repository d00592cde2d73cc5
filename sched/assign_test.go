package sched

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"testing"

	"github.com/docker/docker/api/types/swarm"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/meshswarm/meshswarm/raft/state"
)

var rows = cmp.Options{cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}, netip.AddrPort{})}

// TestAssign: what two nodes are told about a swarm of three.
func TestAssign(t *testing.T) {
	s := &scenario{world: newWorld(t), specs: map[string]map[string][]string{}}
	defer s.close()
	for _, c := range []string{"n1 label=in=front", "n2 label=in=front", "n3 label=in=back"} {
		var id, l string
		fmt.Sscan(c, &id, &l)
		s.command([]string{"node", id, l})
	}
	s.command([]string{"network", "ingress", "ingress", "subnet=10.0.0.0/20"})
	s.command([]string{"network", "front", "subnet=10.1.0.0/24"})
	s.command([]string{"network", "back", "subnet=10.2.0.0/24"})
	s.command([]string{"service", "web", "replicas=2", "network=front:www", "port=8080:80", "constraint=node.labels.in==front"})
	s.command([]string{"service", "db", "network=back", "endpoint=dnsrr", "constraint=node.labels.in==back"})
	s.command([]string{"service", "lone", "constraint=node.labels.in==back"}) // in the ingress network, for its way outside only
	s.settle()
	s.report(s.task("web", 1).ID, swarm.TaskStateRunning, "started")
	s.report(s.task("web", 2).ID, swarm.TaskStateStarting, "starting")
	s.settle()
	web1, web2, db, lone := s.task("web", 1), s.task("web", 2), s.task("db", 1), s.task("lone", 1)

	a := Assign(s.store.View(), "n3")
	check(t, "tasks of n3", sorted(a.Tasks), []string{db.ID, lone.ID}...)
	check(t, "networks of n3", sorted(a.Networks), "net-back", "net-ingress")
	check(t, "services of n3", sorted(a.Services), "svc-db", "svc-web") // web for its port
	check(t, "nodes", sorted(a.Nodes), "n1", "n2", "n3")
	if at := a.Tasks[db.ID]; at.Spec.ContainerSpec == nil || at.Spec.ContainerSpec.Image != "app:1" {
		t.Errorf("task without its spec: %+v", at)
	}
	// What n3 does not know of web: its network front.
	if d := cmp.Diff(state.Endpoint{
		TaskID: web1.ID, ServiceID: "svc-web", NodeID: web1.NodeID, Slot: 1, Name: web1.Name(), State: state.EndpointServing,
		Addrs: map[string][]netip.Addr{"net-ingress": {netip.MustParseAddr("10.0.0.4")}},
	}, a.Endpoints[web1.ID], rows); d != "" {
		t.Error(d)
	}
	if got := a.Endpoints[web2.ID].State; got != state.EndpointUp {
		t.Errorf("a task that starts is %q", got)
	}
	n1 := Assign(s.store.View(), "n1")
	check(t, "endpoints of n1", sorted(n1.Endpoints), web1.ID, web2.ID)
	check(t, "networks of n1", sorted(n1.Networks), "net-front", "net-ingress")
	if d := cmp.Diff(state.AssignedService{
		ID: "svc-web", Name: "web", Ports: n1.Services["svc-web"].Ports, Aliases: map[string][]string{"net-front": {"www"}},
		VIPs: map[string][]netip.Addr{"net-front": {netip.MustParseAddr("10.1.0.2")}, "net-ingress": {netip.MustParseAddr("10.0.0.2")}},
	}, n1.Services["svc-web"], rows); d != "" {
		t.Error(d)
	}

	// A removed service drains; a node that is down has no endpoints.
	s.command([]string{"rm", "web"})
	s.settle()
	n1 = Assign(s.store.View(), "n1")
	if got := n1.Endpoints[web1.ID].State; got != state.EndpointDraining {
		t.Errorf("task of a removed service is %q", got)
	}
	if _, ok := n1.Services["svc-web"]; ok {
		t.Error("a removed service is still announced")
	}
	s.command([]string{"node", web1.NodeID, "state=down"})
	a = Assign(s.store.View(), "n3")
	if _, ok := a.Endpoints[web1.ID]; ok || !a.Nodes[web1.NodeID].Down {
		t.Error("a node that is down has endpoints")
	}
}

// TestAssignHostnames: other tasks learn the host name that a container gets, its placeholders filled in.
func TestAssignHostnames(t *testing.T) {
	s := &scenario{world: newWorld(t), specs: map[string]map[string][]string{}}
	defer s.close()
	s.command([]string{"node", "n1"})
	s.command([]string{"network", "front", "subnet=10.1.0.0/24"})
	s.command([]string{"service", "plain", "network=front", "hostname=alpha"})
	s.command([]string{"service", "web", "network=front", "replicas=2", "hostname={{.Service.Name}}-{{.Task.Slot}}"})
	s.command([]string{"service", "none", "network=front"})
	s.settle()
	a := Assign(s.store.View(), "n1")
	for _, want := range []struct {
		service string
		slot    int
		name    string
	}{{"plain", 1, "alpha"}, {"web", 1, "web-1"}, {"web", 2, "web-2"}, {"none", 1, ""}} {
		if got := a.Endpoints[s.task(want.service, want.slot).ID].Hostname; got != want.name {
			t.Errorf("%s.%d is called %q, want %q", want.service, want.slot, got, want.name)
		}
	}
}

// TestEndpointState: who serves, whatever the mode of its service.
func TestEndpointState(t *testing.T) {
	service, gone := &state.Service{}, &state.Service{PendingDelete: true}
	for _, tt := range []struct {
		desired, state swarm.TaskState
		service        *state.Service
		want           state.EndpointState
	}{
		{swarm.TaskStateRunning, swarm.TaskStatePending, service, ""},
		{swarm.TaskStateReady, swarm.TaskStateReady, service, state.EndpointUp},
		{swarm.TaskStateRunning, swarm.TaskStateStarting, service, state.EndpointUp},
		{swarm.TaskStateRunning, swarm.TaskStateRunning, service, state.EndpointServing},
		{swarm.TaskStateComplete, swarm.TaskStateRunning, service, state.EndpointServing}, // a job
		{swarm.TaskStateShutdown, swarm.TaskStateRunning, service, state.EndpointDraining},
		{swarm.TaskStateRemove, swarm.TaskStateRunning, service, state.EndpointDraining},
		{swarm.TaskStateRunning, swarm.TaskStateRunning, gone, state.EndpointDraining},
		{swarm.TaskStateRunning, swarm.TaskStateRunning, nil, state.EndpointDraining},
		{swarm.TaskStateComplete, swarm.TaskStateComplete, service, ""},
	} {
		got, ok := endpointState(&state.Task{DesiredState: tt.desired, Status: swarm.TaskStatus{State: tt.state}}, tt.service)
		if got != tt.want || ok != (tt.want != "") {
			t.Errorf("%s that is to be %s: %q, %v; want %q", tt.state, tt.desired, got, ok, tt.want)
		}
	}
}

func check(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if d := cmp.Diff(want, got, cmpopts.SortSlices(func(a, b string) bool { return a < b })); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

// TestDiffPatch: whatever happens in a swarm, patching what a node had with the difference gives what it shall have, also
// when the delta travelled as JSON.
func TestDiffPatch(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		s := &scenario{world: newWorld(t), specs: map[string]map[string][]string{}}
		defer s.close()
		s.command([]string{"network", "ingress", "ingress", "subnet=10.0.0.0/24"})
		s.command([]string{"network", "a"})
		s.command([]string{"network", "tiny", "subnet=10.9.0.0/27"})
		nodes := []string{"n0", "n1"}
		had := map[string]state.Assignments{}
		for range rapid.IntRange(1, 12).Draw(r, "steps") {
			s.randomStep(r, []string{"s0", "s1"}, nodes)
			s.settle()
			x := NewAssignIndex(s.store.View())
			for _, n := range nodes {
				want := x.Assign(n)
				var d state.Delta
				var changed bool
				d.Set, d.Remove, changed = Diff(had[n], want)
				data, err := json.Marshal(d)
				if err != nil {
					r.Fatal(err)
				}
				var travelled state.Delta
				if err := json.Unmarshal(data, &travelled); err != nil {
					r.Fatal(err)
				}
				for _, d := range []state.Delta{d, travelled, {Full: true, Set: want}} {
					if diff := cmp.Diff(asTold(want), asTold(Patch(had[n], d)), rows); diff != "" {
						r.Fatalf("patched is not what it shall be (-want +got):\n%s", diff)
					}
				}
				if same := cmp.Equal(asTold(had[n]), asTold(want), rows); same == changed {
					r.Fatalf("changed is %v, the same is %v", changed, same)
				}
				had[n] = Patch(had[n], travelled)
			}
		}
	})
}
