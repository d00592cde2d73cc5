package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/meshswarm/meshswarm/secrets"
)

const (
	handshakeTimeout = 5 * time.Second
	// anonymousLife ends connections without a certificate: a join needs a moment, not a stay.
	anonymousLife = 30 * time.Second
	idleTimeout   = 2 * time.Minute
	maxHeader     = 32 << 10
	maxStreams    = 250 // requests at once on one connection
)

// ServerConfig says what a Server needs.
type ServerConfig struct {
	// Identity gives the node's present identity, which may change.
	Identity func() *secrets.Identity
	// Allowed decides whether a verified peer may have access. It is asked for every request and raft stream. An *Error
	// is passed on as it is, anything else as ErrForbidden. Role and swarm have been checked already.
	Allowed  func(secrets.Peer, Access) error
	Limits   Limits
	Logger   *slog.Logger
	Registry prometheus.Registerer
}

// Server is the control port. Register routes with Handle before Run.
type Server struct {
	cfg     ServerConfig
	log     *slog.Logger
	gate    *gate
	mux     *http.ServeMux
	raft    raftSwitch
	metrics *serverMetrics
}

// NewServer checks cfg and returns a Server that answers GET /v1/ca only.
func NewServer(cfg ServerConfig) (*Server, error) {
	if cfg.Identity == nil || cfg.Allowed == nil {
		return nil, errors.New("rpc: a Server needs Identity and Allowed")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{cfg: cfg, log: cfg.Logger.With("component", "rpc"), gate: newGate(cfg.Limits), mux: http.NewServeMux()}
	metrics, err := newServerMetrics(cfg.Registry, s.gate.count)
	if err != nil {
		return nil, err
	}
	s.metrics = metrics
	s.Handle("GET "+PathCA, AccessAnyone, http.HandlerFunc(s.serveCA))
	return s, nil
}

func (s *Server) serveCA(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/x-pem-file")
	_, _ = w.Write(s.cfg.Identity().RootPEM())
}

// Listen opens the control port, with errors that say what to do.
func Listen(addr string) (net.Listener, error) {
	ln, err := net.Listen("tcp", addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("open control port %s: %w: another node or program holds it; choose another with --listen-addr", addr, err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("open control port %s: %w: this machine does not have that address; check --listen-addr", addr, err)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("open control port %s: %w: choose a port above 1023 with --listen-addr", addr, err)
	case err != nil:
		return nil, fmt.Errorf("open control port %s: %w", addr, err)
	}
	return ln, nil
}

// Run serves ln until ctx ends or ln fails, closes it and all connections, and returns when every handler has.
func (s *Server) Run(ctx context.Context, ln net.Listener) error {
	s.gate.open()
	feed := newFeed(ln.Addr())
	srv := s.httpServer(ctx)
	g, ctx := errgroup.WithContext(ctx)
	var handshakes sync.WaitGroup
	g.Go(func() error { return s.accept(ctx, ln, feed, &handshakes) })
	g.Go(func() error {
		if err := srv.Serve(feed); ctx.Err() == nil {
			return fmt.Errorf("serve control port: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		_ = ln.Close()
		_ = feed.Close()
		s.raft.shut()
		s.gate.shut()
		_ = srv.Close()
		return nil
	})
	err := g.Wait()
	handshakes.Wait()
	s.gate.handlers.Wait()
	return err
}

// httpServer makes net/http's part. Its connections arrive with the handshake done.
func (s *Server) httpServer(ctx context.Context) *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP2(true)
	return &http.Server{
		Handler:           s.mux,
		Protocols:         &protocols,
		ReadHeaderTimeout: handshakeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return ctx },
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: maxStreams,
			SendPingTimeout:      10 * time.Second,
			PingTimeout:          5 * time.Second,
			WriteByteTimeout:     sendTimeout,
		},
	}
}

// accept takes connections until ln closes.
func (s *Server) accept(ctx context.Context, ln net.Listener, feed *feed, handshakes *sync.WaitGroup) error {
	for {
		raw, err := ln.Accept()
		if ctx.Err() != nil {
			if err == nil {
				_ = raw.Close()
			}
			return nil
		}
		if err != nil {
			if !temporary(err) {
				return fmt.Errorf("accept on control port: %w", err)
			}
			s.log.Warn("accept on control port", "err", err)
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		c, reason := s.gate.admit(raw)
		if c == nil {
			s.metrics.refused.WithLabelValues(reason).Inc()
			_ = raw.Close()
			continue
		}
		handshakes.Go(func() { s.greet(ctx, c, feed) })
	}
}

// temporary errors of accept pass: the process is out of descriptors, or the peer was quick to leave.
func temporary(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOBUFS) ||
		errors.Is(err, syscall.ENOMEM) || errors.Is(err, syscall.ECONNABORTED)
}

// greet does the handshake and hands the connection to whom it is for.
func (s *Server) greet(ctx context.Context, c *conn, feed *feed) {
	tc := tls.Server(c, &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return s.cfg.Identity().ServerTLS(ProtoRaft, ProtoHTTP), nil
		},
	})
	hctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	err := tc.HandshakeContext(hctx)
	cancel()
	if err == nil {
		err = s.place(tc, c, feed)
	}
	if err != nil {
		s.metrics.refused.WithLabelValues("handshake").Inc()
		s.log.Debug("connection refused", "addr", c.RemoteAddr().String(), "err", err)
		_ = c.Close()
	}
}

// place sorts a connection by certificate and protocol.
func (s *Server) place(tc *tls.Conn, c *conn, feed *feed) error {
	cs := tc.ConnectionState()
	peer, err := secrets.PeerOf(cs)
	life := anonymousLife
	switch {
	case err == nil:
		if !s.gate.identify(c, peer.NodeID) {
			return net.ErrClosed
		}
		life = time.Until(peer.Expiry)
	case !errors.Is(err, secrets.ErrNoCertificate):
		return err
	}
	timer := time.AfterFunc(life, func() { _ = c.Close() })
	c.onClose(func() { timer.Stop() })
	switch cs.NegotiatedProtocol {
	case ProtoHTTP:
		return feed.put(tc)
	case ProtoRaft:
		if err != nil {
			return err
		}
		if err := s.check(peer, AccessRaft); err != nil {
			return fmt.Errorf("raft stream of node %s: %w", peer.NodeID, err)
		}
		return s.raft.put(tc)
	}
	return fmt.Errorf("client speaks no protocol of ours (ALPN %s or %s)", ProtoHTTP, ProtoRaft)
}

// Cut closes all connections that a node has open here, and returns how many there were.
func (s *Server) Cut(nodeID string) int {
	conns := s.gate.of(nodeID)
	for _, c := range conns {
		_ = c.Close()
	}
	return len(conns)
}
