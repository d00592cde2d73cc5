package rafttest

import (
	"context"
	"fmt"
	"sync"

	"github.com/meshswarm/meshswarm/raft/state"
)

// Proposer is a cluster of one without raft: it applies batches to a store at growing indexes. Safe for concurrent use.
type Proposer struct {
	store *state.Store

	mu  sync.Mutex
	err error
}

// NewProposer returns a proposer for a store that nobody else applies to.
func NewProposer(s *state.Store) *Proposer { return &Proposer{store: s} }

// Fail makes every further Propose return err and change nothing, until Fail(nil).
func (p *Proposer) Fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = err
}

// Propose applies the batch as raft would: encoded and decoded, at the next index. It returns Apply's errors.
func (p *Proposer) Propose(ctx context.Context, b state.Batch) (uint64, error) {
	if err := context.Cause(ctx); err != nil {
		return 0, fmt.Errorf("propose: %w", err)
	}
	data, err := b.Encode()
	if err != nil {
		return 0, fmt.Errorf("propose: %w", err)
	}
	b, err = state.DecodeBatch(data)
	if err != nil {
		return 0, fmt.Errorf("propose: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return 0, fmt.Errorf("propose: %w", p.err)
	}
	index := p.store.Index() + 1
	return index, p.store.Apply(index, b)
}
