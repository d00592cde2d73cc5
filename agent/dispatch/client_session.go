package dispatch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meshswarm/meshswarm/agent/rpc"
	"github.com/meshswarm/meshswarm/raft/state"
)

// maxStreams is how many reverse streams a node serves at once.
const maxStreams = 64

var (
	errManagerSilent = errors.New("manager is silent")
	errReconnect     = errors.New("session begins anew")
)

// clientSession is one session, seen from the node.
type clientSession struct {
	*Client
	addr   string
	ctx    context.Context
	stream *rpc.Stream
	notes  chan upMessage // resync and refusals, for the sender
	group  *errgroup.Group
	slots  chan struct{} // of reverse streams

	// The receiver's.
	have     state.Assignments
	part     state.Delta // what came of a change so far
	seq      uint64
	synced   bool // have follows from a full delta without a gap
	welcomed bool
}

// session has one session with the manager at addr, until it ends; welcomed tells whether it ever began.
func (c *Client) session(ctx context.Context, addr string) (welcomed bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := time.AfterFunc(openTimeout, func() { cancel(fmt.Errorf("%s did not answer: %w", addr, rpc.ErrUnreachable)) })
	stream, err := c.cfg.RPC.Open(ctx, addr, rpc.PathSession)
	if !timer.Stop() && err == nil {
		stream.Close()
	}
	if err != nil {
		return false, cause(ctx, err)
	}
	defer stream.Close()
	g, ctx := errgroup.WithContext(ctx)
	s := &clientSession{
		Client: c, addr: addr, ctx: ctx, stream: stream, notes: make(chan upMessage, 2*maxStreams), group: g,
		slots: make(chan struct{}, maxStreams),
	}
	c.out.reset()
	c.common.reset()
	stop := context.AfterFunc(ctx, stream.Close)
	defer stop()
	g.Go(s.receive)
	g.Go(s.send)
	g.Go(s.watch)
	err = g.Wait()
	if s.welcomed && c.cfg.Connected != nil {
		c.cfg.Connected("")
	}
	return s.welcomed, err
}

// cause prefers the reason for which ctx was cancelled.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// watch ends the session when nothing arrives from the manager.
func (s *clientSession) watch() error {
	tick := time.NewTicker(s.cfg.Timeout / 10)
	defer tick.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return nil
		case <-s.again:
			return errReconnect
		case <-tick.C:
			if time.Since(s.stream.LastRead()) > s.cfg.Timeout-s.cfg.Timeout/10 {
				return errManagerSilent
			}
		}
	}
}

// send is the sender: facts, statuses, notes, signs of life.
func (s *clientSession) send() error {
	facts := s.cfg.Facts()
	if err := s.stream.Send(upMessage{Facts: &facts}); err != nil {
		return err
	}
	beat := time.NewTicker(s.cfg.Period)
	defer beat.Stop()
	for {
		var err error
		select {
		case <-s.ctx.Done():
			return nil
		case <-beat.C:
			err = s.stream.Send(nil)
		case <-s.facts:
			facts := s.cfg.Facts()
			err = s.stream.Send(upMessage{Facts: &facts})
		case m := <-s.notes:
			err = s.stream.Send(m)
		case <-s.common.wake:
			if applied, asks := s.common.take(); applied != 0 || len(asks) > 0 {
				err = s.stream.Send(upMessage{Applied: applied, Ask: asks})
			}
		case <-s.out.wake:
			if batch, statuses := s.out.take(); len(statuses) > 0 {
				err = s.stream.Send(upMessage{Batch: batch, Statuses: statuses})
			}
		}
		if err != nil {
			return err
		}
	}
}

// note gives the sender something to say; it is dropped when the session is over.
func (s *clientSession) note(m upMessage) {
	select {
	case s.notes <- m:
	case <-s.ctx.Done():
	}
}

// receive takes what the leader sends.
func (s *clientSession) receive() error {
	for {
		var m downMessage
		if err := s.stream.Receive(&m); err != nil {
			if errors.Is(err, io.EOF) {
				return errors.New("manager ended the session")
			}
			return err
		}
		if m.Welcome != nil && !s.welcomed {
			s.welcomed = true
			s.log.Info("session begins", "addr", s.addr)
			if s.cfg.Connected != nil {
				s.cfg.Connected(s.addr)
			}
		}
		if m.Delta != nil {
			s.apply(*m.Delta, m.More)
		}
		if m.Ack != 0 {
			s.out.ack(m.Ack)
		}
		if m.Known != 0 {
			s.common.reach(m.Known)
		}
		if m.Renew && s.cfg.Renew != nil {
			s.cfg.Renew()
		}
		if m.Open != nil {
			s.answer(*m.Open)
		}
	}
}

