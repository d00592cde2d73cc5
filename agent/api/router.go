package api

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/docker/docker/api/server/httpstatus"
	"github.com/docker/docker/api/server/httputils"
	"github.com/docker/docker/api/server/router"
	swarmrouter "github.com/docker/docker/api/server/router/swarm"
	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/versions"
)

// place is where a route is answered.
type place int

const (
	here     place = iota // on this node, whatever its role
	onLeader              // forwarded to the leader by other managers
	mixed                 // the handler decides: networks are the swarm's or the engine's
)

// route is one method and path of the API; segments in braces match any one segment.
type route struct {
	method, path string
	segments     []string
	place        place
	handler      httputils.APIFunc
}

// localSwarmPaths are the swarm routes about this node's own membership.
var localSwarmPaths = map[string]bool{
	"/swarm/init": true, "/swarm/join": true, "/swarm/leave": true, "/swarm/unlock": true,
}

// swarmRoots are never proxied: what the swarm router does not know there is not found.
var swarmRoots = map[string]bool{
	"swarm": true, "services": true, "nodes": true, "tasks": true, "secrets": true, "configs": true,
	"meshswarm": true,
}

func (s *Server) allRoutes() []route {
	var out []route
	add := func(method, path string, p place, h httputils.APIFunc) {
		out = append(out, route{method: method, path: path, segments: segments(path), place: p, handler: h})
	}
	var swarmRoutes router.Router = swarmrouter.NewRouter(s.backend)
	for _, r := range swarmRoutes.Routes() {
		p := onLeader
		if localSwarmPaths[r.Path()] {
			p = here
		}
		add(r.Method(), r.Path(), p, r.Handler())
	}
	add(http.MethodHead, "/_ping", here, s.ping)
	add(http.MethodGet, "/_ping", here, s.ping)
	add(http.MethodGet, "/version", here, s.getVersion)
	add(http.MethodGet, "/info", here, s.getInfo)
	add(http.MethodGet, "/networks", mixed, s.listNetworks)
	add(http.MethodGet, "/networks/{id}", mixed, s.inspectNetwork)
	add(http.MethodPost, "/networks/create", mixed, s.createNetwork)
	add(http.MethodPost, "/networks/prune", mixed, s.pruneNetworks)
	add(http.MethodPost, "/networks/{id}/connect", mixed, s.connectNetwork)
	add(http.MethodPost, "/networks/{id}/disconnect", mixed, s.connectNetwork)
	add(http.MethodDelete, "/networks/{id}", mixed, s.deleteNetwork)
	add(http.MethodGet, "/containers/json", here, s.listContainers)
	add(http.MethodPost, "/containers/create", here, s.createContainer)
	add(http.MethodPost, "/volumes/create", here, s.createVolume)
	add(http.MethodPut, "/volumes/{name}", here, s.updateVolume)
	add(http.MethodPost, "/meshswarm/down", here, s.down)
	add(http.MethodGet, "/meshswarm/services/{id}/explain", onLeader, s.explainService)
	add(http.MethodPost, "/meshswarm/services/{id}/rebalance", onLeader, s.rebalanceService)
	return out
}

func segments(path string) []string { return strings.Split(strings.Trim(path, "/"), "/") }

// match finds the route of a method and path (without version) and the values of its variables.
func (s *Server) match(method, path string) (*route, map[string]string) {
	segs := segments(path)
	for i := range s.routes {
		r := &s.routes[i]
		if r.method != method || len(r.segments) != len(segs) {
			continue
		}
		if vars, ok := matchSegments(r.segments, segs); ok {
			return r, vars
		}
	}
	return nil, map[string]string{}
}

func matchSegments(pattern, segs []string) (map[string]string, bool) {
	vars := map[string]string{}
	for i, p := range pattern {
		switch {
		case strings.HasPrefix(p, "{") && segs[i] != "":
			vars[strings.Trim(p, "{}")] = segs[i]
		case p != segs[i]:
			return nil, false
		}
	}
	return vars, true
}

// versionPrefix is Docker's own matcher.
var versionPrefix = regexp.MustCompile(`^/v([0-9.]+)(/.*)$`)

