package dispatch

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

// maxOps bounds a batch, as Swarm does.
const maxOps = 200

// beat marks nodes down whose deadline has passed. Deadlines only move away, and new ones are never nearer than the
// timeout, so it wakes up only when one may have passed.
func (t *term) beat(ctx context.Context) error {
	for {
		fired, stop := t.cfg.Clock.Timer(t.nextDeadline())
		select {
		case <-ctx.Done():
			stop()
			return nil
		case <-fired:
		}
		if err := t.expire(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
}

func (t *term) nextDeadline() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.cfg.Clock.Now()
	wait := t.cfg.Timeout
	for _, at := range t.deadlines {
		wait = min(wait, at.Sub(now))
	}
	return max(wait, time.Millisecond)
}

// expire marks all silent nodes down.
func (t *term) expire(ctx context.Context) error {
	silent := t.takeSilent()
	for len(silent) > 0 {
		n := min(len(silent), maxOps)
		if err := t.markDown(ctx, silent[:n]); err != nil {
			return err
		}
		silent = silent[n:]
	}
	return nil
}

// takeSilent lists the nodes whose deadline has passed, and ends their sessions.
func (t *term) takeSilent() []string {
	var nodes []string
	var dead []*session
	t.mu.Lock()
	now := t.cfg.Clock.Now()
	for id, at := range t.deadlines {
		if now.Before(at) {
			continue
		}
		nodes = append(nodes, id)
		delete(t.deadlines, id)
		if s := t.sessions[id]; s != nil {
			dead = append(dead, s)
			delete(t.sessions, id)
		}
	}
	t.mu.Unlock()
	for _, s := range dead {
		s.cancel(errSilent)
	}
	return nodes
}

// markDown writes that nodes are down. A node that registers meanwhile is set ready again by its session.
func (t *term) markDown(ctx context.Context, nodes []string) error {
	for {
		view := t.cfg.Store.View()
		batch := state.Batch{Time: t.cfg.Clock.Now()}
		for _, id := range nodes {
			n := view.Node(id)
			if n == nil || n.Status.State == swarm.NodeStateDown || t.session(id) != nil {
				continue
			}
			n = n.Clone()
			n.Status.State = swarm.NodeStateDown
			n.Status.Message = errSilent.Error()
			n.Down = batch.Time
			n.Downs = append(n.Downs, batch.Time)
			n.Downs = n.Downs[max(0, len(n.Downs)-state.MaxDowns):]
			batch.Ops = append(batch.Ops, state.Op{Action: state.Update, Object: n, Expected: n.Modified})
		}
		if len(batch.Ops) == 0 {
			return nil
		}
		_, err := t.cfg.Proposer.Propose(ctx, batch)
		if retry(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("mark nodes down: %w", err)
		}
		for _, op := range batch.Ops {
			t.metrics.down.Inc()
			t.log.Warn("node is down", "node", op.Object.Key(), "err", errSilent)
		}
		return nil
	}
}

// retry tells whether a proposal failed because the store moved on: read again, decide again.
func retry(err error) bool {
	return errors.Is(err, state.ErrSequence) || errors.Is(err, state.ErrNotFound)
}
