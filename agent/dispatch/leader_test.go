package dispatch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/agent/rpc"
	"github.com/meshswarm/meshswarm/raft/state"
	"github.com/meshswarm/meshswarm/secrets"
	"github.com/meshswarm/meshswarm/secrets/secretstest"
)

// A node that knows a follower only finds the leader, and the next one.
func TestLeaderRedirect(t *testing.T) {
	f := newSwarm(t)
	follower := f.startManager("m1")
	first := f.startManager("m2").lead()
	second := f.startManager("m3")
	n := f.startNode("n1", follower)
	f.becomes("n1", swarm.NodeStateReady)
	eventually(t, "session with the leader", func() bool { return first.dispatcher.sessionCount() == 1 })

	first.stopTerm()
	second.lead()
	eventually(t, "session with the next leader", func() bool { return second.dispatcher.sessionCount() == 1 })
	f.addTask("t1", "n1", swarm.TaskStateAssigned)
	eventually(t, "task", func() bool { return n.has("t1") })
}

// A dead manager costs a moment, not the session.
func TestDeadManagerInList(t *testing.T) {
	f := newSwarm(t)
	live := f.startManager("m2").lead()
	f.startNode("n1", &manager{addr: "127.0.0.1:1"}, live)
	f.becomes("n1", swarm.NodeStateReady)
}

func TestLogs(t *testing.T) {
	f := newSwarm(t)
	m := f.startManager("m1").lead()
	n := f.startNode("n1", m)
	f.becomes("n1", swarm.NodeStateReady)
	logs := func(fn func(ctx context.Context, req LogRequest) (io.ReadCloser, error)) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.logs = fn
	}
	d := m.dispatcher

	t.Run("whole", func(t *testing.T) {
		text := strings.Repeat("line of output\n", 10000)
		logs(func(_ context.Context, req LogRequest) (io.ReadCloser, error) {
			return io.NopCloser(strings.NewReader(req.TaskID + text)), nil
		})
		r, err := d.Logs(t.Context(), "n1", LogRequest{TaskID: "t1"})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		got, err := io.ReadAll(r)
		if err != nil || string(got) != "t1"+text {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	})
	t.Run("follow until the reader has enough", func(t *testing.T) {
		ended := make(chan struct{})
		logs(func(context.Context, LogRequest) (io.ReadCloser, error) {
			pr, pw := io.Pipe()
			go func() {
				defer close(ended)
				for i := 0; ; i++ {
					if _, err := fmt.Fprintf(pw, "%d\n", i); err != nil {
						return
					}
				}
			}()
			return pr, nil
		})
		r, err := d.Logs(t.Context(), "n1", LogRequest{TaskID: "t1"})
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 6)
		if _, err := io.ReadFull(r, buf); err != nil || string(buf) != "0\n1\n2\n" {
			t.Errorf("%q, %v", buf, err)
		}
		_ = r.Close()
		waitFor(t, "node's end", ended)
	})
	t.Run("quiet follow ends with the context", func(t *testing.T) {
		ended := make(chan struct{})
		logs(func(ctx context.Context, _ LogRequest) (io.ReadCloser, error) {
			pr, pw := io.Pipe()
			return &closer{pr, func() { _ = pw.Close(); close(ended) }}, nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		r, err := d.Logs(ctx, "n1", LogRequest{TaskID: "t1"})
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		if _, err := r.Read(make([]byte, 1)); err == nil {
			t.Error("read went on")
		}
		waitFor(t, "node's end", ended)
	})
	t.Run("error on the way", func(t *testing.T) {
		logs(func(context.Context, LogRequest) (io.ReadCloser, error) {
			return io.NopCloser(io.MultiReader(strings.NewReader("some"), broken{})), nil
		})
		r, err := d.Logs(t.Context(), "n1", LogRequest{TaskID: "t1"})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		got, err := io.ReadAll(r)
		if string(got) != "some" || err == nil || !strings.Contains(err.Error(), "engine is gone") {
			t.Errorf("%q, %v", got, err)
		}
	})
	t.Run("refused", func(t *testing.T) {
		logs(nil)
		if _, err := d.Logs(t.Context(), "n1", LogRequest{TaskID: "t1"}); err == nil || !strings.Contains(err.Error(), "no such task here") {
			t.Error(err)
		}
	})
	t.Run("unknown kind", func(t *testing.T) {
		if _, err := d.Reverse(t.Context(), "n1", "dance", nil); err == nil || !strings.Contains(err.Error(), "does not support") {
			t.Error(err)
		}
	})
	t.Run("no session", func(t *testing.T) {
		if _, err := d.Logs(t.Context(), "n9", LogRequest{TaskID: "t1"}); !errors.Is(err, ErrNoSession) {
			t.Error(err)
		}
	})
	eventually(t, "all streams are forgotten", func() bool {
		term, err := d.current()
		if err != nil {
			t.Fatal(err)
		}
		term.mu.Lock()
		defer term.mu.Unlock()
		return len(term.reverse) == 0 && len(term.openings) == 0
	})
}

func waitFor(t *testing.T, what string, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatalf("%s: did not happen", what)
	}
}

