package raft

import (
	"errors"
	"fmt"
	"io"

	hraft "github.com/hashicorp/raft"

	"github.com/meshswarm/meshswarm/raft/state"
)

// fsm adapts the store to hashicorp/raft, and does nothing else.
type fsm struct {
	store *state.Store
	fuse  *fuse
}

// Apply answers with Apply's error or nil. An entry that this program cannot read ends everything: going on without it
// would make this store another one than its peers'.
func (f *fsm) Apply(l *hraft.Log) any {
	if err := f.fuse.Err(); err != nil {
		return err
	}
	b, err := state.DecodeBatch(l.Data)
	if err != nil {
		return f.fuse.blow(fmt.Sprintf("apply log entry %d", l.Index), err)
	}
	if err := f.store.Apply(l.Index, b); err != nil {
		return err
	}
	return nil
}

func (f *fsm) Snapshot() (hraft.FSMSnapshot, error) {
	if err := f.fuse.Err(); err != nil {
		return nil, err
	}
	return fsmSnapshot{f.store.View()}, nil
}

func (f *fsm) Restore(r io.ReadCloser) error {
	return errors.Join(f.store.Restore(r), r.Close())
}

type fsmSnapshot struct{ view state.View }

func (s fsmSnapshot) Persist(sink hraft.SnapshotSink) error {
	if err := s.view.Snapshot(sink); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}

func (fsmSnapshot) Release() {}
