package raft

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// retryDelay is the pause before a term's function runs again when the leadership could not be given away.
const retryDelay = time.Second

// leadership is a stretch of time in which this manager is the leader, or is not.
type leadership struct {
	leader bool
	ended  chan struct{}

	mu sync.Mutex
	// known is the index of a barrier that was applied in the term knownTerm; 0 = none yet.
	known, knownTerm uint64
}

func newLeadership(leader bool) *leadership {
	return &leadership{leader: leader, ended: make(chan struct{})}
}

// barrier is the index of the last barrier of this term that is known to be applied, 0 if none is.
func (l *leadership) barrier(term uint64) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.knownTerm != term {
		return 0
	}
	return l.known
}

func (l *leadership) passed(term, index uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if term > l.knownTerm || index > l.known {
		l.known, l.knownTerm = index, term
	}
}

func (r *Raft) leadership() *leadership {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lead
}

func (r *Raft) setLeadership(leader bool) {
	r.mu.Lock()
	old := r.lead
	r.lead = newLeadership(leader)
	r.mu.Unlock()
	close(old.ended)
}

// watchLeadership follows hashicorp/raft's changes, every one of them, in order.
func (r *Raft) watchLeadership(ctx context.Context, notify <-chan bool) error {
	// The last word is that this manager leads no more.
	defer r.setLeadership(false)
	for {
		select {
		case <-ctx.Done():
			return nil
		case leader := <-notify:
			r.setLeadership(leader)
			if !leader {
				r.log.Info("leadership ended", "node", r.cfg.NodeID)
				continue
			}
			r.log.Info("became leader", "node", r.cfg.NodeID, "term", r.node.CurrentTerm())
			r.correctAddr()
		}
	}
}

// Lead calls fn each time this manager becomes the leader, as soon as everything committed before is applied, until ctx
// ends (then it returns nil) or Run has ended (ErrStopped). fn's context ends, with ErrLeadershipLost as cause, when the
// leadership does; the next call begins only after fn has returned. When fn returns an error while still leading, the
// leadership goes to another manager; if there is none to take it, fn is called again after a second. When fn returns nil,
// the term goes on without it.
func (r *Raft) Lead(ctx context.Context, fn func(ctx context.Context, term uint64) error) error {
	select {
	case <-r.ready:
	case <-r.stopped:
		return ErrStopped
	case <-ctx.Done():
		return nil
	}
	for {
		lead := r.leadership()
		if lead.leader {
			r.leadTerm(ctx, lead, fn)
		}
		select {
		case <-lead.ended:
		case <-r.stopped:
			return ErrStopped
		case <-ctx.Done():
			return nil
		}
	}
}

// leadTerm returns when fn is done with this leadership for good.
func (r *Raft) leadTerm(ctx context.Context, lead *leadership, fn func(ctx context.Context, term uint64) error) {
	ctx, cancel := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-lead.ended:
			cancel(ErrLeadershipLost)
		case <-ctx.Done():
		}
	}()
	defer func() {
		cancel(context.Canceled)
		<-watched
	}()
	for ctx.Err() == nil {
		err := r.barrier(ctx, lead)
		if err == nil {
			err = fn(ctx, r.node.CurrentTerm())
			if err == nil || ctx.Err() != nil {
				return
			}
			r.giveUp(ctx, err)
		}
		pause(ctx, retryDelay)
	}
}

// giveUp asks another manager to lead.
func (r *Raft) giveUp(ctx context.Context, because error) {
	r.log.Warn("giving up leadership", "node", r.cfg.NodeID, "err", because)
	if err := r.TransferLeadership(ctx); err != nil && ctx.Err() == nil {
		r.log.Warn("no other manager takes the leadership: going on", "node", r.cfg.NodeID, "err", err)
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// TransferLeadership makes another, up-to-date manager the leader, and returns when this one no longer is.
func (r *Raft) TransferLeadership(ctx context.Context) error {
	if err := r.mustLead(); err != nil {
		return fmt.Errorf("transfer leadership: %w", err)
	}
	if r.voters() < 2 {
		return errors.New("transfer leadership: there is no other manager")
	}
	if err := r.await(ctx, func() error { return r.node.LeadershipTransfer().Error() }); err != nil {
		return fmt.Errorf("transfer leadership: %w", err)
	}
	return nil
}
