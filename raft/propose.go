package raft

import (
	"context"
	"errors"
	"fmt"
	"time"

	hraft "github.com/hashicorp/raft"

	"github.com/meshswarm/meshswarm/raft/state"
)

// Errors of this room. Those of state.Store.Apply come through Propose as they are.
var (
	// ErrNotLeader: only the leader takes this call; nothing was changed. Ask the one that Leader names.
	ErrNotLeader = errors.New("this manager is not the leader")
	// ErrNoLeader comes together with ErrNotLeader when no leader is known.
	ErrNoLeader = errors.New("the swarm has no leader: a majority of the managers must be up and reach each other")
	// ErrLeadershipLost: the leadership ended meanwhile; the change may or may not have been made.
	ErrLeadershipLost = errors.New("leadership lost meanwhile: the change may or may not have been made")
	// ErrBusy: the leader took no more work for too long; nothing was changed.
	ErrBusy = errors.New("raft is too busy: try again")
	// ErrStopped: Run has not begun, has ended, or is ending.
	ErrStopped = errors.New("raft is not running")
	// ErrTooLarge: the encoded batch exceeds state.MaxBatch.
	ErrTooLarge = state.ErrTooLarge
)

// enqueueTimeout bounds the wait for hashicorp/raft to take a request in.
const enqueueTimeout = 10 * time.Second

// Propose replicates a batch and applies it. When it returns nil, a majority has the batch on disk and this manager's
// store has applied it, at the returned index. Concurrent calls share log writes.
//
// It fails with Apply's errors (the batch was replicated and refused everywhere alike), ErrTooLarge, ErrNotLeader,
// ErrBusy or ErrStopped (nothing was changed), ErrLeadershipLost or ctx's cause (it may still happen).
func (r *Raft) Propose(ctx context.Context, b state.Batch) (index uint64, err error) {
	defer func(began time.Time) { r.metrics.proposed(began, err) }(time.Now())
	data, err := b.Encode()
	if err != nil {
		return 0, fmt.Errorf("propose: %w", err)
	}
	if err := r.mustLead(); err != nil {
		return 0, fmt.Errorf("propose: %w", err)
	}
	var at uint64
	err = r.await(ctx, func() error {
		f := r.node.Apply(data, enqueueTimeout)
		if err := f.Error(); err != nil {
			return err
		}
		at = f.Index()
		if err, ok := f.Response().(error); ok {
			return err
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("propose: %w", err)
	}
	return at, nil
}

// Verify returns nil when this manager is the leader, confirmed by a majority after the call began, and its store has all
// that was committed before the call: what it shows then is what the cluster says.
func (r *Raft) Verify(ctx context.Context) error {
	if err := r.mustLead(); err != nil {
		return fmt.Errorf("verify leadership: %w", err)
	}
	lead := r.leadership()
	// Without a barrier in this term a new leader does not know what is committed.
	if known := lead.barrier(r.node.CurrentTerm()); known == 0 || max(known, r.cfg.Store.Index()) < r.node.CommitIndex() {
		return r.barrier(ctx, lead)
	}
	if err := r.await(ctx, func() error { return r.node.VerifyLeader().Error() }); err != nil {
		return fmt.Errorf("verify leadership: %w", err)
	}
	return nil
}

// barrier returns when everything committed is applied, and this manager was the leader.
func (r *Raft) barrier(ctx context.Context, lead *leadership) error {
	var index uint64
	term := r.node.CurrentTerm()
	err := r.await(ctx, func() error {
		f := r.node.Barrier(enqueueTimeout)
		if err := f.Error(); err != nil {
			return err
		}
		if f, ok := f.(hraft.IndexFuture); ok {
			index = f.Index()
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("wait for the log to be applied: %w", err)
	}
	lead.passed(term, index)
	return nil
}

// Snapshot writes a snapshot now and shortens the log. Run does so by itself, by Config.SnapshotThreshold.
func (r *Raft) Snapshot(ctx context.Context) error {
	err := r.await(ctx, func() error {
		err := r.node.Snapshot().Error()
		if errors.Is(err, hraft.ErrNothingNewToSnapshot) {
			return nil
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("take snapshot: %w", err)
	}
	return nil
}

// await runs a blocking call into hashicorp/raft, which knows no contexts. When ctx ends first, the call goes on by itself;
// op may only write to
// what the caller does not read after an error.
func (r *Raft) await(ctx context.Context, op func() error) error {
	if !r.gate.enter() {
		return ErrStopped
	}
	done := make(chan error, 1)
	go func() {
		defer r.gate.leave()
		done <- op()
	}()
	select {
	case err := <-done:
		return r.translate(err)
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-r.stopped:
		return ErrStopped
	}
}

// mustLead answers a call that only the leader can serve without troubling hashicorp/raft.
func (r *Raft) mustLead() error {
	switch {
	case !r.isReady():
		return ErrStopped
	case r.node.State() == hraft.Leader:
		return nil
	case r.node.State() == hraft.Shutdown:
		return ErrStopped
	default:
		return r.notLeader()
	}
}

func (r *Raft) notLeader() error {
	if id, _ := r.Leader(); id == "" {
		return fmt.Errorf("%w: %w", ErrNotLeader, ErrNoLeader)
	}
	return ErrNotLeader
}

func (r *Raft) translate(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, hraft.ErrNotLeader), errors.Is(err, hraft.ErrLeadershipTransferInProgress):
		return r.notLeader()
	case errors.Is(err, hraft.ErrLeadershipLost):
		return ErrLeadershipLost
	case errors.Is(err, hraft.ErrRaftShutdown):
		return ErrStopped
	case errors.Is(err, hraft.ErrEnqueueTimeout):
		return ErrBusy
	}
	return err
}

// resultOf names an error for the metrics.
func resultOf(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, ErrNotLeader):
		return "not_leader"
	case errors.Is(err, ErrLeadershipLost):
		return "leadership_lost"
	case errors.Is(err, ErrTooLarge):
		return "too_large"
	case errors.Is(err, state.ErrSequence):
		return "sequence"
	case errors.Is(err, state.ErrTaken), errors.Is(err, state.ErrNameConflict), errors.Is(err, state.ErrExists),
		errors.Is(err, state.ErrNotFound), errors.Is(err, state.ErrInvalid):
		return "refused"
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return "given_up"
	}
	return "failed"
}
