package api

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/docker/docker/api/types/versions"
	"github.com/docker/docker/client"
)

const (
	// versionTTL is how long the engine's API version is believed: engines get upgraded under us.
	versionTTL = 30 * time.Second
	// engineTimeout bounds questions of our own to the engine; proxied requests have no limit.
	engineTimeout = 10 * time.Second
	// maxEngineAnswer bounds answers that are read whole.
	maxEngineAnswer = 64 << 20
)

// engine is the node's container engine as an HTTP server.
type engine struct {
	host      string // as people write it: unix:///var/run/docker.sock
	transport *http.Transport

	mu    sync.Mutex
	last  pong
	asked time.Time
}

// pong is what the engine says of itself.
type pong struct{ version, builder string }

func newEngine(c *client.Client) *engine {
	dial := c.Dialer()
	return &engine{host: c.DaemonHost(), transport: &http.Transport{
		DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		DisableCompression:  true,
		MaxIdleConnsPerHost: 8,
		IdleConnTimeout:     time.Minute,
	}}
}

func (e *engine) close() { e.transport.CloseIdleConnections() }

// gone is the error of an engine that does not answer.
func (e *engine) gone(err error) error {
	return unavailable("the container engine at %s does not answer: %w", e.host, err)
}

// ping is the engine's last answer, while that is believed.
func (e *engine) ping(ctx context.Context) (pong, error) {
	e.mu.Lock()
	p, asked := e.last, e.asked
	e.mu.Unlock()
	if p.version != "" && time.Since(asked) < versionTTL {
		return p, nil
	}
	resp, err := e.send(ctx, http.MethodGet, "/_ping", nil, nil)
	if err != nil {
		return p, err
	}
	defer resp.Body.Close()
	p = pong{version: resp.Header.Get("Api-Version"), builder: resp.Header.Get("Builder-Version")}
	if p.version == "" {
		p.version = MinVersion // so says Docker's client
	}
	e.mu.Lock()
	e.last, e.asked = p, time.Now()
	e.mu.Unlock()
	return p, nil
}

func (e *engine) forget() {
	e.mu.Lock()
	e.last = pong{}
	e.mu.Unlock()
}

// lower is the version to ask the engine for when a client asked for want ("" = none).
func (e *engine) lower(ctx context.Context, want string) (string, error) {
	p, err := e.ping(ctx)
	if err != nil {
		return "", err
	}
	if want == "" {
		want = MaxVersion
	}
	if versions.LessThan(p.version, want) {
		return p.version, nil
	}
	return want, nil
}

// send asks the engine; path is complete.
func (e *engine) send(ctx context.Context, method, path string, query url.Values, body io.Reader) (*http.Response, error) {
	u := url.URL{Scheme: "http", Host: client.DummyHost, Path: path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, fmt.Errorf("ask the engine: %w", err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := e.transport.RoundTrip(req)
	if err != nil {
		e.forget()
		return nil, e.gone(err)
	}
	return resp, nil
}

// ask sends a request of the given client version, path without version, and decodes the JSON answer. An error answer of
// the engine comes back as *engineError.
func (e *engine) ask(ctx context.Context, version, method, path string, query url.Values, out any) error {
	ctx, cancel := context.WithTimeout(ctx, engineTimeout)
	defer cancel()
	v, err := e.lower(ctx, version)
	if err != nil {
		return err
	}
	resp, err := e.send(ctx, method, "/v"+v+path, query, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxEngineAnswer))
	if err != nil {
		return e.gone(err)
	}
	if resp.StatusCode >= 300 {
		return &engineError{code: resp.StatusCode, body: data}
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("decode the engine's answer to %s: %w", path, err)
	}
	return nil
}

// hasNetwork tells whether the engine has a network of that name.
func (e *engine) hasNetwork(name string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	var n struct{ Name string }
	return e.ask(ctx, "", http.MethodGet, "/networks/"+name, nil, &n) == nil && n.Name == name
}

// engineError is an error answer of the engine, to be passed on as it is.
type engineError struct {
	code int
	body []byte
}

func (e *engineError) Error() string {
	var m struct{ Message string }
	if json.Unmarshal(e.body, &m) == nil && m.Message != "" {
		return m.Message
	}
	return fmt.Sprintf("the container engine answered %d", e.code)
}

func (e *engineError) write(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(e.code)
	_, _ = w.Write(e.body)
}
