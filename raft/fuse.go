package raft

import (
	"fmt"
	"sync"
)

// fuse remembers the first failure of the storage. Once blown, nothing is written any more and Run ends with its error:
// after a failed write nobody knows what is on disk, and going on could acknowledge what is not there.
type fuse struct {
	blown chan struct{}

	mu  sync.Mutex
	err error
}

func newFuse() *fuse { return &fuse{blown: make(chan struct{})} }

// Err is nil while the fuse holds.
func (f *fuse) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// blow returns the error that ended everything: this one, or the first one.
func (f *fuse) blow(doing string, err error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = fmt.Errorf("raft storage: %s: %w", doing, err)
		close(f.blown)
	}
	return f.err
}
