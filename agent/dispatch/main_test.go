package dispatch

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/docker/docker/api/types/swarm"
	"go.uber.org/goleak"

	"github.com/meshswarm/meshswarm/agent/rpc"
	"github.com/meshswarm/meshswarm/raft/rafttest"
	"github.com/meshswarm/meshswarm/raft/state"
	"github.com/meshswarm/meshswarm/sched"
	"github.com/meshswarm/meshswarm/secrets"
	"github.com/meshswarm/meshswarm/secrets/secretstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// swarmFixture is a store with its authority, shared by the managers of a test.
type swarmFixture struct {
	t         *testing.T
	store     *state.Store
	proposer  *rafttest.Proposer
	authority *secrets.Authority
	tokens    swarm.JoinTokens

	mu     sync.Mutex
	leader *manager
}

func newSwarm(t *testing.T) *swarmFixture {
	t.Helper()
	f := &swarmFixture{t: t, store: state.New(), authority: secretstest.Authority(t)}
	f.proposer = rafttest.NewProposer(f.store)
	key, err := f.authority.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	f.tokens = swarm.JoinTokens{Worker: f.token(), Manager: f.token()}
	f.propose(state.Op{Action: state.Create, Object: &state.Cluster{
		ID: secretstest.SwarmID, RootCert: f.authority.CertPEM(), RootKey: key, JoinTokens: f.tokens, DataPathPort: 51820,
	}})
	return f
}

func (f *swarmFixture) token() string {
	f.t.Helper()
	token, err := secrets.NewToken(f.authority.Digest())
	if err != nil {
		f.t.Fatal(err)
	}
	return token
}

func (f *swarmFixture) propose(ops ...state.Op) {
	f.t.Helper()
	if _, err := f.proposer.Propose(f.t.Context(), state.Batch{Ops: ops, Time: time.Now()}); err != nil {
		f.t.Fatal(err)
	}
}

// addNode puts a node into the store, not ready yet.
func (f *swarmFixture) addNode(id string, role swarm.NodeRole) {
	f.t.Helper()
	f.propose(state.Op{Action: state.Create, Object: &state.Node{
		ID: id, Role: role, Spec: swarm.NodeSpec{Role: role, Availability: swarm.NodeAvailabilityActive},
		Status: swarm.NodeStatus{State: swarm.NodeStateUnknown},
	}})
}

func (f *swarmFixture) addTask(id, node string, st swarm.TaskState) {
	f.t.Helper()
	f.propose(state.Op{Action: state.Create, Object: &state.Task{
		ID: id, ServiceID: "svc", ServiceName: "web", NodeID: node, DesiredState: swarm.TaskStateRunning, Status: swarm.TaskStatus{State: st},
	}})
}

// change updates an object through fn.
func change[T state.Object](f *swarmFixture, old T, fn func(T)) {
	f.t.Helper()
	next := old.CloneObject().(T)
	fn(next)
	f.propose(state.Op{Action: state.Update, Object: next, Expected: old.Head().Modified})
}

func (f *swarmFixture) leaderAddr() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.leader == nil {
		return ""
	}
	return f.leader.addr
}

// manager is one manager's control port with its rooms.
type manager struct {
	*swarmFixture
	id         string
	addr       string
	server     *rpc.Server
	dispatcher *Dispatcher
	stopTerm   func()
}

type managerOption func(*Config)

func (f *swarmFixture) startManager(id string, options ...managerOption) *manager {
	f.t.Helper()
	t := f.t
	m := &manager{swarmFixture: f, id: id}
	identity := secretstest.Identity(t, f.authority, id, secrets.RoleManager)
	var err error
	var guard *Guard
	m.server, err = rpc.NewServer(rpc.ServerConfig{
		Identity: func() *secrets.Identity { return identity },
		Allowed:  func(p secrets.Peer, a rpc.Access) error { return guard.Allowed(p, a) },
	})
	if err != nil {
		t.Fatal(err)
	}
	guard = NewGuard(f.store, m.server.Cut, nil)
	cfg := Config{Store: f.store, Proposer: f.proposer, Leader: f.leaderAddr}
	for _, o := range options {
		o(&cfg)
	}
	if m.dispatcher, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	joiner, err := NewJoiner(JoinerConfig{Store: f.store, Proposer: f.proposer, Leader: func() (string, bool) {
		addr := f.leaderAddr()
		return addr, addr == m.addr
	}})
	if err != nil {
		t.Fatal(err)
	}
	m.dispatcher.Register(m.server)
	joiner.Register(m.server)
	ln, err := rpc.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m.addr = ln.Addr().String()
	f.run("server", func(ctx context.Context) error { return m.server.Run(ctx, ln) })
	f.run("guard", guard.Run)
	return m
}

// lead makes m the leader until the test or stopTerm ends it.
func (m *manager) lead() *manager {
	m.mu.Lock()
	m.leader = m
	m.mu.Unlock()
	m.stopTerm = m.run("term", m.dispatcher.Run)
	eventually(m.t, "leading", func() bool { _, err := m.dispatcher.current(); return err == nil })
	return m
}

