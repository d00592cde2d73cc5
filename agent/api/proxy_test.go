package api

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/system"
	"github.com/docker/docker/api/types/volume"
)

// oldEngine speaks API 1.41 and shows what reaches it.
func oldEngine(t *testing.T, gone chan<- struct{}) http.Handler {
	mux := http.NewServeMux()
	js := func(v any) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Server", "Docker/20.10")
			w.Header().Set("Api-Version", "1.41")
			_ = json.NewEncoder(w).Encode(v)
		}
	}
	mux.HandleFunc("/_ping", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Api-Version", "1.41")
		w.Header().Set("Builder-Version", "2")
	})
	mux.HandleFunc("GET /v1.41/version", js(types.Version{Version: "20.10.24", APIVersion: "1.41", Components: []types.ComponentVersion{{Name: "Engine", Version: "20.10.24"}}}))
	mux.HandleFunc("GET /v1.41/info", js(map[string]any{"ID": "engine", "NCPU": 2, "Newest": "field", "Swarm": map[string]any{"LocalNodeState": "inactive"}, "Warnings": []string{"WARNING: old"}}))
	list := []container.Summary{
		{ID: "a", Labels: map[string]string{"com.docker.swarm.task.id": "t"}},
		{ID: "s", Labels: map[string]string{sandboxLabel: "t"}},
		{ID: "b"},
		{ID: "c"},
	}
	mux.HandleFunc("GET /v1.41/containers/json", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("limit") != "" {
			http.Error(w, "the limit reached the engine", http.StatusTeapot)
			return
		}
		js(list)(w, r)
	})
	mux.HandleFunc("GET /v1.24/containers/json", js(list[:3]))
	mux.HandleFunc("POST /v1.41/volumes/create", func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	mux.HandleFunc("POST /v1.41/exec/{id}/start", func(w http.ResponseWriter, r *http.Request) { hijackEcho(t, w, r) })
	mux.HandleFunc("GET /v1.41/events", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, `{"Type":"container"}`)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		gone <- struct{}{}
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusTeapot)
		fmt.Fprintf(w, `{"message":"%s %s"}`, r.Method, r.URL.RequestURI())
	})
	return mux
}

