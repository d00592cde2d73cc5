package api

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/docker/docker/api/types/swarm"
	"github.com/docker/docker/client"
	"go.uber.org/goleak"

	"github.com/meshswarm/meshswarm/raft/state"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	testNode   = "node1idaaaaaaaaaaaaaaaaaa"
	testWorker = "node2idaaaaaaaaaaaaaaaaaa"
)

// fakeCluster is a manager whose proposals are applied at once.
type fakeCluster struct {
	store *state.Store

	mu      sync.Mutex
	leader  string // node ID
	self    string
	addr    string
	members []Member
	before  func() // runs once before the next proposal: somebody else was faster
	logs    func(ctx context.Context, nodeID, taskID string, o LogOptions) (io.ReadCloser, bool, error)
}

func newFakeCluster(t *testing.T) *fakeCluster {
	t.Helper()
	c := &fakeCluster{store: state.New(), leader: testNode, self: testNode, addr: "192.0.2.1:2377",
		members: []Member{{ID: testNode, Addr: "192.0.2.1:2377", Voter: true}}}
	history := int64(5)
	c.apply(t,
		state.Op{Action: state.Create, Object: &state.Cluster{
			ID: "swarmid", Spec: swarm.Spec{
				Annotations:   swarm.Annotations{Name: "default"},
				Orchestration: swarm.OrchestrationConfig{TaskHistoryRetentionLimit: &history},
				Raft:          swarm.RaftConfig{SnapshotInterval: 10000, ElectionTick: 10, HeartbeatTick: 1},
				CAConfig:      swarm.CAConfig{NodeCertExpiry: 90 * 24 * time.Hour},
			},
			JoinTokens:      swarm.JoinTokens{Worker: "SWMTKN-1-w", Manager: "SWMTKN-1-m"},
			DefaultAddrPool: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, SubnetSize: 24,
			MeshSubnet: netip.MustParsePrefix("100.127.0.0/16"),
		}},
		state.Op{Action: state.Create, Object: testNodeObject(testNode, "node1", swarm.NodeRoleManager)},
		state.Op{Action: state.Create, Object: testNodeObject(testWorker, "node2", swarm.NodeRoleWorker)},
		state.Op{Action: state.Create, Object: &state.Network{ID: "ingressidaaaaaaaaaaaaaaaa", Spec: swarm.NetworkSpec{
			Annotations: swarm.Annotations{Name: "ingress"}, Ingress: true,
			DriverConfiguration: &swarm.Driver{Name: "overlay"},
			IPAMOptions:         &swarm.IPAMOptions{Configs: []swarm.IPAMConfig{{Subnet: "10.0.0.0/20", Gateway: "10.0.0.1"}}},
		}}},
	)
	return c
}

func testNodeObject(id, name string, role swarm.NodeRole) *state.Node {
	return &state.Node{
		ID: id, Role: role,
		Spec:        swarm.NodeSpec{Role: role, Availability: swarm.NodeAvailabilityActive},
		Description: swarm.NodeDescription{Hostname: name, Engine: swarm.EngineDescription{Labels: map[string]string{"zone": "a"}}},
		Status:      swarm.NodeStatus{State: swarm.NodeStateReady, Addr: "192.0.2.9"},
		MinPort:     1024,
	}
}

func (c *fakeCluster) apply(t *testing.T, ops ...state.Op) {
	t.Helper()
	if err := c.store.Apply(c.store.Index()+1, state.Batch{Ops: ops, Time: time.Now()}); err != nil {
		t.Fatalf("apply: %v", err)
	}
}

// change applies a change to an object as the system would.
func (c *fakeCluster) change(t *testing.T, o state.Object) {
	t.Helper()
	c.apply(t, state.Op{Action: state.Update, Object: o, Expected: o.Head().Modified})
}

func (c *fakeCluster) Store() *state.Store { return c.store }

func (c *fakeCluster) Propose(_ context.Context, b state.Batch) (uint64, error) {
	c.mu.Lock()
	before := c.before
	c.before = nil
	c.mu.Unlock()
	if before != nil {
		before()
	}
	if !c.IsLeader() {
		return 0, errors.New("not the leader")
	}
	data, err := b.Encode()
	if err != nil {
		return 0, err
	}
	if b, err = state.DecodeBatch(data); err != nil {
		return 0, err
	}
	index := c.store.Index() + 1
	return index, c.store.Apply(index, b)
}

func (c *fakeCluster) Leader() (string, string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.leader == "" {
		return "", ""
	}
	return c.leader, c.addr
}

func (c *fakeCluster) IsLeader() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.leader == c.self
}

