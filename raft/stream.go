package raft

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	hraft "github.com/hashicorp/raft"

	"github.com/meshswarm/meshswarm/raft/state"
)

const (
	// maxRequest holds a full AppendEntries: maxAppend entries, each with its frame, and the head.
	maxRequest = maxAppend*(state.MaxBatch+1<<10) + 64<<10
	maxAnswer  = 64 << 10
	// maxInbound is how many connections from other managers are served: each peer has a handful.
	maxInbound  = 128
	dialTimeout = 2 * time.Second
	// stallTimeout is how long a peer may pause inside a request, or leave an answer unread.
	stallTimeout = 30 * time.Second
)

// stream is the Stream as hashicorp/raft gets it: with limits on what comes in, with the advertised address, and with an
// end that ends the connections too.
type stream struct {
	inner Stream
	addr  advertised
	log   *slog.Logger

	dialing sync.WaitGroup
	closed  chan struct{}

	mu      sync.Mutex
	ended   bool
	conns   map[*conn]struct{}
	inbound int
	// answers are closed at the next answer from an address.
	answers map[string]chan struct{}
}

// advertised is the address that peers are told, which may not be the one listened on.
type advertised string

func (advertised) Network() string  { return "tcp" }
func (a advertised) String() string { return string(a) }

func newStream(inner Stream, addr string, log *slog.Logger) *stream {
	return &stream{
		inner: inner, addr: advertised(addr), log: log,
		closed: make(chan struct{}), conns: map[*conn]struct{}{}, answers: map[string]chan struct{}{},
	}
}

func (s *stream) Addr() net.Addr { return s.addr }

// Accept waits for a connection within the limit; those beyond it are closed.
func (s *stream) Accept() (net.Conn, error) {
	for {
		c, err := s.inner.Accept()
		if err != nil {
			return nil, fmt.Errorf("accept from manager: %w", err)
		}
		if in := s.admit(c, "", scanner{max: maxRequest, requests: true}); in != nil {
			return in, nil
		}
		s.log.Warn("connection refused: too many from managers", "peer", c.RemoteAddr())
		_ = c.Close()
	}
}

func (s *stream) Dial(addr hraft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	type result struct {
		c   net.Conn
		err error
	}
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return nil, net.ErrClosed
	}
	s.dialing.Add(1)
	s.mu.Unlock()
	done := make(chan result, 1)
	go func() {
		defer s.dialing.Done()
		c, err := s.inner.Dial(string(addr), min(timeout, dialTimeout))
		if err != nil {
			done <- result{nil, fmt.Errorf("dial manager %s: %w", addr, err)}
			return
		}
		out := s.admit(c, string(addr), scanner{max: maxAnswer})
		if out == nil {
			_ = c.Close()
			done <- result{nil, net.ErrClosed}
			return
		}
		done <- result{out, nil}
	}()
	select {
	case r := <-done:
		return r.c, r.err
	case <-s.closed:
		return nil, net.ErrClosed
	}
}

// admit takes a connection in, or returns nil when it is one too many. to is empty for inbound ones.
func (s *stream) admit(c net.Conn, to string, sc scanner) *conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || to == "" && s.inbound >= maxInbound {
		return nil
	}
	if to == "" {
		s.inbound++
	}
	w := &conn{Conn: c, stream: s, to: to, in: sc}
	s.conns[w] = struct{}{}
	return w
}

func (s *stream) forget(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.conns[c]; !ok {
		return
	}
	delete(s.conns, c)
	if c.to == "" {
		s.inbound--
	}
}

// heard tells whoever waits that addr answered.
func (s *stream) heard(addr string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ch, ok := s.answers[addr]; ok {
		close(ch)
		delete(s.answers, addr)
	}
}

// awaitAnswer blocks until addr has answered a request, from now on.
func (s *stream) awaitAnswer(ctx context.Context, addr string) error {
	s.mu.Lock()
	ch, ok := s.answers[addr]
	if !ok {
		ch = make(chan struct{})
		s.answers[addr] = ch
	}
	s.mu.Unlock()
	select {
	case <-ch:
		return nil
	case <-s.closed:
		return ErrStopped
	case <-ctx.Done():
		return fmt.Errorf("wait for an answer from %s: %w", addr, context.Cause(ctx))
	}
}

// Close ends the listener and all connections.
func (s *stream) Close() error {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return nil
	}
	s.ended = true
	close(s.closed)
	conns := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	s.mu.Unlock()
	err := s.inner.Close()
	for _, c := range conns {
		_ = c.Close()
	}
	return err
}

// wait blocks until no dial is under way. After Close.
func (s *stream) wait() { s.dialing.Wait() }

// conn follows what it reads and ends when a message gets too long.
type conn struct {
	net.Conn
	stream *stream
	to     string
	in     scanner // of the reading goroutine
	// answered is set by the answer to a snapshot, which ends the conversation.
	answered atomic.Bool
}

func (c *conn) Read(p []byte) (int, error) {
	if c.answered.Load() {
		return 0, io.EOF
	}
	if c.to == "" { // of outbound ones hashicorp/raft itself sets the deadlines
		var limit time.Time
		if !c.in.between() {
			limit = time.Now().Add(stallTimeout)
		}
		if err := c.SetReadDeadline(limit); err != nil {
			return 0, err
		}
	}
	n, err := c.Conn.Read(p)
	before := c.in.messages
	if bad := c.in.scan(p[:n]); bad != nil {
		_ = c.Close()
		return 0, errors.Join(bad, err)
	}
	if c.to != "" && c.in.messages > before {
		c.stream.heard(c.to)
	}
	return n, err
}

func (c *conn) Write(p []byte) (int, error) {
	if c.to == "" {
		if c.in.streaming {
			c.answered.Store(true)
		}
		if err := c.SetWriteDeadline(time.Now().Add(stallTimeout)); err != nil {
			return 0, err
		}
	}
	return c.Conn.Write(p)
}

func (c *conn) Close() error {
	c.stream.forget(c)
	return c.Conn.Close()
}
