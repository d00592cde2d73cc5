package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/docker/docker/api/server/httputils"
	"github.com/docker/docker/api/types/registry"
)

// ForwardPrefix is where a manager's control port serves Handler.
const ForwardPrefix = "/v1/api"

const (
	// indexHeader is the leader's store index after it answered.
	indexHeader = "X-Meshswarm-Index"
	// notLeaderHeader marks an answer of a manager that did nothing because it does not lead.
	notLeaderHeader = "X-Meshswarm-Not-Leader"

	// leaderWait is how long a request waits for an election to end.
	leaderWait = 5 * time.Second
	leaderPoll = 50 * time.Millisecond
	// forwardTimeout bounds a forwarded request that is no stream: above the leader's own limit.
	forwardTimeout = requestTimeout + 5*time.Second
	// catchUpTimeout is how long a follower waits for its own replica after a forwarded change.
	catchUpTimeout = 5 * time.Second
)

// leading answers where the leader is: here, or by forwarding.
func (s *Server) leading(next httputils.APIFunc) httputils.APIFunc {
	return func(ctx context.Context, w http.ResponseWriter, r *http.Request, vars map[string]string) error {
		c, err := s.backend.manager()
		if err != nil {
			return err
		}
		if isForwarded(ctx) && !c.IsLeader() {
			w.Header().Set(notLeaderHeader, "1")
			return errNotLeader
		}
		if c.IsLeader() {
			return next(ctx, w, r, vars)
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return err
		}
		lead := func() error {
			r.Body = io.NopCloser(bytes.NewReader(body))
			return next(ctx, w, r, vars)
		}
		return s.toLeader(ctx, c, w, r, body, lead)
	}
}

// toLeader sends the request to the leader, as soon as there is one; lead is called when that turns out to be this node.
func (s *Server) toLeader(ctx context.Context, c Cluster, w http.ResponseWriter, r *http.Request, body []byte, lead func() error) error {
	wait, cancel := context.WithTimeout(ctx, leaderWait)
	defer cancel()
	tick := time.NewTicker(leaderPoll)
	defer tick.Stop()
	for {
		if c.IsLeader() {
			return lead()
		}
		if _, addr := c.Leader(); addr != "" && s.cfg.Forward != nil {
			done, err := s.forward(ctx, c, addr, w, r, body)
			if done {
				s.metrics.forwards.WithLabelValues("answered").Inc()
				return err
			}
		}
		select {
		case <-tick.C:
		case <-wait.Done():
			s.metrics.forwards.WithLabelValues("no_leader").Inc()
			return unavailable(textNoLeader)
		}
	}
}

// forward sends the request to one manager and copies its answer. done is false when that manager surely did nothing and
// another try is due.
func (s *Server) forward(ctx context.Context, c Cluster, addr string, w http.ResponseWriter, r *http.Request, body []byte) (done bool, err error) {
	if !isStream(r) {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, forwardTimeout)
		defer cancel()
	}
	u := url.URL{Scheme: "https", Host: addr, Path: ForwardPrefix + r.URL.Path, RawQuery: r.URL.RawQuery}
	req, err := http.NewRequestWithContext(ctx, r.Method, u.String(), bytes.NewReader(body))
	if err != nil {
		return true, fmt.Errorf("forward to the leader: %w", err)
	}
	for _, k := range []string{"Content-Type", "User-Agent", "Accept", registry.AuthHeader} {
		if v := r.Header.Values(k); len(v) > 0 {
			req.Header[k] = v
		}
	}
	resp, err := s.cfg.Forward.RoundTrip(req)
	if err != nil {
		s.log.Debug("leader does not answer", "addr", addr, "err", err)
		if ctx.Err() == nil && (r.Method == http.MethodGet || neverSent(err)) {
			return false, nil
		}
		return true, unavailable("the leader at %s does not answer: %w", addr, err)
	}
	defer resp.Body.Close()
	if resp.Header.Get(notLeaderHeader) != "" {
		return false, nil
	}
	if r.Method != http.MethodGet {
		s.catchUp(ctx, c, resp.Header.Get(indexHeader))
	}
	copyResponse(w, resp)
	return true, nil
}

// neverSent tells that no connection came about, so that a change may be tried again.
func neverSent(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

func isStream(r *http.Request) bool {
	segs := segments(r.URL.Path)
	return r.Method == http.MethodGet && segs[len(segs)-1] == "logs"
}

// catchUp waits for the own replica, so that the user's next read here sees the change. A replica that stays behind does
// not turn the success into an error.
func (s *Server) catchUp(ctx context.Context, c Cluster, header string) {
	index, err := strconv.ParseUint(header, 10, 64)
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, catchUpTimeout)
	defer cancel()
	if err := c.Store().WaitIndex(ctx, index); err != nil {
		s.log.Warn("own store lags behind the leader's", "err", err)
	}
}

// copyResponse copies status, headers but those the version middleware set already, and the body as it comes.
func copyResponse(w http.ResponseWriter, resp *http.Response) {
	for _, k := range []string{"Content-Type", "Content-Length"} {
		if v := resp.Header.Get(k); v != "" {
			w.Header().Set(k, v)
		}
	}
	w.WriteHeader(resp.StatusCode)
	flushCopy(w, resp.Body)
}

// flushCopy copies until the end and flushes after each read: streams must not wait in a buffer.
func flushCopy(w http.ResponseWriter, r io.Reader) {
	rc := http.NewResponseController(w)
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if _, werr := w.Write(buf[:n]); werr != nil {
				return
			}
			_ = rc.Flush()
		}
		if err != nil {
			return
		}
	}
}

// indexWriter tells the forwarding manager how far the leader's store was when it answered.
type indexWriter struct {
	http.ResponseWriter
	server *Server
	wrote  bool
}

func (w *indexWriter) WriteHeader(code int) {
	if !w.wrote {
		w.wrote = true
		if c, ok := w.server.cfg.Local.Cluster(); ok {
			w.Header().Set(indexHeader, strconv.FormatUint(c.Store().Index(), 10))
		}
	}
	w.ResponseWriter.WriteHeader(code)
}

func (w *indexWriter) Write(b []byte) (int, error) {
	if !w.wrote {
		w.WriteHeader(http.StatusOK)
	}
	return w.ResponseWriter.Write(b)
}

func (w *indexWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
