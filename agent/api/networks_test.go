package api

import (
	"encoding/json"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/swarm"
	"github.com/docker/docker/client"

	"github.com/meshswarm/meshswarm/raft/state"
)

// networkEngine is an engine with the usual networks and one of a user.
func networkEngine(t *testing.T) *client.Client {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("/_ping", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Api-Version", "1.41") })
	answer := func(v any) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(v)
		}
	}
	mux.HandleFunc("GET /v1.41/networks", answer([]network.Inspect{{Name: "bridge", ID: "b1", Scope: "local"}, {Name: "mine", ID: "m1", Scope: "local"}}))
	mux.HandleFunc("GET /v1.41/networks/mine", answer(network.Inspect{Name: "mine", ID: "m1", Scope: "local"}))
	mux.HandleFunc("POST /v1.41/networks/create", answer(network.CreateResponse{ID: "local1"}))
	mux.HandleFunc("POST /v1.41/networks/prune", answer(network.PruneReport{NetworksDeleted: []string{"mine"}}))
	mux.HandleFunc("POST /v1.41/networks/mine/connect", answer(nil))
	mux.HandleFunc("DELETE /v1.41/networks/mine", answer(nil))
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusNotFound)
		_, _ = w.Write([]byte(`{"message":"engine: no such thing"}`))
	})
	return startEngine(t, mux)
}

