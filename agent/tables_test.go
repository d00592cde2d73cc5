package agent

import (
	"net/netip"
	"testing"

	"github.com/docker/docker/api/types/swarm"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/meshswarm/meshswarm/mesh"
	"github.com/meshswarm/meshswarm/netstack"
	"github.com/meshswarm/meshswarm/raft/state"
)

var cmpAddrs = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
	cmpopts.EquateEmpty(),
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// sample is a swarm of two nodes as node n1 is told of it: web has a task on each node and publishes 8080, redis runs
// on n2 and drains its old task.
func sample(t *testing.T) view {
	t.Helper()
	key, err := mesh.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	endpoint := func(id, service, node string, slot int, st state.EndpointState, addrs map[string][]netip.Addr) state.Endpoint {
		return state.Endpoint{TaskID: id, ServiceID: service, NodeID: node, Slot: slot, Name: service + "." + id, State: st, Addrs: addrs}
	}
	return view{self: "n1", meshSubnet: meshSubnet, Assignments: state.Assignments{
		Networks: map[string]state.AssignedNetwork{
			"in":  {ID: "in", Name: "ingress", Ingress: true, Subnets: []netip.Prefix{ingressSubnet}, Gateways: []netip.Addr{addr("10.0.0.1")}},
			"app": {ID: "app", Name: "app", Subnets: []netip.Prefix{netip.MustParsePrefix("10.0.16.0/24")}, Gateways: []netip.Addr{addr("10.0.16.1")}},
		},
		Services: map[string]state.AssignedService{
			"web": {ID: "web", Name: "Web", VIPs: map[string][]netip.Addr{"app": {addr("10.0.16.2")}}, Aliases: map[string][]string{"app": {"www"}},
				Ports: []swarm.PortConfig{{Protocol: "tcp", PublishedPort: 8080, TargetPort: 80, PublishMode: "ingress"}}},
			"redis": {ID: "redis", Name: "redis", VIPs: map[string][]netip.Addr{"app": {addr("10.0.16.3")}}},
		},
		Endpoints: map[string]state.Endpoint{
			"w1": endpoint("w1", "web", "n1", 1, state.EndpointServing, map[string][]netip.Addr{"app": {addr("10.0.16.10")}, "in": {addr("10.0.0.10")}}),
			"w2": endpoint("w2", "web", "n2", 2, state.EndpointServing, map[string][]netip.Addr{"app": {addr("10.0.16.11")}, "in": {addr("10.0.0.11")}}),
			"w3": endpoint("w3", "web", "n2", 3, state.EndpointUp, map[string][]netip.Addr{"app": {addr("10.0.16.12")}, "in": {addr("10.0.0.12")}}),
			"r0": endpoint("r0", "redis", "n2", 1, state.EndpointDraining, map[string][]netip.Addr{"app": {addr("10.0.16.20")}}),
			"r1": endpoint("r1", "redis", "n2", 1, state.EndpointServing, map[string][]netip.Addr{"app": {addr("10.0.16.21")}}),
			"xx": endpoint("xx", "web", "n3", 9, state.EndpointServing, map[string][]netip.Addr{"app": {addr("10.0.16.99")}}),
		},
		Nodes: map[string]state.AssignedNode{
			"n1": {ID: "n1", Mesh: state.MeshIdentity{Addr: addr("100.127.0.1")}},
			"n2": {ID: "n2", Mesh: state.MeshIdentity{Addr: addr("100.127.0.2"), PublicKey: key.Public().String(), Endpoint: netip.MustParseAddrPort("192.0.2.2:4789")}},
			"n3": {ID: "n3"}, // joined, has no mesh address yet: nothing can be sent to it
		},
	}}
}

func TestTablesPorts(t *testing.T) {
	got := sample(t).tables().Ports
	want := []netstack.Port{{Protocol: "tcp", Port: 8080, Target: 80, Service: "Web", Backends: []netstack.PortBackend{
		{Addr: addr("10.0.0.10")},
		{Addr: addr("10.0.0.11"), Node: addr("100.127.0.2")},
	}}}
	if d := cmp.Diff(want, got, cmpAddrs); d != "" {
		t.Errorf("ports (-want +got):\n%s", d)
	}
}

func TestTablesHostPort(t *testing.T) {
	v := sample(t)
	v.Tasks = map[string]state.AssignedTask{"w1": {
		Task: state.Task{ID: "w1", ServiceName: "Web"},
		EndpointSpec: &swarm.EndpointSpec{Ports: []swarm.PortConfig{
			{Protocol: "udp", PublishedPort: 53, TargetPort: 5353, PublishMode: "host"},
			{Protocol: "tcp", PublishedPort: 8080, TargetPort: 80, PublishMode: "ingress"},
		}},
	}}
	ports := v.tables().Ports
	want := netstack.Port{Protocol: "udp", Port: 53, Target: 5353, Host: true, Service: "Web", Backends: []netstack.PortBackend{{Addr: addr("10.0.0.10")}}}
	if d := cmp.Diff(want, ports[len(ports)-1], cmpAddrs); d != "" || len(ports) != 2 {
		t.Errorf("host port (-want +got), %d ports:\n%s", len(ports), d)
	}
}