func (c *fakeCluster) setLeader(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leader = id
}

func (c *fakeCluster) Members() []Member { return c.members }

func (c *fakeCluster) RemoveManager(_ context.Context, id string) error {
	c.members = slices.DeleteFunc(c.members, func(m Member) bool { return m.ID == id })
	return nil
}

func (c *fakeCluster) Logs(ctx context.Context, nodeID, taskID string, o LogOptions) (io.ReadCloser, bool, error) {
	c.mu.Lock()
	logs := c.logs
	c.mu.Unlock()
	if logs == nil {
		return nil, false, errors.New("no session")
	}
	return logs(ctx, nodeID, taskID, o)
}

// onLogs sets who answers Logs.
func (c *fakeCluster) onLogs(f func(ctx context.Context, nodeID, taskID string, o LogOptions) (io.ReadCloser, bool, error)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.logs = f
}

// fakeLocal is a node.
type fakeLocal struct {
	cluster     Cluster
	status      Status
	assignments state.Assignments
	left        atomic.Bool
}

func managerNode(c Cluster) *fakeLocal {
	return &fakeLocal{cluster: c, status: Status{State: swarm.LocalNodeStateActive, NodeID: testNode, NodeAddr: "192.0.2.1", Hostname: "node1", Manager: true}}
}

func (l *fakeLocal) Status() Status                 { return l.status }
func (l *fakeLocal) Assignments() state.Assignments { return l.assignments }
func (l *fakeLocal) Cluster() (Cluster, bool)       { return l.cluster, l.cluster != nil }
func (l *fakeLocal) Init(context.Context, swarm.InitRequest) (string, error) {
	return "newnode", nil
}
func (l *fakeLocal) Join(context.Context, swarm.JoinRequest) error { return nil }

func (l *fakeLocal) Leave(context.Context, bool) error {
	l.left.Store(true)
	return nil
}

func (l *fakeLocal) Down(context.Context) error {
	l.left.Store(true)
	return nil
}

// shortDir is a directory whose path leaves room for a socket's name.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "msapi")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// startEngine serves h as the node's container engine and returns a client for it.
func startEngine(t *testing.T, h http.Handler) *client.Client {
	t.Helper()
	path := filepath.Join(shortDir(t), "engine.sock")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(h)
	srv.Listener.Close()
	srv.Listener = ln
	srv.Start()
	t.Cleanup(srv.Close)
	return engineClient(t, path)
}

func engineClient(t *testing.T, path string) *client.Client {
	t.Helper()
	c, err := client.NewClientWithOpts(client.WithHost("unix://" + path))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// deadEngine is a client of an engine that is not there.
func deadEngine(t *testing.T) *client.Client {
	t.Helper()
	return engineClient(t, filepath.Join(shortDir(t), "none.sock"))
}

// start runs a server and returns it with Docker's own client of its socket.
func start(t *testing.T, cfg Config) (*Server, *client.Client) {
	t.Helper()
	if cfg.Socket == "" {
		cfg.Socket = filepath.Join(shortDir(t), "sub", "m.sock")
	}
	if cfg.Engine == nil {
		cfg.Engine = deadEngine(t)
	}
	if cfg.NewToken == nil {
		cfg.NewToken = func([]byte) (string, error) { return "SWMTKN-1-new", nil }
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	waitFor(t, "the socket", func() bool {
		c, err := net.Dial("unix", cfg.Socket)
		if err != nil {
			return false
		}
		c.Close()
		return true
	})
	c, err := client.NewClientWithOpts(client.WithHost("unix://"+cfg.Socket), client.WithAPIVersionNegotiation())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return s, c
}

func startManager(t *testing.T) (*fakeCluster, *client.Client) {
	t.Helper()
	fc := newFakeCluster(t)
	_, c := start(t, Config{Local: managerNode(fc)})
	return fc, c
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("timeout waiting for %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// raw sends a request with no client library in between.
func raw(t *testing.T, socket, method, path, body string) (code int, h http.Header, text string) {
	t.Helper()
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://d"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(data)
}

func socketOf(c *client.Client) string { return strings.TrimPrefix(c.DaemonHost(), "unix://") }

// wantError checks the class of an error by the status it came with, and a part of its text.
func wantError(t *testing.T, err error, is func(error) bool, text string) {
	t.Helper()
	switch {
	case err == nil:
		t.Errorf("no error, want %q", text)
	case !is(err):
		t.Errorf("error %v has another class", err)
	case !strings.Contains(err.Error(), text):
		t.Errorf("error %q does not say %q", err, text)
	}
}