func TestNetworks(t *testing.T) {
	fc := newFakeCluster(t)
	eng := networkEngine(t)
	_, c := start(t, Config{Local: managerNode(fc), Engine: eng})
	yes := true
	made, err := c.NetworkCreate(t.Context(), "back", network.CreateOptions{Driver: "overlay", Internal: true, Attachable: true,
		Labels: map[string]string{"a": "b"}, Options: map[string]string{"encrypted": ""},
		IPAM: &network.IPAM{Config: []network.IPAMConfig{{Subnet: "10.7.0.0/16", Gateway: "10.7.0.1", IPRange: "10.7.1.0/24"}}}})
	if err != nil || len(made.ID) != 25 {
		t.Fatalf("create: %v, %v", made, err)
	}
	if r, err := c.NetworkCreate(t.Context(), "local", network.CreateOptions{Driver: "bridge", EnableIPv4: &yes}); err != nil || r.ID != "local1" {
		t.Errorf("local create: %v, %v", r, err)
	}
	n, err := c.NetworkInspect(t.Context(), "back", network.InspectOptions{Scope: "swarm"})
	if err != nil {
		t.Fatal(err)
	}
	if n.Scope != "swarm" || n.Driver != "overlay" || !n.Internal || !n.Attachable || n.Labels["a"] != "b" || n.IPAM.Config[0].IPRange != "10.7.1.0/24" || n.Created.IsZero() {
		t.Errorf("inspect: %+v", n)
	}
	for _, tt := range []struct{ filter, want string }{
		{"", "back bridge ingress mine"}, {"driver=overlay", "back bridge ingress mine"}, {"name=back", "back bridge mine"}, {"label=a=b", "back bridge mine"},
		{"scope=swarm", "back bridge ingress mine"}, {"type=builtin", "bridge mine"},
	} {
		f := filters.NewArgs()
		if k, v, ok := strings.Cut(tt.filter, "="); ok {
			f.Add(k, v)
		}
		list, err := c.NetworkList(t.Context(), network.ListOptions{Filters: f})
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, n := range list {
			names = append(names, n.Name)
		}
		if got := sorted(names); got != tt.want { // the fake engine does not filter
			t.Errorf("%s: %q, want %q", tt.filter, got, tt.want)
		}
	}
	if n, err := c.NetworkInspect(t.Context(), "mine", network.InspectOptions{}); err != nil || n.ID != "m1" {
		t.Errorf("local inspect: %v, %v", n.ID, err)
	}
	_, err = c.NetworkInspect(t.Context(), "mine", network.InspectOptions{Scope: "swarm"})
	wantError(t, err, cerrdefs.IsNotFound, "network mine not found")
	wantError(t, c.NetworkConnect(t.Context(), "back", "x", nil), cerrdefs.IsNotImplemented, "swarm network back")
	if err := c.NetworkConnect(t.Context(), "mine", "x", nil); err != nil {
		t.Errorf("local connect: %v", err)
	}
	_, err = c.ServiceCreate(t.Context(), spec("x", func(s *swarm.ServiceSpec) {
		s.TaskTemplate.Networks = []swarm.NetworkAttachmentConfig{{Target: "mine"}}
	}), swarm.ServiceCreateOptions{})
	wantError(t, err, cerrdefs.IsPermissionDenied, "The network mine cannot be used with services")

	id := create(t, c, spec("web", publish(8080, ""), func(s *swarm.ServiceSpec) {
		s.TaskTemplate.Networks = []swarm.NetworkAttachmentConfig{{Target: "back"}}
	}))
	wantError(t, c.NetworkRemove(t.Context(), "back"), cerrdefs.IsInvalidArgument, "network back is in use by service web")
	wantError(t, c.NetworkRemove(t.Context(), "ingress"), cerrdefs.IsInvalidArgument, "because service web depends on it")
	addTask(t, fc, id, "t1", 1, swarm.TaskStateRunning, swarm.TaskStateRunning, func(t *state.Task) {
		t.NodeID = testNode
		t.Networks = []state.Attachment{{NetworkID: made.ID, Addresses: []netip.Prefix{netip.MustParsePrefix("10.7.1.2/16")}}}
	})
	n, err = c.NetworkInspect(t.Context(), made.ID[:9], network.InspectOptions{Verbose: true})
	if err != nil || n.Containers["c-t1"].IPv4Address != "10.7.1.2/16" || len(n.Peers) != 1 || n.Services["web"].Tasks[0].EndpointIP != "10.7.1.2" {
		t.Errorf("verbose: %+v, %v", n, err)
	}
	if err := c.ServiceRemove(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	wantError(t, c.NetworkRemove(t.Context(), "back"), cerrdefs.IsInvalidArgument, "is in use by task t1")
	task := fc.store.View().Task("t1").Clone()
	task.DesiredState = swarm.TaskStateRemove
	fc.change(t, task)
	report, err := c.NetworksPrune(t.Context(), filters.NewArgs())
	if err != nil || sorted(report.NetworksDeleted) != "back mine" {
		t.Errorf("prune: %v, %v", report, err)
	}
	if !fc.store.View().Network(made.ID).PendingDelete {
		t.Error("network is not on its way out")
	}
	if err := c.NetworkRemove(t.Context(), "ingress"); err != nil {
		t.Errorf("remove ingress: %v", err)
	}
	if err := c.NetworkRemove(t.Context(), "mine"); err != nil {
		t.Errorf("remove local: %v", err)
	}
	wantError(t, c.NetworkRemove(t.Context(), "ingress"), cerrdefs.IsNotFound, "engine: no such thing")
}

func TestCreateNetworkRefused(t *testing.T) {
	fc, c := startManager(t)
	node := fc.store.View().Node(testWorker).Clone()
	node.HostPrefixes = []netip.Prefix{netip.MustParsePrefix("172.20.0.0/16")}
	fc.change(t, node)
	subnet := func(cfgs ...network.IPAMConfig) network.CreateOptions {
		return network.CreateOptions{IPAM: &network.IPAM{Config: cfgs}}
	}
	if r, err := c.NetworkCreate(t.Context(), "one", network.CreateOptions{Driver: "overlay", IPAM: &network.IPAM{Config: []network.IPAMConfig{{Subnet: "172.20.1.0/24"}}}}); err != nil || !strings.Contains(r.Warning, "172.20.0.0/16, which node node2 routes itself") {
		t.Errorf("warning: %v, %v", r, err)
	}
	yes, no := true, false
	for _, tt := range []struct {
		name string
		net  string
		opts network.CreateOptions
		is   func(error) bool
		text string
	}{
		{"taken", "one", network.CreateOptions{}, cerrdefs.IsConflict, "network with name one already exists"},
		{"predefined", "host", network.CreateOptions{}, cerrdefs.IsPermissionDenied, "host is a pre-defined network and cannot be created"},
		{"name", "a b", network.CreateOptions{}, cerrdefs.IsInvalidArgument, "DNS name component"},
		{"overlap", "x", subnet(network.IPAMConfig{Subnet: "172.20.0.0/16"}), cerrdefs.IsPermissionDenied, "Pool overlaps with other one on this address space: 172.20.0.0/16 overlaps with 172.20.1.0/24 of network one"},
		{"ingress overlap", "x", subnet(network.IPAMConfig{Subnet: "10.0.1.0/24"}), cerrdefs.IsPermissionDenied, "of network ingress"},
		{"mesh overlap", "x", subnet(network.IPAMConfig{Subnet: "100.127.3.0/24"}), cerrdefs.IsPermissionDenied, "own addresses in the mesh"},
		{"subnet", "x", subnet(network.IPAMConfig{Subnet: "10.9"}), cerrdefs.IsInvalidArgument, "invalid subnet 10.9"},
		{"small", "x", subnet(network.IPAMConfig{Subnet: "10.9.0.0/30"}), cerrdefs.IsInvalidArgument, "too small"},
		{"gateway", "x", subnet(network.IPAMConfig{Subnet: "10.9.0.0/24", Gateway: "10.8.0.1"}), cerrdefs.IsInvalidArgument, "does not contain gateway"},
		{"range", "x", subnet(network.IPAMConfig{Subnet: "10.9.0.0/24", IPRange: "10.8.0.0/25"}), cerrdefs.IsInvalidArgument, "does not contain range"},
		{"aux", "x", subnet(network.IPAMConfig{Subnet: "10.9.0.0/24", AuxAddress: map[string]string{"a": "10.9.0.9"}}), cerrdefs.IsNotImplemented, "--aux-address"},
		{"two subnets", "x", subnet(network.IPAMConfig{Subnet: "10.9.0.0/24"}, network.IPAMConfig{Subnet: "10.8.0.0/24"}), cerrdefs.IsNotImplemented, "more than one subnet"},
		{"ipam", "x", network.CreateOptions{IPAM: &network.IPAM{Driver: "dhcp"}}, cerrdefs.IsInvalidArgument, "invalid IPAM specified"},
		{"mtu", "x", network.CreateOptions{Options: map[string]string{mtuOption: "big"}}, cerrdefs.IsInvalidArgument, "driver.mtu"},
		{"second ingress", "x", network.CreateOptions{Ingress: true}, cerrdefs.IsConflict, "is already present"},
		{"attachable ingress", "x", network.CreateOptions{Ingress: true, Attachable: true}, cerrdefs.IsInvalidArgument, "cannot be attachable"},
		{"no v4", "x", network.CreateOptions{EnableIPv4: &no}, cerrdefs.IsNotImplemented, "without IPv4"},
		{"v6 without subnet", "x", network.CreateOptions{EnableIPv6: &yes}, cerrdefs.IsNotImplemented, "--subnet"},
		{"macvlan", "x", network.CreateOptions{Driver: "macvlan", Scope: "swarm"}, cerrdefs.IsNotImplemented, `driver "macvlan"`},
		{"config only", "x", network.CreateOptions{ConfigOnly: true}, cerrdefs.IsNotImplemented, "--config-only"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.opts.Driver == "" {
				tt.opts.Driver = "overlay"
			}
			_, err := c.NetworkCreate(t.Context(), tt.net, tt.opts)
			wantError(t, err, tt.is, tt.text)
		})
	}
}