// apply takes one delta, or a part of one. After a gap nothing counts until the next full one, which is asked for once.
func (s *clientSession) apply(d state.Delta, more bool) {
	switch {
	case d.Full:
		s.part, s.synced = state.Delta{}, true
	case !s.synced:
		return
	case d.Seq != s.seq+1:
		s.log.Warn("assignments have a gap", "addr", s.addr, "have", s.seq, "got", d.Seq)
		s.synced = false
		s.note(upMessage{Resync: true})
		return
	}
	s.part, s.seq = join(s.part, d), d.Seq
	if more {
		return
	}
	s.have, s.part = s.cfg.Patch(s.have, s.part), state.Delta{}
	s.assign.put(s.have, d.Index)
}

// join puts the parts of one change together; no key is in two of them. It may change a.
func join(a, b state.Delta) state.Delta {
	if a.Index == 0 {
		return b
	}
	a.Set = state.Assignments{
		Tasks: joinMap(a.Set.Tasks, b.Set.Tasks), Networks: joinMap(a.Set.Networks, b.Set.Networks),
		Services: joinMap(a.Set.Services, b.Set.Services), Endpoints: joinMap(a.Set.Endpoints, b.Set.Endpoints),
		Nodes: joinMap(a.Set.Nodes, b.Set.Nodes),
	}
	a.Remove = state.Removals{
		Tasks: append(a.Remove.Tasks, b.Remove.Tasks...), Networks: append(a.Remove.Networks, b.Remove.Networks...),
		Services: append(a.Remove.Services, b.Remove.Services...), Endpoints: append(a.Remove.Endpoints, b.Remove.Endpoints...),
		Nodes: append(a.Remove.Nodes, b.Remove.Nodes...),
	}
	return a
}

func joinMap[V any](a, b map[string]V) map[string]V {
	if a == nil {
		return b
	}
	maps.Copy(a, b)
	return a
}

// answer serves a reverse stream, or refuses it.
func (s *clientSession) answer(o opening) {
	refuse := func(err error) { s.note(upMessage{Refusal: &refusal{ID: o.ID, Message: err.Error()}}) }
	select {
	case s.slots <- struct{}{}:
	default:
		refuse(fmt.Errorf("the node serves %d streams already", maxStreams))
		return
	}
	s.group.Go(func() error {
		defer func() { <-s.slots }()
		if err := s.serveReverse(o, refuse); err != nil && s.ctx.Err() == nil {
			s.log.Debug("reverse stream ended", "addr", s.addr, "err", err)
		}
		return nil
	})
}

func (s *clientSession) serveReverse(o opening, refuse func(error)) error {
	if o.Kind != kindLogs {
		err := fmt.Errorf("this node does not support %q streams: its meshswarm is another version than the manager's", clip(o.Kind, 64))
		refuse(err)
		return err
	}
	var req LogRequest
	if err := json.Unmarshal(o.Request, &req); err != nil {
		refuse(fmt.Errorf("decode request: %w", err))
		return err
	}
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	logs, err := s.cfg.Handler.Logs(ctx, req)
	if err != nil {
		refuse(err)
		return err
	}
	body := &reverseBody{in: logs, trailer: http.Header{errorTrailer: nil}}
	defer body.Close()
	answer, err := s.cfg.RPC.Send(ctx, s.addr, rpc.PathReverse+o.ID, body, body.trailer)
	if err != nil {
		return err
	}
	defer answer.Close()
	_, err = io.Copy(io.Discard, answer) // ends when the manager has enough
	return err
}

// reverseBody is the body of a reverse stream: an error of its source travels as a trailer.
type reverseBody struct {
	in      io.ReadCloser
	trailer http.Header
	once    sync.Once
}

// Read implements io.Reader.
func (b *reverseBody) Read(p []byte) (int, error) {
	n, err := b.in.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		b.trailer.Set(errorTrailer, headerText(err.Error()))
		err = io.EOF
	}
	return n, err
}

// Close implements io.Closer.
func (b *reverseBody) Close() (err error) {
	b.once.Do(func() { err = b.in.Close() })
	return err
}

// headerText makes a text fit for a header.
func headerText(s string) string {
	out := []byte(clip(s, maxText))
	for i, c := range out {
		if c < ' ' || c > '~' {
			out[i] = ' '
		}
	}
	return string(out)
}
