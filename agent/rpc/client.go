package rpc

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/meshswarm/meshswarm/secrets"
)

const (
	dialTimeout = 3 * time.Second
	// A manager that does not answer is given up after pingAfter + pingTimeout.
	pingAfter   = time.Second
	pingTimeout = time.Second
)

// ErrUnreachable: nothing answers at the manager's address.
var ErrUnreachable = errors.New("manager cannot be reached")

// ClientConfig says what a Client needs.
type ClientConfig struct {
	// Identity gives the node's present identity.
	Identity func() *secrets.Identity
	// Allowed, when set, decides whether a verified manager is still one, as ServerConfig.Allowed does.
	Allowed func(secrets.Peer, Access) error
	// Dial opens TCP connections; nil means the host's.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Client calls managers at their control addresses, as the node that Identity tells. Connections are shared between
// calls and kept for half a minute. Safe for concurrent use.
type Client struct {
	cfg ClientConfig

	mu        sync.Mutex
	identity  *secrets.Identity // that transport was made for
	transport *http.Transport
}

// NewClient checks cfg.
func NewClient(cfg ClientConfig) (*Client, error) {
	if cfg.Identity == nil {
		return nil, errors.New("rpc: a Client needs Identity")
	}
	if cfg.Dial == nil {
		cfg.Dial = (&net.Dialer{Timeout: dialTimeout}).DialContext
	}
	return &Client{cfg: cfg}, nil
}

// dial opens a verified connection.
func (c *Client) dial(ctx context.Context, addr, proto string) (net.Conn, error) {
	tc, err := dialTLS(ctx, c.cfg.Dial, addr, c.cfg.Identity().ClientTLS(proto))
	if err != nil {
		return nil, err
	}
	if c.cfg.Allowed != nil {
		access := AccessManager
		if proto == ProtoRaft {
			access = AccessRaft
		}
		server, err := secrets.ServerOf(tc.ConnectionState())
		if err == nil {
			err = c.cfg.Allowed(server, access)
		}
		if err != nil {
			_ = tc.Close()
			return nil, fmt.Errorf("dial %s: %w", addr, err)
		}
	}
	return tc, nil
}

type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

func dialTLS(ctx context.Context, dial dialFunc, addr string, cfg *tls.Config) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	raw, err := dial(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w: %w", addr, ErrUnreachable, err)
	}
	tc := tls.Client(raw, cfg)
	if err := tc.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("dial %s: %w", addr, explainHandshake(err))
	}
	return tc, nil
}

// explainHandshake says what a person can do about a failed handshake.
func explainHandshake(err error) error {
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &record), errors.Is(err, io.EOF):
		return fmt.Errorf("%w: what listens there is not a manager's control port (usually 2377): %w", ErrUnreachable, err)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: it accepts connections and says nothing: %w", ErrUnreachable, err)
	}
	return err
}

// newTransport makes an HTTP/2-only transport over dial.
func newTransport(dial func(ctx context.Context, addr string) (net.Conn, error)) *http.Transport {
	var protocols http.Protocols
	protocols.SetHTTP2(true)
	return &http.Transport{
		Protocols:       &protocols,
		DialTLSContext:  func(ctx context.Context, _, addr string) (net.Conn, error) { return dial(ctx, addr) },
		IdleConnTimeout: 30 * time.Second,
		HTTP2: &http.HTTP2Config{
			SendPingTimeout:           pingAfter,
			PingTimeout:               pingTimeout,
			WriteByteTimeout:          sendTimeout,
			MaxReceiveBufferPerStream: 1 << 20,
		},
		MaxResponseHeaderBytes: maxHeader,
		DisableCompression:     true,
	}
}

// current is the transport for the present identity. When that has changed, connections of the old one end with their
// last request.
func (c *Client) current() *http.Transport {
	id := c.cfg.Identity()
	c.mu.Lock()
	old := c.transport
	if c.identity == id && old != nil {
		c.mu.Unlock()
		return old
	}
	fresh := newTransport(func(ctx context.Context, addr string) (net.Conn, error) { return c.dial(ctx, addr, ProtoHTTP) })
	c.identity, c.transport = id, fresh
	c.mu.Unlock()
	if old != nil {
		old.CloseIdleConnections()
	}
	return fresh
}