func splitVersion(path string) (version, rest string) {
	if m := versionPrefix.FindStringSubmatch(path); m != nil {
		return m[1], m[2]
	}
	return "", path
}

type forwardedKey struct{}

// isForwarded tells whether another manager sent the request on to us.
func isForwarded(ctx context.Context) bool { return ctx.Value(forwardedKey{}) != nil }

// serveSocket serves a local user.
func (s *Server) serveSocket(w http.ResponseWriter, r *http.Request) {
	s.active.Add(1)
	defer s.active.Done()
	version, path := splitVersion(r.URL.Path)
	rt, vars := s.match(r.Method, path)
	if rt == nil {
		rt = s.fallback(path)
	}
	s.serve(w, r, version, rt, vars)
}

// serveForwarded serves another manager.
func (s *Server) serveForwarded(w http.ResponseWriter, r *http.Request) {
	r = r.WithContext(context.WithValue(r.Context(), forwardedKey{}, true))
	version, path := splitVersion(strings.TrimPrefix(r.URL.Path, ForwardPrefix))
	rt, vars := s.match(r.Method, path)
	if rt == nil || rt.place == here {
		rt = &route{path: "unknown", handler: pageNotFound}
	}
	s.serve(&indexWriter{ResponseWriter: w, server: s}, r, version, rt, vars)
}

func (s *Server) fallback(path string) *route {
	if swarmRoots[segments(path)[0]] {
		return &route{path: "unknown", handler: pageNotFound}
	}
	return &route{path: "engine", handler: s.proxy}
}

func pageNotFound(context.Context, http.ResponseWriter, *http.Request, map[string]string) error {
	return notFound("page not found")
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request, version string, rt *route, vars map[string]string) {
	start := time.Now()
	rw := &recorder{ResponseWriter: w}
	if version != "" {
		vars["version"] = version
	}
	handler := rt.handler
	if rt.place == onLeader {
		handler = s.leading(handler)
	}
	if rt.place != here || swarmRoots[segments(rt.path)[0]] {
		r.Body = http.MaxBytesReader(rw, r.Body, maxSwarmBody)
	}
	rw.Header().Set("Docker-Experimental", "false")
	if err := s.versions.WrapHandler(handler)(r.Context(), rw, r, vars); err != nil {
		s.fail(rw, r, version, err)
	}
	if rw.code == 0 {
		rw.WriteHeader(http.StatusOK)
	}
	s.metrics.observe(rt.path, rw.code, start)
	s.log.Debug("answered", "method", r.Method, "path", r.URL.Path, "code", rw.code, "dur", time.Since(start))
}

// fail writes an error as Docker's server does.
func (s *Server) fail(w *recorder, r *http.Request, version string, err error) {
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		err = invalid("request body is larger than %d bytes", tooLarge.Limit)
	}
	code := httpstatus.FromError(err)
	if code == http.StatusInternalServerError && r.Context().Err() == nil {
		s.log.Warn("request failed", "method", r.Method, "path", r.URL.Path, "err", err)
	}
	if w.code != 0 { // too late to tell
		return
	}
	if version != "" && versions.LessThan(version, MinVersion) {
		http.Error(w, err.Error(), code)
		return
	}
	_ = httputils.WriteJSON(w, code, &types.ErrorResponse{Message: err.Error()})
}

// recorder remembers the status of a response.
type recorder struct {
	http.ResponseWriter
	code int
}

func (w *recorder) WriteHeader(code int) {
	if w.code == 0 && code >= 200 || code == http.StatusSwitchingProtocols {
		w.code = code
	}
	w.ResponseWriter.WriteHeader(code)
}

func (w *recorder) Write(b []byte) (int, error) {
	if w.code == 0 {
		w.code = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Flush is for Docker's log writer, which asks for the interface.
func (w *recorder) Flush() { _ = http.NewResponseController(w.ResponseWriter).Flush() }

// Hijack is for the proxy's connection upgrades.
func (w *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w.code = http.StatusSwitchingProtocols
	return http.NewResponseController(w.ResponseWriter).Hijack()
}