type closer struct {
	io.Reader
	close func()
}

func (c *closer) Close() error { c.close(); return nil }

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("engine is gone") }

// A stream belongs to the node that was asked.
func TestReverseIsBoundToNode(t *testing.T) {
	f := newSwarm(t)
	m := f.startManager("m1").lead()
	f.addNode("n1", swarm.NodeRoleWorker)
	f.addNode("n2", swarm.NodeRoleWorker)
	r := m.raw("n1")
	got := make(chan error, 1)
	go func() {
		logs, err := m.dispatcher.Logs(context.Background(), "n1", LogRequest{TaskID: "t1"})
		if err == nil {
			var text []byte
			text, err = io.ReadAll(logs)
			if err == nil && string(text) != "mine" {
				err = fmt.Errorf("read %q", text)
			}
			_ = logs.Close()
		}
		got <- err
	}()
	open := r.until("request", func(d downMessage) bool { return d.Open != nil }).Open
	send := func(node, id, text string) error {
		c := f.rpcClient(secretstest.Identity(t, f.authority, node, secrets.RoleWorker))
		body, err := c.Send(t.Context(), m.addr, rpc.PathReverse+id, strings.NewReader(text), http.Header{})
		if err == nil {
			_, _ = io.Copy(io.Discard, body)
			_ = body.Close()
		}
		return err
	}
	if err := send("n2", open.ID, "theirs"); !errors.Is(err, rpc.ErrNotFound) {
		t.Errorf("another node: %v", err)
	}
	if err := send("n1", "guess", "mine"); !errors.Is(err, rpc.ErrNotFound) {
		t.Errorf("another stream: %v", err)
	}
	if err := send("n1", open.ID, "mine"); err != nil {
		t.Errorf("the node: %v", err)
	}
	if err := <-got; err != nil {
		t.Errorf("reader: %v", err)
	}
	if err := send("n1", open.ID, "again"); !errors.Is(err, rpc.ErrNotFound) {
		t.Errorf("a second time: %v", err)
	}
}

