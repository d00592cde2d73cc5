package api

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httputil"

	"github.com/docker/docker/api/server/httputils"
	"github.com/docker/docker/client"
)

// proxy hands a request to the node's engine: bodies stream both ways, connection upgrades (attach, exec, build sessions)
// become raw connections with half-close kept, and a client that goes away cancels the request there.
func (s *Server) proxy(ctx context.Context, w http.ResponseWriter, r *http.Request, vars map[string]string) error {
	version := vars["version"]
	if version != "" {
		v, err := s.engine.lower(ctx, version)
		if err != nil {
			return err
		}
		version = v
	}
	var failed error
	p := &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.Out.URL.Scheme, pr.Out.URL.Host, pr.Out.Host = "http", client.DummyHost, client.DummyHost
			pr.Out.URL.Path = withVersion(pr.In.URL.Path, version)
			if pr.In.URL.RawPath != "" {
				pr.Out.URL.RawPath = withVersion(pr.In.URL.RawPath, version)
			}
		},
		Transport:      s.engine.transport,
		FlushInterval:  -1,
		ModifyResponse: ownHeaders,
		ErrorLog:       slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		ErrorHandler: func(_ http.ResponseWriter, _ *http.Request, err error) {
			s.engine.forget()
			failed = s.engine.gone(err)
		},
	}
	p.ServeHTTP(w, r)
	return failed
}

// withVersion replaces the version prefix of a path, if it has one.
func withVersion(path, version string) string {
	if m := versionPrefix.FindStringSubmatch(path); m != nil && version != "" {
		return "/v" + version + m[2]
	}
	return path
}

// ownHeaders drops what the version middleware already said for this server.
func ownHeaders(resp *http.Response) error {
	for _, k := range []string{"Server", "Api-Version", "Ostype", "Docker-Experimental", "Swarm"} {
		resp.Header.Del(k)
	}
	return nil
}

// peek reads a small JSON body into v and puts it back for the proxy.
func peek(r *http.Request, v any) error {
	data, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxSwarmBody))
	if err != nil {
		return err
	}
	put := func() {
		r.Body = io.NopCloser(bytes.NewReader(data))
		r.ContentLength = int64(len(data))
	}
	put()
	if err := httputils.ReadJSON(r, v); err != nil {
		return err
	}
	put()
	return nil
}

// createVolume refuses cluster volumes, which old engines would take for local ones.
func (s *Server) createVolume(ctx context.Context, w http.ResponseWriter, r *http.Request, vars map[string]string) error {
	var req struct{ ClusterVolumeSpec json.RawMessage }
	if err := peek(r, &req); err != nil {
		return err
	}
	if len(req.ClusterVolumeSpec) > 0 && string(req.ClusterVolumeSpec) != "null" {
		return notSupported("cluster volumes are not supported yet: create a volume on each node")
	}
	return s.proxy(ctx, w, r, vars)
}

func (s *Server) updateVolume(context.Context, http.ResponseWriter, *http.Request, map[string]string) error {
	return notSupported("cluster volumes are not supported yet, and other volumes cannot be updated")
}
