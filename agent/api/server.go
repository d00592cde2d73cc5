package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/docker/docker/api"
	"github.com/docker/docker/api/server/middleware"
	"github.com/docker/docker/client"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/meshswarm/meshswarm/raft/state"
)

// Versions of the Docker Engine API that the socket speaks.
const (
	MaxVersion = api.DefaultVersion
	MinVersion = api.MinSupportedAPIVersion
)

// Limits of the listener.
const (
	maxConns       = 1024
	maxHeaderBytes = 256 << 10
	maxSwarmBody   = 4 << 20 // a raft entry holds 1.5 MiB; base64 and JSON around it
	headerTimeout  = 10 * time.Second
	idleTimeout    = 5 * time.Minute
	endTimeout     = 5 * time.Second
)

// Config is what a Server needs. Socket, Local and Engine must be set.
type Config struct {
	// Socket is the path of the unix socket.
	Socket string
	Local  Local
	// Engine is the client of the node's container engine. Only its address and dialer are used.
	Engine *client.Client
	// Forward carries a request to another manager: https://<control address>/v1/api/… with this node's certificate.
	// nil: a manager that does not lead answers 503.
	Forward http.RoundTripper
	// NewToken makes a join token for the authority with this certificate (PEM). nil: tokens cannot be rotated.
	NewToken func(rootCertPEM []byte) (string, error)
	// CheckConstraints judges placement constraints (sched.CheckConstraints). nil: services with constraints are refused as
	// not supported.
	CheckConstraints func(exprs []string) error
	// Explain tells why the tasks of a service run where they do or do not run (sched.Explain). serviceID exists in v; the
	// result is answered as JSON. nil: not supported.
	Explain func(v state.View, serviceID string, now time.Time) (any, error)
	// PlanRebalance gives the replicas of a service that should run on other nodes (sched.PlanRebalance), none when its
	// spread is even. nil: not supported.
	PlanRebalance func(v state.View, serviceID string, now time.Time) ([]Move, error)
	// Version is meshswarm's own.
	Version string
	// Now is the clock that proposals are stamped with; nil = time.Now.
	Now func() time.Time

	Logger   *slog.Logger
	Registry prometheus.Registerer
}

// Server serves a node's socket.
type Server struct {
	cfg      Config
	log      *slog.Logger
	backend  *Backend
	engine   *engine
	routes   []route
	versions *middleware.VersionMiddleware
	metrics  *metrics
	active   sync.WaitGroup
}

// New checks the configuration; it opens nothing.
func New(cfg Config) (*Server, error) {
	switch {
	case cfg.Socket == "":
		return nil, errors.New("api: no socket path")
	case cfg.Local == nil:
		return nil, errors.New("api: no Local")
	case cfg.Engine == nil:
		return nil, errors.New("api: no engine client")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Version == "" {
		cfg.Version = "0.0.0"
	}
	vm, err := middleware.NewVersionMiddleware(cfg.Version, MaxVersion, MinVersion)
	if err != nil {
		return nil, fmt.Errorf("api: %w", err)
	}
	m, err := newMetrics(cfg.Registry)
	if err != nil {
		return nil, fmt.Errorf("api: register metrics: %w", err)
	}
	s := &Server{cfg: cfg, log: cfg.Logger.With("component", "api"), versions: vm, metrics: m, engine: newEngine(cfg.Engine)}
	s.backend = &Backend{local: cfg.Local, engine: s.engine, now: cfg.Now, newToken: cfg.NewToken, checkConstraints: cfg.CheckConstraints, planRebalance: cfg.PlanRebalance}
	s.routes = s.allRoutes()
	return s, nil
}

// Run serves the socket until ctx ends. Streams end with ctx; requests under way get a few seconds to finish.
func (s *Server) Run(ctx context.Context) error {
	ln, err := listen(ctx, s.cfg.Socket, maxConns)
	if err != nil {
		return err
	}
	defer os.Remove(s.cfg.Socket)
	defer s.engine.close()
	g, gctx := errgroup.WithContext(ctx)
	srv := &http.Server{
		Handler:           http.HandlerFunc(s.serveSocket),
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		BaseContext:       func(net.Listener) context.Context { return gctx },
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	s.log.Info("serving the Docker Engine API", "addr", s.cfg.Socket)
	g.Go(func() error {
		if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve %s: %w", s.cfg.Socket, err)
		}
		return nil
	})
	g.Go(func() error {
		<-gctx.Done()
		end, cancel := context.WithTimeout(context.WithoutCancel(gctx), endTimeout)
		defer cancel()
		if err := srv.Shutdown(end); err != nil {
			srv.Close()
		}
		return nil
	})
	err = g.Wait()
	s.active.Wait() // hijacked streams are not the http.Server's
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// Handler serves the requests that another manager forwards (path prefix ForwardPrefix): swarm routes, on the leader only.
// The caller has authenticated the other manager.
func (s *Server) Handler() http.Handler { return http.HandlerFunc(s.serveForwarded) }