func TestJoin(t *testing.T) {
	f := newSwarm(t)
	follower := f.startManager("m1")
	leader := f.startManager("m2").lead()
	for _, tt := range []struct {
		name, token string
		role        swarm.NodeRole
	}{{"worker", f.tokens.Worker, swarm.NodeRoleWorker}, {"manager", f.tokens.Manager, swarm.NodeRoleManager}} {
		t.Run(tt.name, func(t *testing.T) {
			id, resp, err := rpc.Join(t.Context(), follower.addr, tt.token, rpc.JoinRequest{Hostname: "box", Availability: "drain", ControlAddr: "0.0.0.0:4444"})
			if err != nil {
				t.Fatal(err)
			}
			n := f.store.View().Node(id.NodeID())
			if n == nil || n.Spec.Role != tt.role || n.Role != tt.role || n.Description.Hostname != "box" || n.Spec.Availability != "drain" || n.CertExpiry.Before(time.Now()) {
				t.Fatalf("stored %+v", n)
			}
			if want := map[bool]string{true: "127.0.0.1:4444"}[isManager(tt.role)]; n.ControlAddr != want {
				t.Errorf("control address %q, want %q", n.ControlAddr, want)
			}
			if resp.Managers[0] != leader.addr || resp.DataPathPort != 51820 || resp.RemoteAddr != "127.0.0.1" || resp.SwarmID != secretstest.SwarmID {
				t.Errorf("answer %+v", resp.Managers)
			}
		})
	}
	nodes := len(f.store.View().Nodes())
	rotated := f.tokens.Worker
	change(f, f.store.View().Cluster(), func(c *state.Cluster) { c.JoinTokens.Worker = f.token() })
	for name, tt := range map[string]struct {
		token string
		req   rpc.JoinRequest
		want  error
	}{
		"rotated":      {rotated, rpc.JoinRequest{}, rpc.ErrBadToken},
		"wrong":        {f.token(), rpc.JoinRequest{}, rpc.ErrBadToken},
		"hostname":     {f.tokens.Manager, rpc.JoinRequest{Hostname: "a\x00b"}, rpc.ErrBadRequest},
		"availability": {f.tokens.Manager, rpc.JoinRequest{Availability: "sometimes"}, rpc.ErrBadRequest},
	} {
		t.Run(name, func(t *testing.T) {
			if _, _, err := rpc.Join(t.Context(), leader.addr, tt.token, tt.req); !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
		})
	}
	if n := len(f.store.View().Nodes()); n != nodes {
		t.Errorf("refused joins left %d nodes", n-nodes)
	}
	t.Run("no leader", func(t *testing.T) {
		f.mu.Lock()
		f.leader = nil
		f.mu.Unlock()
		if _, _, err := rpc.Join(t.Context(), follower.addr, f.tokens.Manager, rpc.JoinRequest{}); !errors.Is(err, rpc.ErrNotLeader) {
			t.Error(err)
		}
	})
}

