package state

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// watchBound is how many changes a watch may lie behind before it ends with ErrLagged; the commits it has not yet read
// are kept in memory that long.
const watchBound = 1 << 16

// Change is what one Op did. Old is nil for Create, New is nil for Delete.
type Change struct{ Old, New Object }

// Commit is what one batch did. It is shared by all watches: never change it.
type Commit struct {
	Index   uint64
	Changes []Change
	// View is the store just after the batch.
	View View
}

// link is one element of the list of commits. It is empty until the commit comes; then commit and next are set, never to
// change again, and ready is closed.
type link struct {
	ready  chan struct{}
	commit Commit
	next   *link
	// seq counts the changes before this link, for the bound.
	seq uint64
}

func newLink(seq uint64) *link { return &link{ready: make(chan struct{}), seq: seq} }

// Watch delivers commits in order. Each watch has its own place in the shared list of commits, and no goroutine. Next is
// for one goroutine at a time; Close may come from any.
type Watch struct {
	store *Store
	// ended is closed with the watch.
	ended chan struct{}

	mu  sync.Mutex
	at  *link // the next commit to deliver; nil once the watch has ended
	err error // why it ended
}

// ViewAndWatch gives a snapshot and the changes after it in one atomic step. Close the watch when done.
func (s *Store) ViewAndWatch() (View, *Watch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := &Watch{store: s, at: s.tail, ended: make(chan struct{})}
	s.watches[w] = struct{}{}
	return s.view(), w
}

// publish appends a commit and ends the watches that lag. It needs s.mu.
func (s *Store) publish(c Commit) {
	last := s.tail
	s.tail = newLink(last.seq + uint64(len(c.Changes)))
	last.commit, last.next = c, s.tail
	close(last.ready)
	for w := range s.watches {
		if w.lag(s.tail) > watchBound {
			s.endWatch(w, ErrLagged)
		}
	}
}

// endWatch needs s.mu.
func (s *Store) endWatch(w *Watch, err error) {
	delete(s.watches, w)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.at, w.err = nil, err
		close(w.ended)
	}
}

func (w *Watch) lag(tail *link) uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.at == nil {
		return 0
	}
	return tail.seq - w.at.seq
}

// Next blocks until there is at least one commit after the last delivered one and returns all there are. It returns
// ErrLagged when the watch fell more than watchBound changes behind, and after Store.Restore: the state must then be
// read anew with ViewAndWatch.
func (w *Watch) Next(ctx context.Context) ([]Commit, error) {
	for {
		at, err := w.place()
		if err != nil {
			return nil, err
		}
		select {
		case <-at.ready:
		default:
			select {
			case <-at.ready:
			case <-w.ended:
				continue
			case <-ctx.Done():
				return nil, fmt.Errorf("watch: %w", context.Cause(ctx))
			}
		}
		if out := w.collect(); len(out) > 0 {
			return out, nil
		}
	}
}

func (w *Watch) place() (*link, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.at, w.err
}

// collect takes all commits that are there.
func (w *Watch) collect() []Commit {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []Commit
	for w.at != nil {
		select {
		case <-w.at.ready:
			out = append(out, w.at.commit)
			w.at = w.at.next
		default:
			return out
		}
	}
	return out
}

// errClosed is what Next returns after Close.
var errClosed = fmt.Errorf("watch closed: %w", context.Canceled)

// Close ends the watch.
func (w *Watch) Close() {
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	w.store.endWatch(w, errClosed)
}

// Follow calls start with a view of the store, and then changed with each group of commits after it, until ctx ends (nil) or
// the watch fails. Whoever is too slow (ErrLagged) begins anew, with start. Both are called from this goroutine.
func (s *Store) Follow(ctx context.Context, start func(View), changed func([]Commit)) error {
	for {
		view, watch := s.ViewAndWatch()
		start(view)
		err := watch.each(ctx, changed)
		watch.Close()
		if ctx.Err() != nil {
			return nil
		}
		if !errors.Is(err, ErrLagged) {
			return err
		}
	}
}

func (w *Watch) each(ctx context.Context, changed func([]Commit)) error {
	for {
		commits, err := w.Next(ctx)
		if err != nil {
			return err
		}
		changed(commits)
	}
}
