package api

import (
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func TestRouting(t *testing.T) {
	_, c := startManager(t)
	for _, tt := range []struct {
		method, path string
		code         int
		text         string
	}{
		{"GET", "/v1.51/services", 200, "[]"},
		{"GET", "/services", 200, "[]"},
		{"GET", "/v1.24/services", 200, "[]"},
		{"GET", "/v1.23/services", 400, "client version 1.23 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version\n"},
		{"GET", "/v1.52/services", 400, `{"message":"client version 1.52 is too new. Maximum supported API version is 1.51"}` + "\n"},
		{"GET", "/v1.52/containers/json", 400, `{"message":"client version 1.52 is too new. Maximum supported API version is 1.51"}` + "\n"},
		{"PUT", "/services", 404, `{"message":"page not found"}` + "\n"},
		{"GET", "/swarm/nothing", 404, `{"message":"page not found"}` + "\n"},
		{"POST", "/v1.51/services/create", 400, "ContainerSpec"},
		{"GET", "/services?filters=nonsense", 400, "message"},
		{"GET", "/services/none/logs?stdout=1", 404, "service none not found"},
		{"GET", "/services/none/logs", 500, "you must choose at least one stream"},
	} {
		body := ""
		if tt.method == "POST" {
			body = `{"Name":"x","TaskTemplate":{"ContainerSpec":{}}}`
		}
		code, h, text := raw(t, socketOf(c), tt.method, tt.path, body)
		if code != tt.code || !strings.Contains(text, tt.text) {
			t.Errorf("%s %s: %d %q, want %d %q", tt.method, tt.path, code, text, tt.code, tt.text)
		}
		if h.Get("Api-Version") != "1.51" || h.Get("Ostype") != "linux" || h.Get("Docker-Experimental") != "false" {
			t.Errorf("%s %s: headers %v", tt.method, tt.path, h)
		}
	}
	code, _, text := raw(t, socketOf(c), "POST", "/services/create", `{"Name":"`+strings.Repeat("x", maxSwarmBody)+`"}`)
	if code != 400 || !strings.Contains(text, "larger than") {
		t.Errorf("huge body: %d %.80s", code, text)
	}
	code, _, text = raw(t, socketOf(c), "POST", "/networks/create", `{"Name":"`+strings.Repeat("x", maxSwarmBody)+`"}`)
	if code != 400 || !strings.Contains(text, "larger than") {
		t.Errorf("huge network: %d %.80s", code, text)
	}
}

func TestSocket(t *testing.T) {
	dir := shortDir(t)
	path := filepath.Join(dir, "private", "m.sock")
	cfg := Config{Local: &fakeLocal{}, Engine: deadEngine(t), Socket: path, Registry: prometheus.NewRegistry()}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close() // a socket that nobody answers on
	start(t, cfg)
	fi, err := os.Stat(path)
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", fi.Mode(), err)
	}
	cfg.Registry = nil
	second, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "another process already serves") {
		t.Errorf("second server: %v", err)
	}
	for _, tt := range []struct{ name, path, text string }{
		{"long", "/tmp/" + strings.Repeat("x", 103), "has 108 bytes, and the system allows 107: choose a shorter one with --socket"},
		{"file", filepath.Join(dir, "file"), "is no socket"},
	} {
		if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		cfg.Socket = tt.path
		s, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Run(t.Context()); err == nil || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// TestLongestPath: the limit itself works, also without room for a temporary name.
func TestLongestPath(t *testing.T) {
	dir := shortDir(t)
	path := filepath.Join(dir, strings.Repeat("x", maxSocketPath-len(dir)-1))
	ln, err := listen(t.Context(), path, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", fi, err)
	}
}

func TestRunEndsStreams(t *testing.T) {
	began, gone := make(chan struct{}, 1), make(chan struct{}, 1)
	eng := startEngine(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/events" {
			return
		}
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		began <- struct{}{}
		<-r.Context().Done()
		gone <- struct{}{}
	}))
	s, err := New(Config{Local: &fakeLocal{}, Engine: eng, Socket: filepath.Join(shortDir(t), "m.sock")})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	waitFor(t, "the socket", func() bool { _, err := os.Stat(s.cfg.Socket); return err == nil })
	conn, err := net.Dial("unix", s.cfg.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("GET /events HTTP/1.1\r\nHost: d\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	<-began
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("Run: %v", err)
		}
	case <-time.After(4 * time.Second):
		t.Fatal("Run does not end")
	}
	<-gone
	if _, err := os.Stat(s.cfg.Socket); !os.IsNotExist(err) {
		t.Errorf("socket is still there: %v", err)
	}
}

func TestConnectionLimit(t *testing.T) {
	path := filepath.Join(shortDir(t), "m.sock")
	ln, err := listen(t.Context(), path, 1)
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan net.Conn, 2)
	go func() {
		defer close(accepted)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	for range 2 {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	first := <-accepted
	select {
	case <-accepted:
		t.Error("two connections at once")
	case <-time.After(50 * time.Millisecond):
	}
	first.Close()
	(<-accepted).Close()
	ln.Close()
	for range accepted {
		t.Error("accepted after close")
	}
}