// hijackEcho upgrades as Docker does, reads until half-close and only then answers.
func hijackEcho(t *testing.T, w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != "tcp" {
		http.Error(w, "no upgrade", http.StatusBadRequest)
		return
	}
	_, _ = io.Copy(io.Discard, r.Body)
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	fmt.Fprint(conn, "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
	data, err := io.ReadAll(rw)
	if err != nil {
		t.Errorf("read to half-close: %v", err)
	}
	fmt.Fprintf(conn, "got %s", bytes.ToUpper(data))
}

func TestProxy(t *testing.T) {
	gone := make(chan struct{}, 1)
	eng := startEngine(t, oldEngine(t, gone))
	_, c := start(t, Config{Local: managerNode(newFakeCluster(t)), Engine: eng, Version: "0.1.0"})
	socket := socketOf(c)

	t.Run("version is lowered", func(t *testing.T) {
		for path, want := range map[string]string{
			"/v1.51/images/a%2Fb/json?x=1": "GET /v1.41/images/a%2Fb/json?x=1",
			"/v1.30/images/json":           "GET /v1.30/images/json",
			"/images/json":                 "GET /images/json",
		} {
			code, h, text := raw(t, socket, "GET", path, "")
			if code != http.StatusTeapot || !strings.Contains(text, want) {
				t.Errorf("%s: %d %s", path, code, text)
			}
			if v := h.Values("Api-Version"); len(v) != 1 || v[0] != MaxVersion {
				t.Errorf("%s: Api-Version %v", path, v)
			}
			if v := h.Values("Server"); len(v) != 1 || v[0] != "Docker/0.1.0 (linux)" {
				t.Errorf("%s: Server %v", path, v)
			}
		}
	})
	t.Run("exec", func(t *testing.T) {
		hj, err := c.ContainerExecAttach(t.Context(), "e1", container.ExecAttachOptions{Tty: true})
		if err != nil {
			t.Fatal(err)
		}
		defer hj.Close()
		if _, err := hj.Conn.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if err := hj.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(hj.Reader)
		if err != nil || string(data) != "got HELLO" {
			t.Errorf("%q, %v", data, err)
		}
	})
	t.Run("stream ends with the client", func(t *testing.T) {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(conn, "GET /v1.51/events HTTP/1.1\r\nHost: d\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(resp.Body).ReadString('\n')
		if err != nil || line != "{\"Type\":\"container\"}\n" {
			t.Errorf("%q, %v", line, err)
		}
		conn.Close()
		select {
		case <-gone:
		case <-time.After(5 * time.Second):
			t.Error("the engine's side goes on")
		}
	})
	t.Run("sandboxes are hidden", func(t *testing.T) {
		for _, tt := range []struct {
			opts container.ListOptions
			want string
		}{
			{container.ListOptions{}, "a b c"}, {container.ListOptions{Limit: 2}, "a b"},
			{container.ListOptions{Filters: filters.NewArgs(filters.Arg("label", sandboxLabel))}, "a b c s"},
			{container.ListOptions{Filters: filters.NewArgs(filters.Arg("label", "x"))}, "a b c"},
		} {
			list, err := c.ContainerList(t.Context(), tt.opts)
			if err != nil {
				t.Fatal(err)
			}
			var ids []string
			for _, c := range list {
				ids = append(ids, c.ID)
			}
			if got := sorted(ids); got != tt.want {
				t.Errorf("%+v: %q, want %q", tt.opts, got, tt.want)
			}
		}
	})
	t.Run("volumes", func(t *testing.T) {
		_, err := c.VolumeCreate(t.Context(), volume.CreateOptions{Name: "v", ClusterVolumeSpec: &volume.ClusterVolumeSpec{}})
		wantError(t, err, cerrdefs.IsNotImplemented, "cluster volumes are not supported yet")
		if v, err := c.VolumeCreate(t.Context(), volume.CreateOptions{Name: "v"}); err != nil || v.Name != "v" {
			t.Errorf("%v, %v", v, err)
		}
		code, _, _ := raw(t, socket, "PUT", "/volumes/v?version=1", "{}")
		if code != http.StatusNotImplemented {
			t.Errorf("update: %d", code)
		}
	})
	t.Run("system", func(t *testing.T) {
		p, err := c.Ping(t.Context())
		if err != nil || p.APIVersion != MaxVersion || p.OSType != "linux" || p.BuilderVersion != "2" || !p.SwarmStatus.ControlAvailable {
			t.Errorf("ping: %+v, %v", p, err)
		}
		v, err := c.ServerVersion(t.Context())
		if err != nil || v.Platform.Name != "meshswarm" || v.APIVersion != MaxVersion || v.MinAPIVersion != MinVersion || v.Version != "20.10.24" || len(v.Components) != 2 {
			t.Errorf("version: %+v, %v", v, err)
		}
		_, _, text := raw(t, socket, "GET", "/info", "")
		var info system.Info
		if err := json.Unmarshal([]byte(text), &info); err != nil {
			t.Fatal(err)
		}
		if info.NCPU != 2 || !strings.Contains(text, `"Newest":"field"`) || info.Swarm.NodeID != testNode || !info.Swarm.ControlAvailable ||
			info.Swarm.Nodes != 2 || info.Swarm.Managers != 1 || info.Swarm.Cluster.ID != "swarmid" || info.Warnings[0] != "WARNING: old" {
			t.Errorf("info: %+v", info)
		}
	})
}

func TestEngineGone(t *testing.T) {
	_, c := startManager(t)
	_, err := c.ContainerList(t.Context(), container.ListOptions{})
	wantError(t, err, cerrdefs.IsUnavailable, "the container engine at unix:///")
	_, err = c.ContainerInspect(t.Context(), "x")
	wantError(t, err, cerrdefs.IsUnavailable, "does not answer")
	code, _, text := raw(t, socketOf(c), "POST", "/containers/x/start", "")
	if code != 503 || !strings.Contains(text, "does not answer") {
		t.Errorf("unversioned: %d %s", code, text)
	}
	info, err := c.Info(t.Context())
	if err != nil || info.Name != "node1" || !info.Swarm.ControlAvailable || len(info.Warnings) != 1 {
		t.Errorf("info: %+v, %v", info, err)
	}
	v, err := c.ServerVersion(t.Context())
	if err != nil || v.APIVersion != MaxVersion {
		t.Errorf("version: %+v, %v", v, err)
	}
}

func TestCopyContainers(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"empty", `[]`, "[]\n"}, {"none left", `[{"Labels":{"meshswarm.sandbox":""}}]`, "[]\n"},
		{"null labels", `[{"Id":"a","Labels":null}]`, `[{"Id":"a","Labels":null}]` + "\n"},
		{"cut", `[{"Id":"a"},`, ""}, {"no list", `{}`, ""}, {"garbage", `[1]`, ""}, {"nothing", ``, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			err := copyContainers(&out, strings.NewReader(tt.in), 0)
			if (err == nil) != (tt.want != "") || err == nil && out.String() != tt.want {
				t.Errorf("%q, %v", out.String(), err)
			}
		})
	}
}