func TestRenewer(t *testing.T) {
	f := newSwarm(t)
	follower := f.startManager("m1")
	f.startManager("m2").lead()
	f.addNode("n1", swarm.NodeRoleWorker)
	change(f, f.store.View().Node("n1"), func(n *state.Node) { n.Spec.Role = swarm.NodeRoleManager })

	var mu sync.Mutex
	id := secretstest.IdentityAt(t, f.authority, "n1", secrets.RoleWorker, time.Now(), time.Hour)
	first := id
	current := func() *secrets.Identity {
		mu.Lock()
		defer mu.Unlock()
		return id
	}
	client, err := rpc.NewClient(rpc.ClientConfig{Identity: current})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	clk := newClock()
	r, err := NewRenewer(RenewerConfig{
		RPC: client, Managers: func() []string { return []string{"127.0.0.1:1", follower.addr} }, Identity: current, Clock: clk,
		Replace: func(next *secrets.Identity) error {
			mu.Lock()
			defer mu.Unlock()
			id = next
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	f.run("renewer", r.Run)
	eventually(t, "timer set", func() bool {
		clk.mu.Lock()
		defer clk.mu.Unlock()
		return len(clk.timers) == 1
	})
	clk.advance(29 * time.Minute)
	if current() != first {
		t.Fatal("renewed before half of the time")
	}
	eventually(t, "renewed", func() bool { clk.advance(10 * time.Second); return current() != first })
	if past := time.Until(clk.Now()); past > 55*time.Minute {
		t.Errorf("renewed after %s", past)
	}
	second := current()
	if second.Role() != secrets.RoleManager || second.Expiry().Before(time.Now().Add(80*24*time.Hour)) {
		t.Errorf("renewed as %v until %s", second, second.Expiry())
	}
	if n := f.store.View().Node("n1"); n.CertExpiry.Before(second.Expiry().Add(-time.Minute)) {
		t.Errorf("stored expiry %s", n.CertExpiry)
	}
	r.Renew()
	eventually(t, "renewed at once", func() bool { return current() != second })
}

func TestGuard(t *testing.T) {
	f := newSwarm(t)
	f.addNode("worker", swarm.NodeRoleWorker)
	f.addNode("manager", swarm.NodeRoleManager)
	f.addNode("demoted", swarm.NodeRoleManager)
	change(f, f.store.View().Node("demoted"), func(n *state.Node) { n.Spec.Role = swarm.NodeRoleWorker })
	f.addNode("past", swarm.NodeRoleWorker) // with the certificate of a manager
	change(f, f.store.View().Cluster(), func(c *state.Cluster) { c.RemovedNodes = map[string]time.Time{"removed": time.Now()} })
	g := NewGuard(f.store, func(string) int { return 0 }, nil)
	empty := NewGuard(state.New(), func(string) int { return 0 }, nil)
	for _, tt := range []struct {
		guard  *Guard
		node   string
		access rpc.Access
		want   error
	}{
		{g, "worker", rpc.AccessMember, nil},
		{g, "manager", rpc.AccessMember, nil},
		{g, "manager", rpc.AccessManager, nil},
		{g, "manager", rpc.AccessRaft, nil},
		{g, "demoted", rpc.AccessMember, nil},
		{g, "demoted", rpc.AccessManager, rpc.ErrForbidden},
		{g, "past", rpc.AccessRaft, rpc.ErrForbidden},
		{g, "removed", rpc.AccessMember, rpc.ErrRemoved},
		{g, "removed", rpc.AccessRaft, rpc.ErrRemoved},
		{g, "stranger", rpc.AccessMember, rpc.ErrUnknownNode},
		{g, "stranger", rpc.AccessManager, rpc.ErrUnknownNode},
		{g, "stranger", rpc.AccessRaft, nil},
		{empty, "manager", rpc.AccessRaft, nil},
		{empty, "manager", rpc.AccessMember, rpc.ErrUnavailable},
	} {
		if err := g2(tt.guard, tt.node, tt.access); !errors.Is(err, tt.want) {
			t.Errorf("%s as %s: %v, want %v", tt.node, tt.access, err, tt.want)
		}
	}
}

func g2(g *Guard, node string, access rpc.Access) error {
	return g.Allowed(secrets.Peer{NodeID: node, SwarmID: secretstest.SwarmID, Role: secrets.RoleManager}, access)
}

// The guard cuts whom the store removes or demotes, and nobody else.
func TestGuardCuts(t *testing.T) {
	f := newSwarm(t)
	for _, id := range []string{"a", "b", "c"} {
		f.addNode(id, swarm.NodeRoleManager)
	}
	change(f, f.store.View().Cluster(), func(c *state.Cluster) { c.RemovedNodes = map[string]time.Time{"y": time.Now()} })
	var mu sync.Mutex
	cut := map[string]int{}
	g := NewGuard(f.store, func(id string) int {
		mu.Lock()
		defer mu.Unlock()
		cut[id]++
		return 1
	}, nil)
	f.run("guard", g.Run)
	has := func(ids ...string) func() bool {
		return func() bool {
			mu.Lock()
			defer mu.Unlock()
			for _, id := range ids {
				if cut[id] == 0 {
					return false
				}
			}
			return true
		}
	}
	eventually(t, "guard watches", has("y"))
	f.propose(state.Op{Action: state.Delete, Object: f.store.View().Node("a")})
	change(f, f.store.View().Node("b"), func(n *state.Node) { n.Spec.Role = swarm.NodeRoleWorker })
	eventually(t, "removed and demoted node cut", has("a", "b"))
	change(f, f.store.View().Cluster(), func(c *state.Cluster) { c.RemovedNodes = map[string]time.Time{"x": time.Now()} })
	eventually(t, "removed node cut", has("x"))
	if has("c")() {
		t.Error("a manager in good standing was cut off")
	}
}
