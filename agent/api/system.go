package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"runtime"
	"time"

	"github.com/docker/docker/api/server/httputils"
	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/swarm"
)

// twoManagers is Docker's own warning.
const twoManagers = `WARNING: Running Swarm in a two-manager configuration. This configuration provides
         no fault tolerance, and poses a high risk to lose control over the cluster.
         Refer to https://docs.docker.com/engine/swarm/admin_guide/ to configure the
         Swarm for fault-tolerance.`

// pingTimeout bounds what _ping asks the engine: clients ping before everything.
const pingTimeout = 2 * time.Second

func (s *Server) ping(ctx context.Context, w http.ResponseWriter, r *http.Request, _ map[string]string) error {
	h := w.Header()
	h.Set("Cache-Control", "no-cache, no-store, must-revalidate")
	h.Set("Pragma", "no-cache")
	h.Set("Swarm", s.swarmHeader())
	h.Set("Content-Type", "text/plain; charset=utf-8")
	if b := s.builderVersion(ctx); b != "" {
		h.Set("Builder-Version", b)
	}
	if r.Method == http.MethodHead {
		h.Set("Content-Length", "0")
		w.WriteHeader(http.StatusOK)
		return nil
	}
	_, err := w.Write([]byte("OK"))
	return err
}

// down stops the node and its tasks; Docker's API has no such request.
func (s *Server) down(ctx context.Context, w http.ResponseWriter, _ *http.Request, _ map[string]string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if err := s.cfg.Local.Down(ctx); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) swarmHeader() string {
	st := s.cfg.Local.Status()
	switch {
	case st.State == "":
		return string(swarm.LocalNodeStateInactive)
	case st.State != swarm.LocalNodeStateActive:
		return string(st.State)
	case st.Manager:
		return "active/manager"
	}
	return "active/worker"
}

// builderVersion is the engine's: builds go there.
func (s *Server) builderVersion(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	p, err := s.engine.ping(ctx)
	if err != nil {
		return ""
	}
	return p.builder
}

// getVersion is the engine's answer in our name: clients judge features by Version and ApiVersion.
func (s *Server) getVersion(ctx context.Context, w http.ResponseWriter, _ *http.Request, vars map[string]string) error {
	var engine types.Version
	if err := s.engine.ask(ctx, vars["version"], http.MethodGet, "/version", nil, &engine); err != nil {
		s.log.Debug("engine's version", "err", err)
	}
	v := engine
	v.Platform.Name = "meshswarm"
	v.APIVersion, v.MinAPIVersion = MaxVersion, MinVersion
	v.GoVersion, v.Os, v.Arch = runtime.Version(), runtime.GOOS, runtime.GOARCH
	if v.Version == "" {
		v.Version = s.cfg.Version
	}
	own := types.ComponentVersion{Name: "meshswarm", Version: s.cfg.Version, Details: map[string]string{
		"ApiVersion": MaxVersion, "MinAPIVersion": MinVersion, "GoVersion": v.GoVersion, "Os": v.Os, "Arch": v.Arch,
	}}
	v.Components = append([]types.ComponentVersion{own}, engine.Components...)
	return httputils.WriteJSON(w, http.StatusOK, v)
}

// getInfo is the engine's own info with the swarm's part put in. Without an engine it still tells about the swarm.
func (s *Server) getInfo(ctx context.Context, w http.ResponseWriter, _ *http.Request, vars map[string]string) error {
	info := map[string]json.RawMessage{}
	var warnings []string
	if err := s.engine.ask(ctx, vars["version"], http.MethodGet, "/info", nil, &info); err != nil {
		var answered *engineError
		if errors.As(err, &answered) {
			warnings = append(warnings, "WARNING: the container engine has no info: "+err.Error())
		} else {
			warnings = append(warnings, "WARNING: "+err.Error())
		}
		s.engineless(info)
	}
	sw := s.backend.info()
	var own []string
	if raw, ok := info["Warnings"]; ok {
		_ = json.Unmarshal(raw, &own)
	}
	put(info, "Warnings", append(append(own, sw.Warnings...), warnings...))
	put(info, "Swarm", sw)
	return httputils.WriteJSON(w, http.StatusOK, info)
}

// engineless fills what clients print without asking.
func (s *Server) engineless(info map[string]json.RawMessage) {
	st := s.cfg.Local.Status()
	for k, v := range map[string]any{
		"ID": "", "Name": st.Hostname, "ServerVersion": s.cfg.Version, "OSType": runtime.GOOS, "Architecture": runtime.GOARCH,
		"NCPU": runtime.NumCPU(), "Labels": []string{}, "Plugins": map[string]any{}, "RegistryConfig": nil,
	} {
		put(info, k, v)
	}
}

func put(m map[string]json.RawMessage, k string, v any) {
	if raw, err := json.Marshal(v); err == nil {
		m[k] = raw
	}
}

// info is the Swarm section of /info.
func (b *Backend) info() swarm.Info {
	st := b.local.Status()
	out := swarm.Info{
		NodeID: st.NodeID, NodeAddr: st.NodeAddr, LocalNodeState: st.State, Error: st.Error, RemoteManagers: st.Managers,
	}
	if out.LocalNodeState == "" {
		out.LocalNodeState = swarm.LocalNodeStateInactive
	}
	c, ok := b.local.Cluster()
	if !ok {
		return out
	}
	out.ControlAvailable = true
	v := c.Store().View()
	out.Nodes = len(v.Nodes())
	out.RemoteManagers = nil
	for _, m := range c.Members() {
		out.Managers++
		out.RemoteManagers = append(out.RemoteManagers, swarm.Peer{NodeID: m.ID, Addr: m.Addr})
	}
	if cl := v.Cluster(); cl != nil {
		info := clusterInfo(cl)
		out.Cluster = &info
	}
	if id, _ := c.Leader(); id == "" {
		out.Error = textNoLeader
	}
	if out.Managers == 2 {
		out.Warnings = append(out.Warnings, twoManagers)
	}
	return out
}
