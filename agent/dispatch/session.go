package dispatch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meshswarm/meshswarm/agent/rpc"
	"github.com/meshswarm/meshswarm/sched"
	"github.com/meshswarm/meshswarm/secrets"
)

// session is one node's conversation with the leader.
type session struct {
	term   *term
	node   string
	peer   secrets.Peer
	addr   string // where the node was seen
	stream *rpc.Stream
	ctx    context.Context
	cancel context.CancelCauseFunc
	wake   chan struct{} // something of what is below is set
	// Both are the receiver's.
	rate, factsRate limiter

	// What the sender knows, and nobody else.
	assignments *sched.Subscription
	seq         uint64
	renewed     bool
	checked     uint64 // Modified of the node when the facts were last found in it ...
	checkedF    uint64 // ... and the version of those facts

	asks []uint64 // horizon's

	mu       sync.Mutex
	facts    Facts
	version  uint64 // of facts
	changed  bool   // the store or the facts have
	full     bool   // all assignments are due
	ack      uint64
	known    uint64 // the horizon that the node is to be told
	openings []opening
}

// maxMessages bounds what one node may send in a second.
const maxMessages = 500

// ServeSession is the handler of POST /v1/session.
func (d *Dispatcher) ServeSession(w http.ResponseWriter, r *http.Request) {
	peer, ok := rpc.PeerFrom(r.Context())
	if !ok {
		rpc.WriteError(w, rpc.ErrNoCertificate)
		return
	}
	t, err := d.current()
	if err == nil {
		err = t.begin()
	}
	if err != nil {
		rpc.WriteError(w, err)
		return
	}
	defer t.handlers.Done()
	if err := t.admit(peer); err != nil {
		rpc.WriteError(w, err)
		return
	}
	stream, err := rpc.AcceptStream(w, r)
	if err != nil {
		return
	}
	defer stream.Close()
	s := newSession(t, peer, remoteHost(r), stream)
	err = s.serve(r.Context())
	t.leave(s)
	d.log.Debug("session ended", "node", s.node, "addr", s.addr, "err", err)
}

// admit looks whether a node may have a session.
func (t *term) admit(peer secrets.Peer) error {
	if t.cfg.Store.View().Node(peer.NodeID) == nil {
		return rpc.ErrUnknownNode
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.arrivals.allow(peer.NodeID, time.Now()) {
		return rpc.ErrTooMany.With("the node opens sessions too often; does a copy of it run on another machine?")
	}
	return nil
}

func newSession(t *term, peer secrets.Peer, addr string, stream *rpc.Stream) *session {
	return &session{
		term: t, node: peer.NodeID, peer: peer, addr: addr, stream: stream,
		wake: make(chan struct{}, 1), changed: true, full: true,
		rate:      limiter{limit: maxMessages, window: time.Second},
		factsRate: limiter{limit: 20, window: 10 * time.Second},
	}
}

// serve runs the session until it ends, and returns why.
func (s *session) serve(parent context.Context) error {
	ctx, cancel := context.WithCancelCause(parent)
	s.ctx, s.cancel = ctx, cancel
	defer cancel(nil)
	stop := context.AfterFunc(ctx, s.stream.Close)
	defer stop()
	stopTerm := context.AfterFunc(s.term.ctx, func() { cancel(errTermOver) })
	defer stopTerm()

	if err := s.greet(); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	stop2 := context.AfterFunc(ctx, s.stream.Close)
	defer stop2()
	g.Go(s.receive)
	g.Go(func() error { return s.send(ctx) })
	err := g.Wait()
	if cause := context.Cause(s.ctx); cause != nil {
		err = cause
	}
	return err
}

// greet takes the node's facts and makes the node ready.
func (s *session) greet() error {
	timer := time.AfterFunc(s.term.cfg.Timeout, func() { s.cancel(errSilent) })
	defer timer.Stop()
	var first upMessage
	if err := s.stream.Receive(&first); err != nil {
		return fmt.Errorf("read facts: %w", err)
	}
	if first.Facts == nil {
		return errors.New("read facts: the first message holds none")
	}
	timer.Stop()
	if err := s.setFacts(*first.Facts); err != nil {
		return err
	}
	if err := s.term.enter(s); err != nil {
		return err
	}
	if err := s.register(s.ctx); err != nil {
		return err
	}
	cfg := s.term.cfg
	return s.stream.Send(downMessage{Welcome: &welcome{Period: cfg.Period, Timeout: cfg.Timeout}})
}

// receive takes what the node sends.
func (s *session) receive() error {
	for {
		var m upMessage
		if err := s.stream.Receive(&m); err != nil {
			if errors.Is(err, io.EOF) {
				return errors.New("node closed the session")
			}
			return err
		}
		if !s.rate.allow("", time.Now()) {
			return fmt.Errorf("node sends more than %d messages in a second", maxMessages)
		}
		s.term.alive(s)
		if err := s.handle(m); err != nil {
			return err
		}
	}
}

func (s *session) handle(m upMessage) error {
	if m.Facts != nil {
		if !s.factsRate.allow("", time.Now()) {
			return errors.New("node describes itself too often")
		}
		if err := s.setFacts(*m.Facts); err != nil {
			return err
		}
		s.poke()
	}
	if m.Resync {
		s.note(func() { s.full = true })
		s.poke()
	}
	if m.Applied != 0 {
		s.term.horizon.applied(s, m.Applied)
	}
	if len(m.Ask) > 0 {
		s.term.horizon.ask(s, m.Ask)
	}
	if m.Refusal != nil {
		s.term.refuseReverse(s.node, *m.Refusal)
	}
	if len(m.Statuses) == 0 {
		return nil
	}
	return s.term.inbox.put(report{
		node: s.node, statuses: m.Statuses,
		done: func() { s.note(func() { s.ack = max(s.ack, m.Batch) }) },
	})
}

func (s *session) setFacts(f Facts) error {
	if err := f.check(); err != nil {
		return fmt.Errorf("read facts: %w", err)
	}
	s.note(func() { s.facts = f; s.version++ })
	return nil
}

// poke tells the sender that the store or the facts have changed.
func (s *session) poke() { s.note(func() { s.changed = true }) }

// note changes what the sender has to do and wakes it up.
func (s *session) note(set func()) {
	s.mu.Lock()
	set()
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// open asks the node for a reverse stream.
func (s *session) open(o opening) { s.note(func() { s.openings = append(s.openings, o) }) }

func remoteHost(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return ""
	}
	return host
}
