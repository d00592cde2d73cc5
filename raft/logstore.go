package raft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"

	hraft "github.com/hashicorp/raft"
)

// sealedLog seals the content of entries on their way to disk, bound to index, term and type, so that neither a byte nor
// the order can be changed there. Its first failure blows the fuse.
type sealedLog struct {
	inner  hraft.LogStore
	sealer Sealer
	fuse   *fuse
}

func logAD(l *hraft.Log) []byte {
	ad := append(make([]byte, 0, 32), "raft log\x00"...)
	ad = binary.BigEndian.AppendUint64(ad, l.Index)
	ad = binary.BigEndian.AppendUint64(ad, l.Term)
	return append(ad, byte(l.Type))
}

func (s *sealedLog) FirstIndex() (uint64, error) { return s.inner.FirstIndex() }
func (s *sealedLog) LastIndex() (uint64, error)  { return s.inner.LastIndex() }

// GetLog ends the calling goroutine when an entry cannot be read, because hashicorp/raft would panic.
func (s *sealedLog) GetLog(index uint64, l *hraft.Log) error {
	err := s.inner.GetLog(index, l)
	if errors.Is(err, hraft.ErrLogNotFound) {
		return err
	}
	if err == nil && l.Index != index {
		err = fmt.Errorf("entry %d found in its place", l.Index)
	}
	if err == nil {
		l.Data, err = s.sealer.Open(logAD(l), l.Data)
	}
	if err != nil {
		_ = s.fuse.blow(fmt.Sprintf("read log entry %d", index), err)
		runtime.Goexit()
	}
	return nil
}

func (s *sealedLog) StoreLog(l *hraft.Log) error { return s.StoreLogs([]*hraft.Log{l}) }

func (s *sealedLog) StoreLogs(logs []*hraft.Log) error {
	if err := s.fuse.Err(); err != nil {
		return err
	}
	sealed := make([]*hraft.Log, len(logs))
	for i, l := range logs {
		c := *l
		c.Data = s.sealer.Seal(logAD(l), l.Data)
		sealed[i] = &c
	}
	if err := s.inner.StoreLogs(sealed); err != nil {
		return s.fuse.blow("write log", err)
	}
	return nil
}

func (s *sealedLog) DeleteRange(from, to uint64) error {
	if err := s.fuse.Err(); err != nil {
		return err
	}
	if err := s.inner.DeleteRange(from, to); err != nil {
		return s.fuse.blow("shorten log", err)
	}
	return nil
}

// stableStore holds term and vote, which are no secrets. A failed write ends the calling goroutine, which is one of
// hashicorp/raft's: it must neither go on with a vote that is not on disk, nor panic.
type stableStore struct {
	inner hraft.StableStore
	fuse  *fuse
}

func (s *stableStore) Get(k []byte) ([]byte, error)       { return s.inner.Get(k) }
func (s *stableStore) GetUint64(k []byte) (uint64, error) { return s.inner.GetUint64(k) }

func (s *stableStore) Set(k, v []byte) error {
	return s.write(func() error { return s.inner.Set(k, v) })
}

func (s *stableStore) SetUint64(k []byte, v uint64) error {
	return s.write(func() error { return s.inner.SetUint64(k, v) })
}

func (s *stableStore) write(op func() error) error {
	err := s.fuse.Err()
	if err == nil {
		if err = op(); err != nil {
			err = s.fuse.blow("write term or vote", err)
		}
	}
	if err != nil {
		runtime.Goexit()
	}
	return nil
}
