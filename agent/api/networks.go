package api

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strconv"

	"github.com/docker/docker/api/server/httputils"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/versions"
)

// A network is the swarm's when the swarm knows it by ID, name or prefix of the ID; all others are the engine's.

func (s *Server) listNetworks(ctx context.Context, w http.ResponseWriter, r *http.Request, vars map[string]string) error {
	if err := httputils.ParseForm(r); err != nil {
		return err
	}
	f, err := filters.FromJSON(r.Form.Get("filters"))
	if err != nil {
		return err
	}
	if err := network.ValidateFilters(f); err != nil {
		return err
	}
	list, err := filterNetworks(s.backend.networks(), f)
	if err != nil {
		return err
	}
	out := []any{}
	known := map[string]bool{}
	for _, n := range list {
		out = append(out, n)
		known[n.ID] = true
	}
	var local []json.RawMessage
	if err := s.engine.ask(ctx, vars["version"], http.MethodGet, "/networks", r.URL.Query(), &local); err != nil {
		// Without its engine the node still tells about the swarm's networks.
		s.log.Debug("engine's networks", "err", err)
	}
	for _, raw := range local {
		var n struct{ ID string }
		if json.Unmarshal(raw, &n) == nil && !known[n.ID] {
			out = append(out, raw)
		}
	}
	return httputils.WriteJSON(w, http.StatusOK, out)
}

func (s *Server) inspectNetwork(ctx context.Context, w http.ResponseWriter, r *http.Request, vars map[string]string) error {
	q := r.URL.Query()
	verbose := false
	if v := q.Get("verbose"); v != "" {
		var err error
		if verbose, err = strconv.ParseBool(v); err != nil {
			return invalid("invalid value for verbose: %s: %w", v, err)
		}
	}
	scope := q.Get("scope")
	if scope != scopeLocal {
		n, found, err := s.backend.network(vars["id"], verbose)
		if err != nil {
			return err
		}
		if found {
			return httputils.WriteJSON(w, http.StatusOK, n)
		}
	}
	if scope == scopeSwarm {
		return notFound("network %s not found", vars["id"])
	}
	return s.proxy(ctx, w, r, vars)
}

func (s *Server) createNetwork(ctx context.Context, w http.ResponseWriter, r *http.Request, vars map[string]string) error {
	var req network.CreateRequest
	if err := peek(r, &req); err != nil {
		return err
	}
	if versions.LessThan(httputils.VersionFromContext(ctx), "1.48") {
		req.EnableIPv4 = nil
	}
	if isSwarmNetwork(req) {
		return s.leading(func(ctx context.Context, w http.ResponseWriter, _ *http.Request, _ map[string]string) error {
			resp, err := s.backend.createNetwork(req)
			if err != nil {
				return err
			}
			return httputils.WriteJSON(w, http.StatusCreated, resp)
		})(ctx, w, r, vars)
	}
	if isForwarded(ctx) {
		return notFound("page not found")
	}
	if c, ok := s.cfg.Local.Cluster(); ok && c.Store().View().NetworkByName(req.Name) != nil {
		return nameTaken(req.Name)
	}
	return s.proxy(ctx, w, r, vars)
}

// isSwarmNetwork tells which requests make a network of the swarm.
func isSwarmNetwork(req network.CreateRequest) bool {
	return req.Driver == overlay || req.Scope == scopeSwarm || req.Ingress
}

// nameTaken is libnetwork's error.
func nameTaken(name string) error { return conflict("network with name %s already exists", name) }

func (s *Server) deleteNetwork(ctx context.Context, w http.ResponseWriter, r *http.Request, vars map[string]string) error {
	_, found, err := s.backend.network(vars["id"], false)
	if err != nil {
		return err
	}
	if !found && !isForwarded(ctx) {
		return s.proxy(ctx, w, r, vars)
	}
	return s.leading(func(ctx context.Context, w http.ResponseWriter, _ *http.Request, _ map[string]string) error {
		if err := s.backend.removeNetwork(vars["id"]); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	})(ctx, w, r, vars)
}

func (s *Server) connectNetwork(ctx context.Context, w http.ResponseWriter, r *http.Request, vars map[string]string) error {
	if isForwarded(ctx) {
		return notFound("page not found")
	}
	n, found, err := s.backend.network(vars["id"], false)
	if err != nil {
		return err
	}
	if found {
		return notSupported("connecting a single container to the swarm network %s is not supported yet: run it as a service", n.Name)
	}
	return s.proxy(ctx, w, r, vars)
}

// createContainer lets the engine make a container, unless it is to be in a network that only the swarm has: the engine
// would say that there is no such network.
func (s *Server) createContainer(ctx context.Context, w http.ResponseWriter, r *http.Request, vars map[string]string) error {
	var req struct {
		HostConfig       struct{ NetworkMode string }
		NetworkingConfig struct{ EndpointsConfig map[string]json.RawMessage }
	}
	if err := peek(r, &req); err != nil {
		return err
	}
	for _, n := range s.backend.networks() {
		_, byName := req.NetworkingConfig.EndpointsConfig[n.Name]
		_, byID := req.NetworkingConfig.EndpointsConfig[n.ID]
		if byName || byID || req.HostConfig.NetworkMode == n.Name || req.HostConfig.NetworkMode == n.ID {
			return notSupported("running a single container in the swarm network %s is not supported yet: run it as a service", n.Name)
		}
	}
	return s.proxy(ctx, w, r, vars)
}

// pruneNetworks removes unused networks of the swarm (by the leader) and of this node's engine.
func (s *Server) pruneNetworks(ctx context.Context, w http.ResponseWriter, r *http.Request, vars map[string]string) error {
	if err := httputils.ParseForm(r); err != nil {
		return err
	}
	f, err := filters.FromJSON(r.Form.Get("filters"))
	if err != nil {
		return err
	}
	prune := s.leading(func(_ context.Context, w http.ResponseWriter, _ *http.Request, _ map[string]string) error {
		report, err := s.backend.pruneNetworks(f)
		if err != nil {
			return err
		}
		return httputils.WriteJSON(w, http.StatusOK, report)
	})
	if isForwarded(ctx) {
		return prune(ctx, w, r, vars)
	}
	report := network.PruneReport{NetworksDeleted: []string{}}
	if _, ok := s.cfg.Local.Cluster(); ok {
		part := &capture{header: http.Header{}}
		if err := prune(ctx, part, r, vars); err != nil {
			return err
		}
		if part.code >= http.StatusBadRequest {
			(&engineError{code: part.code, body: part.Bytes()}).write(w)
			return nil
		}
		if err := json.Unmarshal(part.Bytes(), &report); err != nil {
			return err
		}
	}
	var local network.PruneReport
	if err := s.engine.ask(ctx, vars["version"], http.MethodPost, "/networks/prune", r.URL.Query(), &local); err != nil {
		return err
	}
	report.NetworksDeleted = append(report.NetworksDeleted, local.NetworksDeleted...)
	return httputils.WriteJSON(w, http.StatusOK, report)
}

// capture is a response kept in memory.
type capture struct {
	bytes.Buffer
	header http.Header
	code   int
}

func (c *capture) Header() http.Header  { return c.header }
func (c *capture) WriteHeader(code int) { c.code = code }