func TestNetworksOfAWorker(t *testing.T) {
	l := &fakeLocal{status: Status{State: swarm.LocalNodeStateActive, NodeID: testWorker}}
	l.assignments = state.Assignments{
		Networks: map[string]state.AssignedNetwork{"n1": {ID: "n1", Name: "back", Subnets: []netip.Prefix{netip.MustParsePrefix("10.0.16.0/24")}, Gateways: []netip.Addr{netip.MustParseAddr("10.0.16.1")}}},
		Tasks: map[string]state.AssignedTask{"t1": {Task: state.Task{ID: "t1", NodeID: testWorker, Status: swarm.TaskStatus{State: "assigned"},
			Networks: []state.Attachment{{NetworkID: "n1", Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.16.5/24")}}}}}},
	}
	eng := networkEngine(t)
	_, c := start(t, Config{Local: l, Engine: eng})
	n, err := c.NetworkInspect(t.Context(), "back", network.InspectOptions{})
	if err != nil || n.IPAM.Config[0].Gateway != "10.0.16.1" || n.Containers["t1"].IPv4Address != "10.0.16.5/24" {
		t.Errorf("inspect: %+v, %v", n, err)
	}
	list, err := c.NetworkList(t.Context(), network.ListOptions{})
	if err != nil || len(list) != 3 {
		t.Errorf("list: %v, %v", list, err)
	}
	_, err = c.NetworkCreate(t.Context(), "new", network.CreateOptions{Driver: "overlay"})
	wantError(t, err, cerrdefs.IsUnavailable, "Worker nodes can't be used")
	wantError(t, c.NetworkRemove(t.Context(), "back"), cerrdefs.IsUnavailable, "Worker nodes can't be used")
}

// A container of the engine's own cannot be in a network that only the swarm has, and is told so.
func TestCreateContainerInSwarmNetwork(t *testing.T) {
	_, c := startManager(t)
	n, err := c.NetworkCreate(t.Context(), "back", network.CreateOptions{Driver: "overlay", Attachable: true})
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		host *container.HostConfig
		net  *network.NetworkingConfig
	}{
		"by name":      {host: &container.HostConfig{NetworkMode: "back"}},
		"by ID":        {host: &container.HostConfig{NetworkMode: container.NetworkMode(n.ID)}},
		"one of many":  {net: &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{"bridge": {}, "back": {}}}},
		"with aliases": {host: &container.HostConfig{NetworkMode: "back"}, net: &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{"back": {Aliases: []string{"x"}}}}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := c.ContainerCreate(t.Context(), &container.Config{Image: "busybox"}, tt.host, tt.net, nil, "")
			wantError(t, err, cerrdefs.IsNotImplemented, "single container in the swarm network back")
		})
	}
	_, err = c.ContainerCreate(t.Context(), &container.Config{Image: "busybox"}, &container.HostConfig{NetworkMode: "bridge"}, nil, nil, "")
	if cerrdefs.IsNotImplemented(err) {
		t.Errorf("a container in the engine's own network: %v", err)
	}
}
