package rpc

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/meshswarm/meshswarm/secrets"
	"github.com/meshswarm/meshswarm/secrets/secretstest"
)

// joiner signs whoever has the token, as a leader does.
func (h *harness) joiner(token string, seen chan<- JoinRequest) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var req JoinRequest
		if err := ReadJSON(r, &req); err != nil {
			WriteError(w, err)
			return
		}
		seen <- req
		if !secrets.TokensEqual(req.Token, token) {
			WriteError(w, ErrBadToken)
			return
		}
		cert, err := h.authority.Sign(req.CSR, "new1", secretstest.SwarmID, secrets.RoleWorker, time.Hour, time.Now())
		if err != nil {
			WriteError(w, err)
			return
		}
		WriteJSON(w, JoinResponse{NodeID: "new1", SwarmID: secretstest.SwarmID, Role: secrets.RoleWorker, Certificate: cert, Managers: []string{h.addr}})
	})
}

func mustToken(t *testing.T, a *secrets.Authority) string {
	t.Helper()
	token, err := secrets.NewToken(a.Digest())
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestJoin(t *testing.T) {
	seen := make(chan JoinRequest, 10)
	var token string
	var handler http.Handler
	h := newHarness(t, Limits{}, func(s *Server) {
		s.Handle("POST "+PathJoin, AccessAnyone, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler.ServeHTTP(w, r) }))
		s.Handle("POST /who", AccessMember, whoami)
	})
	token = mustToken(t, h.authority)
	handler = h.joiner(token, seen)

	follower := newHarness(t, Limits{}, func(s *Server) {
		s.Handle("POST "+PathJoin, AccessAnyone, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { WriteError(w, NotLeader(h.addr)) }))
	})
	// The follower belongs to the same swarm: give it an identity of the same authority.
	id := h.identity("manager2", secrets.RoleManager)
	follower.server.cfg.Identity = func() *secrets.Identity { return id }

	for name, addr := range map[string]string{"leader": h.addr, "follower": follower.addr} {
		t.Run(name, func(t *testing.T) {
			id, resp, err := Join(t.Context(), addr, token, JoinRequest{Hostname: "box"})
			if err != nil {
				t.Fatal(err)
			}
			if req := <-seen; req.Hostname != "box" || id.NodeID() != "new1" || resp.Managers[0] != h.addr {
				t.Errorf("%+v, %v, %+v", req.Hostname, id, resp.Managers)
			}
			var got string
			if err := h.client(id).Call(t.Context(), h.addr, "/who", nil, &got); err != nil || got != "new1" {
				t.Errorf("with the new identity: %q, %v", got, err)
			}
		})
	}

	t.Run("wrong token", func(t *testing.T) {
		if _, _, err := Join(t.Context(), h.addr, mustToken(t, h.authority), JoinRequest{}); !errors.Is(err, ErrBadToken) {
			t.Error(err)
		}
		<-seen
	})
	t.Run("malformed token", func(t *testing.T) {
		if _, _, err := Join(t.Context(), h.addr, "SWMTKN-1-x", JoinRequest{}); !errors.Is(err, secrets.ErrToken) {
			t.Error(err)
		}
	})
	t.Run("token of another swarm", func(t *testing.T) {
		if _, _, err := Join(t.Context(), h.addr, mustToken(t, secretstest.Authority(t)), JoinRequest{}); !errors.Is(err, secrets.ErrPin) {
			t.Error(err)
		}
	})
	t.Run("unreachable", func(t *testing.T) {
		if _, _, err := Join(t.Context(), "127.0.0.1:1", token, JoinRequest{}); !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "is that node up") {
			t.Error(err)
		}
	})
	if len(seen) != 0 {
		t.Error("a token was sent where none should be")
	}
}

// Somebody in between who shows the right authority's certificate but cannot prove to be a manager gets no token.
func TestJoinNeedsAVerifiedManager(t *testing.T) {
	seen := make(chan JoinRequest, 1)
	h := newHarness(t, Limits{}, func(s *Server) {
		s.Handle("POST "+PathJoin, AccessAnyone, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var req JoinRequest
			_ = ReadJSON(r, &req)
			seen <- req
		}))
	})
	worker := h.identity("w1", secrets.RoleWorker)
	h.server.cfg.Identity = func() *secrets.Identity { return worker }
	if _, _, err := Join(t.Context(), h.addr, mustToken(t, h.authority), JoinRequest{}); !errors.Is(err, secrets.ErrRole) {
		t.Errorf("worker poses as manager: %v", err)
	}
	if len(seen) != 0 {
		t.Error("the token was sent")
	}
}

func TestJoinClock(t *testing.T) {
	h := newHarness(t, Limits{}, nil)
	late := secretstest.IdentityAt(t, h.authority, "m1", secrets.RoleManager, time.Now().Add(-30*time.Minute), time.Minute)
	h.server.cfg.Identity = func() *secrets.Identity { return late }
	_, _, err := Join(t.Context(), h.addr, mustToken(t, h.authority), JoinRequest{})
	var clock *secrets.ClockError
	if !errors.As(err, &clock) {
		t.Errorf("expired manager: %v", err)
	}
}
