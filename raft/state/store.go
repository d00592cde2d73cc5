package state

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	memdb "github.com/hashicorp/go-memdb"
)

// Errors of Apply. A batch that earns one changed nothing.
var (
	ErrExists       = errors.New("object already exists")
	ErrNameConflict = errors.New("name conflicts with an existing object")
	ErrNotFound     = errors.New("object does not exist")
	ErrSequence     = errors.New("update out of sequence")
	// ErrTaken: an address, VIP or ingress port of the batch already has another owner.
	ErrTaken = errors.New("already taken")
	// ErrInvalid: the batch makes no sense whatever the store holds (no object, no key, an address that is none).
	ErrInvalid = errors.New("invalid batch")
	// ErrTooLarge: the encoded batch would exceed MaxBatch. Propose it in parts.
	ErrTooLarge = errors.New("batch too large")
	// ErrLagged ends a Watch that fell too far behind, or whose store was restored from a snapshot: take a new view.
	ErrLagged = errors.New("watch lagged behind")
)

// Store holds the cluster's objects. All methods are safe for concurrent use; Apply and Restore serialize.
type Store struct {
	mu    sync.RWMutex
	db    *memdb.MemDB
	index uint64
	// applied is closed and replaced whenever index moves.
	applied chan struct{}
	// tail is the empty link that the next commit fills.
	tail    *link
	watches map[*Watch]struct{}
}

// New returns an empty store.
func New() *Store {
	return &Store{db: newDB(), applied: make(chan struct{}), tail: newLink(0), watches: map[*Watch]struct{}{}}
}

// Index is the raft index of the last applied batch (also of refused ones).
func (s *Store) Index() uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.index
}

// View is an immutable snapshot.
func (s *Store) View() View {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.view()
}

// view needs mu.
func (s *Store) view() View { return View{txn: s.db.Txn(false), index: s.index} }

// WaitIndex blocks until the store has applied index.
func (s *Store) WaitIndex(ctx context.Context, index uint64) error {
	for {
		s.mu.RLock()
		now, applied := s.index, s.applied
		s.mu.RUnlock()
		if now >= index {
			return nil
		}
		select {
		case <-applied:
		case <-ctx.Done():
			return fmt.Errorf("wait for index %d (at %d): %w", index, now, context.Cause(ctx))
		}
	}
}

// Apply changes the store by one batch, at a raft index that is greater than every index before. It is deterministic:
// the same batches at the same indexes give the same store, and refused batches are refused everywhere. All or nothing:
// with an error, nothing but Index has changed.
//
// Each Op sees the effect of those before it; uniqueness of names, addresses and ports is judged by the state after the
// whole batch, so one batch may hand an address from one task to another.
//
// The store keeps copies: the batch stays the caller's.
func (s *Store) Apply(index uint64, b Batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if index <= s.index {
		return fmt.Errorf("%w: index %d after %d", ErrInvalid, index, s.index)
	}
	txn := s.db.Txn(true)
	defer txn.Abort()
	changes, err := applyOps(txn, index, b)
	if err == nil {
		txn.Commit()
	}
	s.advance(index)
	if err != nil {
		return err
	}
	s.publish(Commit{Index: index, Changes: changes, View: s.view()})
	return nil
}

// advance needs mu.
func (s *Store) advance(index uint64) {
	s.index = index
	close(s.applied)
	s.applied = make(chan struct{})
}

func applyOps(txn *memdb.Txn, index uint64, b Batch) ([]Change, error) {
	now := b.Time.UTC().Round(0)
	changes := make([]Change, 0, len(b.Ops))
	for i, op := range b.Ops {
		c, err := applyOp(txn, index, now, op)
		if err != nil {
			return nil, fmt.Errorf("op %d: %w", i, err)
		}
		changes = append(changes, c)
	}
	if err := moveClaims(txn, changes); err != nil {
		return nil, err
	}
	return changes, nil
}

func applyOp(txn *memdb.Txn, index uint64, now time.Time, op Op) (Change, error) {
	if isNil(op.Object) {
		return Change{}, fmt.Errorf("%w: %s without an object", ErrInvalid, op.Action)
	}
	kind, key := op.Object.Kind(), op.Object.Key()
	if key == "" || strings.ContainsRune(key, 0) {
		return Change{}, fmt.Errorf("%w: %s %s with ID %q", ErrInvalid, op.Action, kind, key)
	}
	old, err := first(txn, kind, key)
	if err != nil {
		return Change{}, err
	}
	switch op.Action {
	case Create:
		if old != nil {
			return Change{}, fmt.Errorf("create %s %s: %w", kind, key, ErrExists)
		}
		return put(txn, nil, op, index, now)
	case Update, Delete:
		if old == nil {
			return Change{}, fmt.Errorf("%s %s %s: %w", op.Action, kind, key, ErrNotFound)
		}
		at := old.Head().Modified
		if op.Expected != at && (op.Action == Update || op.Expected != 0) {
			return Change{}, fmt.Errorf("%s %s %s: %w: expected %d, is at %d", op.Action, kind, key, ErrSequence, op.Expected, at)
		}
		if op.Action == Update {
			return put(txn, old, op, index, now)
		}
		if err := txn.Delete(string(kind), old); err != nil {
			return Change{}, fmt.Errorf("delete %s %s: %w", kind, key, err)
		}
		return Change{Old: old}, nil
	}
	return Change{}, fmt.Errorf("%w: unknown action %q", ErrInvalid, op.Action)
}

// put stores a copy of the op's object with its header brought up to date.
func put(txn *memdb.Txn, old Object, op Op, index uint64, now time.Time) (Change, error) {
	obj := op.Object.CloneObject()
	h := obj.Head()
	if old != nil {
		h.Meta = old.Head().Meta
	} else {
		h.CreatedAt = now
	}
	if old == nil || op.SpecChange {
		h.Version.Index = index
		h.UpdatedAt = now
	}
	h.Modified = index
	if err := txn.Insert(string(obj.Kind()), obj); err != nil {
		return Change{}, fmt.Errorf("%s %s %s: %w", op.Action, obj.Kind(), obj.Key(), err)
	}
	return Change{Old: old, New: obj}, nil
}

// isNil sees through typed nil pointers, which an interface comparison does not.
func isNil(o Object) bool {
	switch p := o.(type) {
	case nil:
		return true
	case *Cluster:
		return p == nil
	case *Node:
		return p == nil
	case *Service:
		return p == nil
	case *Revision:
		return p == nil
	case *Task:
		return p == nil
	case *Network:
		return p == nil
	}
	return false
}