// Close ends idle connections. The Client may be used again.
func (c *Client) Close() {
	c.mu.Lock()
	t := c.transport
	c.mu.Unlock()
	if t != nil {
		t.CloseIdleConnections()
	}
}

// Do sends req to the manager at addr, whatever host its URL names. An answer that is an error is returned as a response.
// req's context ends the exchange. It may serve as a reverse proxy's transport: see RoundTripper.
func (c *Client) Do(addr string, req *http.Request) (*http.Response, error) {
	req = req.WithContext(req.Context()) // not Clone: a trailer is filled in while the body is sent
	u := *req.URL
	u.Scheme, u.Host = "https", addr
	req.URL, req.Host, req.RequestURI = &u, addr, ""
	resp, err := c.current().RoundTrip(req)
	if err != nil {
		return nil, c.explain(addr, err)
	}
	return resp, nil
}

// RoundTripper sends every request to addr.
func (c *Client) RoundTripper(addr string) http.RoundTripper {
	return roundTripFunc(func(req *http.Request) (*http.Response, error) { return c.Do(addr, req) })
}

type roundTripFunc func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f roundTripFunc) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// explain adds what a person can do to an error of an exchange.
func (c *Client) explain(addr string, err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "remote error" {
		if own := c.cfg.Identity().CheckTime(time.Now()); own != nil {
			err = fmt.Errorf("%w: %w", own, err)
		} else {
			err = fmt.Errorf("the manager refuses this node's certificate: compare the clocks of both machines: %w", err)
		}
	}
	return fmt.Errorf("call manager %s: %w", addr, err)
}

// Call posts in as JSON to path at addr and reads the answer into out (nil: not wanted). A refusal is an *Error.
func (c *Client) Call(ctx context.Context, addr, path string, in, out any) error {
	return call(ctx, c.RoundTripper(addr), addr, path, in, out)
}

func call(ctx context.Context, rt http.RoundTripper, addr, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	req, err := newRequest(ctx, http.MethodPost, addr, path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return readError(resp)
	}
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxBody)).Decode(out); err != nil {
		return fmt.Errorf("read answer of manager %s: %w", addr, err)
	}
	return nil
}

func newRequest(ctx context.Context, method, addr, path string, body io.Reader) (*http.Request, error) {
	u := url.URL{Scheme: "https", Host: addr, Path: path}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, fmt.Errorf("call manager %s: %w", addr, err)
	}
	return req, nil
}

// Open posts to path at addr and turns the exchange into a stream, as the node's side. The stream lives until Close or
// the end of ctx, whichever is first: always Close it. A refusal is an *Error.
func (c *Client) Open(ctx context.Context, addr, path string) (*Stream, error) {
	ctx, cancel := context.WithCancel(ctx)
	pr, pw := io.Pipe()
	req, err := newRequest(ctx, http.MethodPost, addr, path, pr)
	if err != nil {
		cancel()
		return nil, err
	}
	resp, err := c.Do(addr, req)
	if err != nil {
		cancel()
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		err := readError(resp)
		cancel()
		_ = resp.Body.Close()
		return nil, err
	}
	s := &Stream{in: resp.Body, out: pw, maxIn: MaxDown, maxOut: MaxUp, flush: func() error { return nil }}
	s.lastRead.Store(time.Now().UnixNano())
	s.close = func() {
		cancel()
		_ = pw.CloseWithError(net.ErrClosed)
		_ = resp.Body.Close()
	}
	return s, nil
}

// Send posts body as a stream to path at addr, and returns the answer's body, which the caller closes; both flow at the
// same time. The values of trailer may be set until body ends.
func (c *Client) Send(ctx context.Context, addr, path string, body io.Reader, trailer http.Header) (io.ReadCloser, error) {
	req, err := newRequest(ctx, http.MethodPost, addr, path, body)
	if err != nil {
		return nil, err
	}
	req.Trailer = trailer
	resp, err := c.Do(addr, req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 != 2 {
		defer resp.Body.Close()
		return nil, readError(resp)
	}
	return resp.Body, nil
}
