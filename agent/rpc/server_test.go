package rpc

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/meshswarm/meshswarm/secrets"
	"github.com/meshswarm/meshswarm/secrets/secretstest"
)

func TestAccess(t *testing.T) {
	h := newHarness(t, Limits{}, func(s *Server) {
		s.Handle("POST /any", AccessAnyone, whoami)
		s.Handle("POST /member", AccessMember, whoami)
		s.Handle("POST /manager", AccessManager, whoami)
	})
	foreign := secretstest.Identity(t, secretstest.Authority(t), "manager1", secrets.RoleManager)
	h.removed["gone"] = true
	tests := []struct {
		name                 string
		id                   *secrets.Identity
		any, member, manager error
	}{
		{"manager", h.identity("m2", secrets.RoleManager), nil, nil, nil},
		{"worker", h.identity("w1", secrets.RoleWorker), nil, nil, ErrForbidden},
		{"removed", h.identity("gone", secrets.RoleManager), nil, ErrRemoved, ErrRemoved},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := h.client(tt.id)
			for path, want := range map[string]error{"/any": tt.any, "/member": tt.member, "/manager": tt.manager} {
				var got string
				err := c.Call(t.Context(), h.addr, path, nil, &got)
				if !errors.Is(err, want) || (want == nil && (err != nil || got != tt.id.NodeID())) {
					t.Errorf("%s: %q, %v; want %v", path, got, err, want)
				}
			}
		})
	}
	if err := h.client(foreign).Call(t.Context(), h.addr, "/any", nil, nil); !errors.Is(err, secrets.ErrForeign) {
		t.Errorf("manager of another swarm: %v", err)
	}
	if err := h.client(tests[0].id).Call(t.Context(), h.addr, "/nowhere", nil, nil); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("no such route: %v", err)
	}
}

func TestNoCertificate(t *testing.T) {
	h := newHarness(t, Limits{}, func(s *Server) {
		s.Handle("POST /any", AccessAnyone, whoami)
		s.Handle("POST /member", AccessMember, whoami)
	})
	tr := newTransport(func(ctx context.Context, addr string) (net.Conn, error) {
		return dialTLS(ctx, (&net.Dialer{}).DialContext, addr, secrets.UnverifiedTLS(ProtoHTTP))
	})
	defer tr.CloseIdleConnections()
	if err := call(t.Context(), tr, h.addr, "/any", nil, nil); err != nil {
		t.Errorf("open route: %v", err)
	}
	if err := call(t.Context(), tr, h.addr, "/member", nil, nil); !errors.Is(err, ErrNoCertificate) {
		t.Errorf("members' route: %v", err)
	}
	c := rawTLS(t, h.addr, nil, ProtoRaft)
	ended(t, c, 5*time.Second)
}

func TestBodyLimit(t *testing.T) {
	h := newHarness(t, Limits{}, func(s *Server) {
		s.Handle("POST /read", AccessMember, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var v any
			if err := ReadJSON(r, &v); err != nil {
				WriteError(w, err)
			}
		}))
	})
	c := h.client(h.identity("w1", secrets.RoleWorker))
	err := c.Call(t.Context(), h.addr, "/read", strings.Repeat("x", maxBody+1), nil)
	var refusal *Error
	if !errors.As(err, &refusal) || refusal.Status != http.StatusRequestEntityTooLarge {
		t.Errorf("large body: %v", err)
	}
	if err := c.Call(t.Context(), h.addr, "/read", "small", nil); err != nil {
		t.Errorf("small body: %v", err)
	}
}

func TestGarbage(t *testing.T) {
	h := newHarness(t, Limits{}, nil)
	for _, text := range []string{"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "\x16\x03\x01\xff\xff", strings.Repeat("\x00", 1<<10), "SSH-2.0-x\r\n"} {
		c, err := net.Dial("tcp", h.addr)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(c, text)
		ended(t, c, handshakeTimeout+2*time.Second)
		_ = c.Close()
	}
	if err := h.client(h.identity("w1", secrets.RoleWorker)).Call(t.Context(), h.addr, "/x", nil, nil); err == nil {
		t.Error("server should still answer 404")
	}
}

func TestConnectionLimits(t *testing.T) {
	h := newHarness(t, Limits{Conns: 6, Anonymous: 4, PerSource: 3}, func(s *Server) { s.Handle("POST /member", AccessMember, whoami) })
	var idle []net.Conn
	for range 3 {
		c, err := net.Dial("tcp", h.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		idle = append(idle, c)
	}
	eventually(t, "three connections", func() bool { return h.server.gate.count() == 3 })
	c, err := net.Dial("tcp", h.addr)
	if err != nil {
		t.Fatal(err)
	}
	ended(t, c, 2*time.Second)
	_ = c.Close()
	// Silent connections go away by themselves, and members get in.
	for _, c := range idle {
		ended(t, c, handshakeTimeout+2*time.Second)
	}
	client := h.client(h.identity("w1", secrets.RoleWorker))
	eventually(t, "member gets in", func() bool { return client.Call(t.Context(), h.addr, "/member", nil, nil) == nil })
}

func TestRaftStreams(t *testing.T) {
	h := newHarness(t, Limits{}, nil)
	manager := h.client(h.identity("m2", secrets.RoleManager))
	stream := h.server.RaftStream("10.1.2.3:2377", manager)
	if stream.Addr().String() != "10.1.2.3:2377" {
		t.Errorf("calls itself %s", stream.Addr())
	}
	type result struct {
		conn net.Conn
		err  error
	}
	accepted := make(chan result, 4)
	acceptOne := func(s *RaftStream) {
		go func() {
			c, err := s.Accept()
			accepted <- result{c, err}
		}()
	}
	acceptOne(stream)
	out, err := stream.Dial(h.addr, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	in := <-accepted
	if in.err != nil {
		t.Fatal(in.err)
	}
	go func() { _, _ = io.WriteString(out, "ping") }()
	buf := make([]byte, 4)
	if _, err := io.ReadFull(in.conn, buf); err != nil || string(buf) != "ping" {
		t.Errorf("%q, %v", buf, err)
	}
	h.remove("m2")
	ended(t, out, 2*time.Second)
	if c, err := stream.Dial(h.addr, 5*time.Second); err == nil { // refused after the handshake
		ended(t, c, 2*time.Second)
		_ = c.Close()
	}
	ended(t, rawTLS(t, h.addr, h.identity("w1", secrets.RoleWorker), ProtoRaft), 2*time.Second)

	acceptOne(stream)
	next := h.server.RaftStream("10.1.2.3:2377", manager)
	if r := <-accepted; !errors.Is(r.err, net.ErrClosed) {
		t.Errorf("replaced stream: %v", r.err)
	}
	_ = next.Close()
	ended(t, rawTLS(t, h.addr, h.identity("m3", secrets.RoleManager), ProtoRaft), 2*time.Second)
}

func TestCertificateEndsConnection(t *testing.T) {
	h := newHarness(t, Limits{}, nil)
	h.server.RaftStream("x:1", nil)
	id := secretstest.IdentityAt(t, h.authority, "m2", secrets.RoleManager, time.Now(), 2*time.Second)
	ended(t, rawTLS(t, h.addr, id, ProtoHTTP), 5*time.Second)
}

func TestListenErrors(t *testing.T) {
	ln, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for addr, want := range map[string]string{ln.Addr().String(): "--listen-addr", "192.0.2.1:2377": "does not have that address"} {
		if _, err := Listen(addr); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", addr, err)
		}
	}
}