func TestTablesNetwork(t *testing.T) {
	var app, ingress netstack.Network
	for _, n := range sample(t).tables().Networks {
		if n.Ingress {
			ingress = n
		} else {
			app = n
		}
	}
	if len(ingress.Names) != 0 {
		t.Errorf("the ingress network has names: %v", ingress.Names)
	}
	if n := len(app.Endpoints); n != 5 {
		t.Errorf("%d endpoints, want 5: all of n1 and n2", n)
	}
	wantVIPs := []netstack.VIP{
		{Addr: addr("10.0.16.3"), Service: "redis", Backends: []netstack.Backend{{Addr: addr("10.0.16.20"), Draining: true}, {Addr: addr("10.0.16.21")}}},
		{Addr: addr("10.0.16.2"), Service: "Web", Backends: []netstack.Backend{{Addr: addr("10.0.16.10")}, {Addr: addr("10.0.16.11")}}},
	}
	if d := cmp.Diff(wantVIPs, app.VIPs, cmpAddrs); d != "" {
		t.Errorf("VIPs (-want +got):\n%s", d)
	}
	for name, want := range map[string][]netip.Addr{
		"web":       {addr("10.0.16.2")},
		"www":       {addr("10.0.16.2")},
		"tasks.web": {addr("10.0.16.10"), addr("10.0.16.11")},
		"tasks.www": {addr("10.0.16.10"), addr("10.0.16.11")},
		"redis":     {addr("10.0.16.3")},
		// a draining task takes no new flows; its own name still finds it
		"tasks.redis": {addr("10.0.16.21")},
		"redis.r0":    {addr("10.0.16.20")},
		"web.w3":      {addr("10.0.16.12")},
		"2.web":       {addr("10.0.16.11")},
	} {
		if d := cmp.Diff(want, app.Names[name], cmpAddrs); d != "" {
			t.Errorf("name %s (-want +got):\n%s", name, d)
		}
	}
	if app.PTR[addr("10.0.16.10")] != "web.w1" || app.PTR[addr("10.0.16.2")] != "Web" {
		t.Errorf("PTR: %v", app.PTR)
	}
}

// A global service's task has no slot: its names are its container's, its ID and its host name.
func TestTablesGlobalNames(t *testing.T) {
	v := sample(t)
	v.Endpoints["g1"] = state.Endpoint{
		TaskID: "g1", ServiceID: "web", NodeID: "n2", Name: "web.n2.g1", Hostname: "box", State: state.EndpointServing,
		Addrs: map[string][]netip.Addr{"app": {addr("10.0.16.13")}},
	}
	for _, n := range v.tables().Networks {
		if n.ID != "app" {
			continue
		}
		for _, name := range []string{"web.n2.g1", "g1", "box"} {
			if d := cmp.Diff([]netip.Addr{addr("10.0.16.13")}, n.Names[name], cmpAddrs); d != "" {
				t.Errorf("name %s (-want +got):\n%s", name, d)
			}
		}
		if _, ok := n.Names["0.web"]; ok {
			t.Error("a task without a slot has the name of one")
		}
	}
}

// A name whose service serves nowhere is known: asking for it must not go outside.
func TestTablesNameWithoutTasks(t *testing.T) {
	v := sample(t)
	delete(v.Endpoints, "r1")
	for _, n := range v.tables().Networks {
		if addrs, ok := n.Names["tasks.redis"]; n.ID == "app" && (!ok || len(addrs) != 0) {
			t.Errorf("tasks.redis = %v, %v; want known and empty", addrs, ok)
		}
	}
}

func TestPeers(t *testing.T) {
	peers, err := sample(t).peers()
	if err != nil {
		t.Fatal(err)
	}
	if len(peers) != 1 {
		t.Fatalf("%d peers, want n2 only", len(peers))
	}
	var want []netip.Prefix
	for _, a := range []string{"10.0.0.11", "10.0.0.12", "10.0.16.11", "10.0.16.12", "10.0.16.20", "10.0.16.21", "100.127.0.2"} {
		want = append(want, netip.PrefixFrom(addr(a), 32))
	}
	if d := cmp.Diff(want, peers[0].AllowedIPs, cmpAddrs); d != "" {
		t.Errorf("allowed IPs (-want +got):\n%s", d)
	}
}

func TestPeersRefuseBadKey(t *testing.T) {
	v := sample(t)
	n := v.Nodes["n2"]
	n.Mesh.PublicKey = "not a key"
	v.Nodes["n2"] = n
	if _, err := v.peers(); err == nil {
		t.Error("a peer without a valid key was accepted")
	}
}
