package rpc

import (
	"context"
	"errors"
	"net/http"

	"github.com/meshswarm/meshswarm/secrets"
)

type peerKey struct{}

// PeerFrom is the verified caller of the request that ctx belongs to; false for callers without a certificate.
func PeerFrom(ctx context.Context) (secrets.Peer, bool) {
	p, ok := ctx.Value(peerKey{}).(secrets.Peer)
	return p, ok
}

// WithPeer puts a peer into a context, for tests of handlers.
func WithPeer(ctx context.Context, p secrets.Peer) context.Context {
	return context.WithValue(ctx, peerKey{}, p)
}

// Handle registers a route of the control port (pattern as in http.ServeMux) for callers that have access. The body of a
// request is limited to 1 MiB; HandleStream has no such limit. Call it before Run.
func (s *Server) Handle(pattern string, access Access, h http.Handler) {
	s.HandleStream(pattern, access, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		h.ServeHTTP(w, r)
	}))
}

// HandleStream is Handle for routes whose bodies are streams: the handler limits them.
func (s *Server) HandleStream(pattern string, access Access, h http.Handler) {
	s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		if !s.gate.begin() {
			WriteError(w, ErrUnavailable.With("it is stopping"))
			return
		}
		defer s.gate.handlers.Done()
		peer, err := s.authenticate(r, access)
		if err != nil {
			s.metrics.refused.WithLabelValues("access").Inc()
			s.log.Debug("request refused", "addr", r.RemoteAddr, "peer", peer.NodeID, "access", access.String(), "err", err)
			WriteError(w, err)
			return
		}
		if peer != (secrets.Peer{}) {
			r = r.WithContext(WithPeer(r.Context(), peer))
		}
		h.ServeHTTP(w, r)
	})
}

// authenticate tells who sent r, and whether that is enough for access.
func (s *Server) authenticate(r *http.Request, access Access) (secrets.Peer, error) {
	if r.TLS == nil {
		return secrets.Peer{}, ErrNoCertificate
	}
	peer, err := secrets.PeerOf(*r.TLS)
	if err != nil {
		if access == AccessAnyone && errors.Is(err, secrets.ErrNoCertificate) {
			return secrets.Peer{}, nil
		}
		return secrets.Peer{}, ErrNoCertificate
	}
	if access == AccessAnyone {
		return peer, nil
	}
	return peer, s.check(peer, access)
}

// check holds a verified peer against the access it wants.
func (s *Server) check(peer secrets.Peer, access Access) error {
	self := s.cfg.Identity()
	if peer.SwarmID != self.SwarmID() {
		return ErrForbidden.With("certificate belongs to another swarm")
	}
	if access >= AccessManager && peer.Role != secrets.RoleManager {
		return ErrForbidden.With("only managers may")
	}
	err := s.cfg.Allowed(peer, access)
	var refusal *Error
	if err == nil || errors.As(err, &refusal) {
		return err
	}
	return ErrForbidden.With("%v", err)
}
