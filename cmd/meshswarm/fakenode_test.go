package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
)

// fakeNode is a node's socket that answers "GET /services/web" with the file GET/services/web.json of its folder. The
// third time it answers with GET/services/web.3.json if there is such a file. A file may start with a line "HTTP 404".
// All but pings is recorded.
type fakeNode struct {
	dir    string
	server *http.Server

	mu       sync.Mutex
	times    map[string]int
	recorded bytes.Buffer
}

func startFakeNode(socket, dir string) (*fakeNode, error) {
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	n := &fakeNode{dir: dir, times: map[string]int{}}
	n.server = &http.Server{Handler: n}
	go n.server.Serve(l)
	return n, nil
}

func (n *fakeNode) stop() { n.server.Close() }

// take returns what was recorded and forgets it.
func (n *fakeNode) take() []byte {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := bytes.Clone(n.recorded.Bytes())
	n.recorded.Reset()
	return out
}

var versionPrefix = regexp.MustCompile(`^/v1\.\d+`)

func (n *fakeNode) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Api-Version", "1.51")
	path := versionPrefix.ReplaceAllString(r.URL.Path, "")
	if path == "/_ping" {
		return
	}
	body, _ := io.ReadAll(r.Body)
	key := r.Method + path
	n.mu.Lock()
	n.times[key]++
	times := n.times[key]
	n.record(r, path, body)
	n.mu.Unlock()

	base := filepath.Join(n.dir, r.Method, filepath.FromSlash(path))
	answer, err := os.ReadFile(fmt.Sprintf("%s.%d.json", base, times))
	if err != nil {
		answer, err = os.ReadFile(base + ".json")
	}
	if err != nil {
		w.WriteHeader(http.StatusNotFound)
		json.NewEncoder(w).Encode(map[string]string{"message": "the script has no answer for " + r.Method + " " + path})
		return
	}
	text := string(answer)
	status := http.StatusOK
	if first, rest, ok := strings.Cut(text, "\n"); ok && strings.HasPrefix(first, "HTTP ") {
		fmt.Sscanf(first, "HTTP %d", &status)
		text = rest
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	io.WriteString(w, text)
}

// record writes the request as a person would: method, path, query, JSON indented.
func (n *fakeNode) record(r *http.Request, path string, body []byte) {
	fmt.Fprintf(&n.recorded, "%s %s", r.Method, path)
	if r.URL.RawQuery != "" {
		query, _ := url.QueryUnescape(r.URL.RawQuery)
		fmt.Fprintf(&n.recorded, "?%s", query)
	}
	fmt.Fprintln(&n.recorded)
	if len(bytes.TrimSpace(body)) > 0 {
		json.Indent(&n.recorded, bytes.TrimSpace(body), "", "  ")
		fmt.Fprintln(&n.recorded)
	}
}