// run starts fn and returns how to end it and wait.
func (f *swarmFixture) run(name string, fn func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- fn(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			select {
			case err := <-done:
				if err != nil {
					f.t.Errorf("%s: %v", name, err)
				}
			case <-time.After(15 * time.Second):
				f.t.Errorf("%s does not end", name)
			}
		})
	}
	f.t.Cleanup(stop)
	return stop
}

func (f *swarmFixture) rpcClient(id *secrets.Identity) *rpc.Client {
	f.t.Helper()
	c, err := rpc.NewClient(rpc.ClientConfig{Identity: func() *secrets.Identity { return id }})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(c.Close)
	return c
}

// node is a node with a session client.
type node struct {
	client *Client
	stop   func()
	asked  atomic.Int32

	mu   sync.Mutex
	last state.Assignments
	hold chan struct{} // what is assigned is not in force before this is closed; nil: at once
	logs func(ctx context.Context, req LogRequest) (io.ReadCloser, error)
}

func (n *node) Assign(a state.Assignments, inForce func()) {
	n.mu.Lock()
	n.last = a
	hold := n.hold
	n.mu.Unlock()
	if hold != nil {
		<-hold
	}
	inForce()
}

func (n *node) Logs(ctx context.Context, req LogRequest) (io.ReadCloser, error) {
	n.mu.Lock()
	logs := n.logs
	n.mu.Unlock()
	if logs == nil {
		return nil, errors.New("no such task here")
	}
	return logs(ctx, req)
}

func (n *node) has(tasks ...string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, id := range tasks {
		if _, ok := n.last.Tasks[id]; !ok {
			return false
		}
	}
	return len(n.last.Tasks) == len(tasks)
}

// startNode adds a worker to the store and starts its session.
func (f *swarmFixture) startNode(id string, managers ...*manager) *node {
	f.t.Helper()
	f.addNode(id, swarm.NodeRoleWorker)
	return f.runNode(id, managers...)
}

// runNode starts the session of a node that is in the store.
func (f *swarmFixture) runNode(id string, managers ...*manager) *node {
	f.t.Helper()
	var addrs []string
	for _, m := range managers {
		addrs = append(addrs, m.addr)
	}
	n := &node{}
	var err error
	n.client, err = NewClient(ClientConfig{
		RPC:      f.rpcClient(secretstest.Identity(f.t, f.authority, id, secrets.RoleWorker)),
		Managers: func() []string { return addrs },
		Facts:    func() Facts { return Facts{Description: swarm.NodeDescription{Hostname: "host-" + id}, MinPort: 1024} },
		Handler:  n, Patch: sched.Patch,
		Renew: func() { n.asked.Add(1) },
	})
	if err != nil {
		f.t.Fatal(err)
	}
	n.stop = f.run("client of "+id, func(ctx context.Context) error {
		err := n.client.Run(ctx)
		if errors.Is(err, rpc.ErrRemoved) {
			n.asked.Store(-1)
			return nil
		}
		return err
	})
	return n
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: did not happen", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func (f *swarmFixture) nodeState(id string) swarm.NodeState {
	n := f.store.View().Node(id)
	if n == nil {
		return "none"
	}
	return n.Status.State
}

func (f *swarmFixture) becomes(id string, want swarm.NodeState) {
	f.t.Helper()
	eventually(f.t, id+" becomes "+string(want), func() bool { return f.nodeState(id) == want })
}

// clock is a Clock that a test moves.
type clock struct {
	mu     sync.Mutex
	now    time.Time
	timers map[chan time.Time]time.Time
	set    int // timers ever set
}

func newClock() *clock { return &clock{now: time.Now(), timers: map[chan time.Time]time.Time{}} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Timer(d time.Duration) (<-chan time.Time, func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ch := make(chan time.Time, 1)
	c.timers[ch] = c.now.Add(d)
	c.set++
	return ch, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.timers, ch)
	}
}

// advance moves the clock and tells how many timers fired, and how many had been set before.
func (c *clock) advance(d time.Duration) (fired, set int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	for ch, at := range c.timers {
		if !c.now.Before(at) {
			ch <- c.now
			delete(c.timers, ch)
			fired++
		}
	}
	return fired, c.set
}

// step advances d in small steps. Whoever a timer wakes sets the next one, which the steps after it must see: a step waits
// for that, but not for ever, since a loop that ends sets none.
func (c *clock) step(d time.Duration) {
	const small, patience = 50 * time.Millisecond, 200 * time.Millisecond
	for ; d > 0; d -= small {
		fired, set := c.advance(min(d, small))
		for end := time.Now().Add(patience); c.timersSet() < set+fired && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
	}
}

func (c *clock) timersSet() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.set
}

func longText(n int) string { return strings.Repeat("x", n) }
