package dispatch

import (
	"context"
	"sync"
	"time"

	"github.com/meshswarm/meshswarm/raft/state"
	"github.com/meshswarm/meshswarm/sched"
	"github.com/meshswarm/meshswarm/secrets"
)

// Assignments go out at once when little has been sent for a while, and at most every pushGap otherwise. Where working them
// out takes long, the gap grows with it: the leader spends at most a fifth of its time on pushing.
const (
	pushGap    = 10 * time.Millisecond
	pushBurst  = 5
	maxPushGap = 500 * time.Millisecond
	// maxFulls bounds how many nodes are sent everything at the same time; a node that is slow to take it counts for
	// fullHold only.
	maxFulls = 32
	fullHold = 2 * time.Second
)

// send is the session's sender: acknowledgements, requests, assignments, signs of life.
func (s *session) send(ctx context.Context) error {
	period := s.term.cfg.Period
	beat := time.NewTicker(period)
	defer beat.Stop()
	pushes := pace{gap: pushGap, burst: pushBurst}
	for {
		spoke, err := s.sendNotes()
		if err != nil {
			return err
		}
		var due <-chan time.Time
		if s.isChanged() {
			if wait := pushes.wait(time.Now()); wait > 0 {
				due = time.After(wait)
			} else {
				start := time.Now()
				pushed, err := s.push(ctx)
				if err != nil {
					return err
				}
				spoke = spoke || pushed
				pushes.took(time.Now(), min(4*time.Since(start), maxPushGap))
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
	if err := s.pushRole(s.term.cfg.Store.View().Node(s.node)); err != nil {
		return false, err
	}
	if full {
		release, err := s.term.takeFull(ctx)
		if err != nil {
			return false, err
		}
		defer release()
	}
	update, err := s.next(ctx, full)
	if err != nil || update.Empty() {
		return false, err
	}
	p := parcel{send: s.stream.SendRaw, seq: s.seq}
	if err := p.pack(&update); err != nil {
		return false, err
	}
	s.seq = p.seq
	s.term.metrics.deltas.Inc()
	return true, nil
}

// next works out what the node has to be told. Not more sessions do so at once than there are processors: the rest of the
// leader shall not wait behind all of them.
func (s *session) next(ctx context.Context, full bool) (sched.Update, error) {
	select {
	case s.term.turns <- struct{}{}:
	case <-ctx.Done():
		return sched.Update{}, context.Cause(ctx)
	}
	defer func() { <-s.term.turns }()
	update, ok := s.assignments.Next(full)
	if ok {
		s.term.horizon.looked(s, update.Index, !update.Empty())
	}
	return update, nil
}

// takeFull waits for one of the places of those that are sent everything. release may be called more than once.
func (t *term) takeFull(ctx context.Context) (release func(), err error) {
	select {
	case t.fulls <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	var once sync.Once
	free := func() { once.Do(func() { <-t.fulls }) }
	timer := time.AfterFunc(fullHold, free)
	return func() { timer.Stop(); free() }, nil
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
