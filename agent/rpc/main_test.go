package rpc

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/meshswarm/meshswarm/secrets"
	"github.com/meshswarm/meshswarm/secrets/secretstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// harness is a control port with its authority.
type harness struct {
	t         *testing.T
	authority *secrets.Authority
	server    *Server
	addr      string

	mu      sync.Mutex
	removed map[string]bool
}

// newHarness starts a control port of "manager1" whose routes setup registers.
func newHarness(t *testing.T, limits Limits, setup func(*Server)) *harness {
	t.Helper()
	h := &harness{t: t, authority: secretstest.Authority(t), removed: map[string]bool{}}
	id := secretstest.Identity(t, h.authority, "manager1", secrets.RoleManager)
	server, err := NewServer(ServerConfig{Identity: func() *secrets.Identity { return id }, Allowed: h.allowed, Limits: limits})
	if err != nil {
		t.Fatal(err)
	}
	h.server = server
	if setup != nil {
		setup(server)
	}
	ln, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.addr = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return h
}

func (h *harness) allowed(p secrets.Peer, _ Access) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.removed[p.NodeID] {
		return ErrRemoved
	}
	return nil
}

func (h *harness) remove(node string) {
	h.mu.Lock()
	h.removed[node] = true
	h.mu.Unlock()
	h.server.Cut(node)
}

func (h *harness) identity(node string, role secrets.Role) *secrets.Identity {
	return secretstest.Identity(h.t, h.authority, node, role)
}

func (h *harness) client(id *secrets.Identity) *Client {
	h.t.Helper()
	c, err := NewClient(ClientConfig{Identity: func() *secrets.Identity { return id }})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(c.Close)
	return c
}

// eventually polls until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: did not happen", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// ended waits until the other side has closed c.
func ended(t *testing.T, c net.Conn, within time.Duration) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(within))
	buf := make([]byte, 1<<10)
	for {
		if _, err := c.Read(buf); err != nil {
			if ne, ok := err.(net.Error); ok && ne.Timeout() {
				t.Fatalf("connection is still open after %s", within)
			}
			return
		}
	}
}

// whoami answers with the caller's node ID.
var whoami = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	p, _ := PeerFrom(r.Context())
	WriteJSON(w, p.NodeID)
})

// rawTLS opens a TLS connection as id, or without a certificate.
func rawTLS(t *testing.T, addr string, id *secrets.Identity, proto string) *tls.Conn {
	t.Helper()
	cfg := secrets.UnverifiedTLS(proto)
	if id != nil {
		cfg = id.ClientTLS(proto)
	}
	c, err := tls.Dial("tcp", addr, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}
