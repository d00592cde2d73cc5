package dispatch

import (
	"context"
	"fmt"
	"time"

	"github.com/meshswarm/meshswarm/agent/rpc"
	"github.com/meshswarm/meshswarm/raft/state"
	"github.com/meshswarm/meshswarm/secrets"
)

// Assignments are computed at once when nothing has been sent for a while, and at most every pushGap otherwise. Where
// computing them takes long, the gap grows with it: the leader spends at most a fifth of a processor on one node.
const (
	pushGap    = 10 * time.Millisecond
	maxPushGap = 500 * time.Millisecond
)

// send is the session's sender: acknowledgements, requests, assignments, signs of life.
func (s *session) send(ctx context.Context) error {
	period := s.term.cfg.Period
	beat := time.NewTicker(period)
	defer beat.Stop()
	var next time.Time // not before: the next push
	for {
		spoke, err := s.sendNotes()
		if err != nil {
			return err
		}
		var due <-chan time.Time
		if s.isChanged() {
			if wait := time.Until(next); wait > 0 {
				due = time.After(wait)
			} else {
				start := time.Now()
				pushed, err := s.push(ctx)
				if err != nil {
					return err
				}
				spoke = spoke || pushed
				next = time.Now().Add(min(max(4*time.Since(start), pushGap), maxPushGap))
			}
		}
		if spoke {
			beat.Reset(period)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-s.wake:
		case <-due:
		case <-beat.C:
			if err := s.stream.Send(nil); err != nil {
				return err
			}
		}
	}
}

func (s *session) isChanged() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed || s.full
}

// sendNotes sends acknowledgements, what all nodes know, and requests for reverse streams.
func (s *session) sendNotes() (spoke bool, err error) {
	s.mu.Lock()
	ack, known, openings := s.ack, s.known, s.openings
	s.ack, s.known, s.openings = 0, 0, nil
	s.mu.Unlock()
	if ack != 0 || known != 0 {
		if err := s.stream.Send(downMessage{Ack: ack, Known: known}); err != nil {
			return false, err
		}
	}
	for _, o := range openings {
		if err := s.stream.Send(downMessage{Open: &o}); err != nil {
			return false, err
		}
	}
	return ack != 0 || known != 0 || len(openings) > 0, nil
}

// push brings the node up to date with the store.
func (s *session) push(ctx context.Context) (spoke bool, err error) {
	s.mu.Lock()
	full := s.full
	s.changed, s.full = false, false
	s.mu.Unlock()
	if err := s.register(ctx); err != nil {
		return false, err
	}
	view, now := s.term.assignments(s.node)
	if err := s.pushRole(view.Node(s.node)); err != nil {
		return false, err
	}
	delta := state.Delta{Index: view.Index(), Full: full, Set: now}
	if !full {
		var changed bool
		if delta.Set, delta.Remove, changed = s.term.cfg.Diff(s.sent, now); !changed {
			s.term.horizon.looked(s, view.Index(), false)
			return false, nil
		}
	}
	s.term.horizon.looked(s, view.Index(), true)
	messages, err := s.fit(delta)
	if err != nil {
		return false, err
	}
	for _, m := range messages {
		if err := s.stream.SendRaw(m); err != nil {
			return false, err
		}
	}
	s.sent = now
	s.term.metrics.deltas.Inc()
	return true, nil
}

// pushRole tells the node when its certificate no longer says what it should be.
func (s *session) pushRole(n *state.Node) error {
	if n == nil {
		return errGone
	}
	if (s.peer.Role == secrets.RoleManager) == isManager(n.Spec.Role) || s.renewed {
		return nil
	}
	s.renewed = true
	return s.stream.Send(downMessage{Renew: true})
}

// fit encodes a delta as one message, or as several when one would be too large.
func (s *session) fit(d state.Delta) ([][]byte, error) {
	var messages [][]byte
	parts := []state.Delta{d}
	for len(parts) > 0 {
		part := parts[0]
		part.Seq = s.seq + 1
		data, err := encode(downMessage{Delta: &part, More: len(parts) > 1})
		if err != nil {
			return nil, err
		}
		if len(data) > rpc.MaxDown {
			first, second, ok := halve(part)
			if !ok {
				return nil, fmt.Errorf("one object of the assignments takes %d bytes: %w", len(data), rpc.ErrMessageSize)
			}
			parts = append([]state.Delta{first, second}, parts[1:]...)
			continue
		}
		messages = append(messages, data)
		parts = parts[1:]
		s.seq++
	}
	return messages, nil
}

// halve splits a delta in two that give the same when applied in turn; false when there are no two objects in it.
func halve(d state.Delta) (first, second state.Delta, ok bool) {
	var a, b state.Assignments
	n := 0
	a.Tasks, b.Tasks = halveMap(d.Set.Tasks, &n)
	a.Networks, b.Networks = halveMap(d.Set.Networks, &n)
	a.Services, b.Services = halveMap(d.Set.Services, &n)
	a.Endpoints, b.Endpoints = halveMap(d.Set.Endpoints, &n)
	a.Nodes, b.Nodes = halveMap(d.Set.Nodes, &n)
	first, second = d, state.Delta{Index: d.Index, Set: b}
	first.Set = a
	return first, second, n > 1
}

// halveMap deals out the objects of m; n counts those dealt out so far.
func halveMap[V any](m map[string]V, n *int) (a, b map[string]V) {
	for k, v := range m {
		half := &a
		if *n++; *n%2 == 0 {
			half = &b
		}
		if *half == nil {
			*half = map[string]V{}
		}
		(*half)[k] = v
	}
	return a, b
}
