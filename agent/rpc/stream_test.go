package rpc

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshswarm/meshswarm/secrets"
)

type note struct {
	N    int
	Text string `json:",omitempty"`
}

// echo answers every message, and an empty one with an empty one.
func echo(ended chan<- error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, err := AcceptStream(w, r)
		if err == nil {
			defer s.Close()
		}
		for err == nil {
			var n note
			if err = s.Receive(&n); err != nil {
				break
			}
			if n == (note{}) {
				err = s.Send(nil)
				continue
			}
			err = s.Send(n)
		}
		ended <- err
	})
}

func TestStream(t *testing.T) {
	done := make(chan error, 10)
	h := newHarness(t, Limits{}, func(s *Server) { s.HandleStream("POST "+PathSession, AccessMember, echo(done)) })
	c := h.client(h.identity("w1", secrets.RoleWorker))
	s, err := c.Open(t.Context(), h.addr, PathSession)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for i := 1; i < 50; i++ {
		if err := s.Send(note{N: i, Text: strings.Repeat("x", i*1000)}); err != nil {
			t.Fatal(err)
		}
		var got note
		if err := s.Receive(&got); err != nil || got.N != i {
			t.Fatalf("%d: %d, %v", i, got.N, err)
		}
	}
	if err := s.Send(nil); err != nil {
		t.Fatal(err)
	}
	got := note{N: -1}
	if err := s.Receive(&got); err != nil || got.N != -1 {
		t.Errorf("empty message: %+v, %v", got, err)
	}
	if err := s.Send(note{Text: strings.Repeat("x", MaxUp)}); !errors.Is(err, ErrMessageSize) {
		t.Errorf("large message: %v", err)
	}
	s.Close()
	if err := <-done; err == nil {
		t.Error("handler noticed no end")
	}
}

func TestCutEndsStream(t *testing.T) {
	done := make(chan error, 10)
	h := newHarness(t, Limits{}, func(s *Server) { s.HandleStream("POST "+PathSession, AccessMember, echo(done)) })
	c := h.client(h.identity("w1", secrets.RoleWorker))
	s, err := c.Open(t.Context(), h.addr, PathSession)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	h.remove("w1")
	var n note
	if err := s.Receive(&n); err == nil {
		t.Error("stream of a removed node goes on")
	}
	<-done
	if _, err := c.Open(t.Context(), h.addr, PathSession); !errors.Is(err, ErrRemoved) {
		t.Errorf("removed node opens a stream: %v", err)
	}
}

// The manager's side can end a stream whose reader hangs.
func TestServerClosesStream(t *testing.T) {
	done := make(chan error, 1)
	h := newHarness(t, Limits{}, func(s *Server) {
		s.HandleStream("POST "+PathSession, AccessMember, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s, err := AcceptStream(w, r)
			if err != nil {
				done <- err
				return
			}
			defer s.Close()
			go s.Close()
			done <- s.Receive(&note{})
		}))
	})
	s, err := h.client(h.identity("w1", secrets.RoleWorker)).Open(t.Context(), h.addr, PathSession)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	select {
	case err := <-done:
		if err == nil {
			t.Error("Receive returned a message")
		}
	case <-time.After(5 * time.Second):
		t.Fatal("Close did not end Receive")
	}
}

// A manager whose machine is gone sends nothing, not even a reset: pings notice.
func TestDeadManagerIsNoticed(t *testing.T) {
	done := make(chan error, 1)
	h := newHarness(t, Limits{}, func(s *Server) { s.HandleStream("POST "+PathSession, AccessMember, echo(done)) })
	id := h.identity("w1", secrets.RoleWorker)
	var dead atomic.Bool
	c, err := NewClient(ClientConfig{
		Identity: func() *secrets.Identity { return id },
		Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			raw, err := (&net.Dialer{}).DialContext(ctx, network, addr)
			return &mute{Conn: raw, dead: &dead}, err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := c.Open(t.Context(), h.addr, PathSession)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	start := time.Now()
	dead.Store(true)
	if err := s.Receive(&note{}); err == nil || err == io.EOF {
		t.Errorf("Receive: %v", err)
	}
	if d := time.Since(start); d > 2500*time.Millisecond {
		t.Errorf("noticed after %s", d)
	}
}

// mute is a connection that can go dead: writes vanish, nothing arrives.
type mute struct {
	net.Conn
	dead *atomic.Bool
}

func (m *mute) Write(p []byte) (int, error) {
	if m.dead.Load() {
		return len(p), nil
	}
	return m.Conn.Write(p)
}

func TestIdentityIsReplaceable(t *testing.T) {
	h := newHarness(t, Limits{}, func(s *Server) { s.Handle("POST /who", AccessMember, whoami) })
	var current atomic.Pointer[secrets.Identity]
	current.Store(h.identity("w1", secrets.RoleWorker))
	c, err := NewClient(ClientConfig{Identity: current.Load})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, node := range []string{"w1", "w2"} {
		current.Store(h.identity(node, secrets.RoleWorker))
		var got string
		if err := c.Call(t.Context(), h.addr, "/who", nil, &got); err != nil || got != node {
			t.Errorf("%q, %v; want %s", got, err, node)
		}
	}
}

func TestUnreachable(t *testing.T) {
	h := newHarness(t, Limits{}, nil)
	c := h.client(h.identity("w1", secrets.RoleWorker))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, "220 mail.example ESMTP\r\n")
			_ = conn.Close()
		}
	}()
	for _, addr := range []string{"127.0.0.1:1", ln.Addr().String()} {
		if err := c.Call(t.Context(), addr, "/x", nil, nil); !errors.Is(err, ErrUnreachable) {
			t.Errorf("%s: %v", addr, err)
		}
	}
}
