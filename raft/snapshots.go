package raft

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	hraft "github.com/hashicorp/raft"
)

// chunkSize is how much of a snapshot is sealed at once.
const chunkSize = 64 << 10

// errTruncated: a sealed snapshot ends before its last chunk.
var errTruncated = errors.New("sealed snapshot is truncated")

// sealedSnapshots seals the content of snapshots on their way to disk. A sealed snapshot is a row of chunks, each
// chunkSize of content and what the sealer adds; the last one is shorter, perhaps empty. Each chunk is bound to the
// snapshot's ID, its own number, and whether it is the last, so that chunks cannot be moved, dropped or mixed.
//
// Between managers snapshots travel as content: each manager has a key of its own.
type sealedSnapshots struct {
	inner    hraft.SnapshotStore
	sealer   Sealer
	overhead int64
}

func newSealedSnapshots(inner hraft.SnapshotStore, sealer Sealer) *sealedSnapshots {
	return &sealedSnapshots{inner: inner, sealer: sealer, overhead: int64(len(sealer.Seal(nil, nil)))}
}

func chunkAD(id string, n uint64, last bool) []byte {
	ad := append([]byte("raft snapshot\x00"), id...)
	ad = binary.BigEndian.AppendUint64(append(ad, 0), n)
	if last {
		return append(ad, 1)
	}
	return append(ad, 0)
}

func (s *sealedSnapshots) Create(v hraft.SnapshotVersion, index, term uint64, c hraft.Configuration, at uint64, t hraft.Transport) (hraft.SnapshotSink, error) {
	sink, err := s.inner.Create(v, index, term, c, at, t)
	if err != nil {
		return nil, err
	}
	return &sealedSink{SnapshotSink: sink, sealer: s.sealer, buf: make([]byte, 0, chunkSize)}, nil
}

func (s *sealedSnapshots) List() ([]*hraft.SnapshotMeta, error) {
	list, err := s.inner.List()
	for i, m := range list {
		list[i] = s.content(m)
	}
	return list, err
}

func (s *sealedSnapshots) Open(id string) (*hraft.SnapshotMeta, io.ReadCloser, error) {
	meta, r, err := s.inner.Open(id)
	if err != nil {
		return nil, nil, err
	}
	sealed := &sealedReader{id: id, sealer: s.sealer, file: r, in: bufio.NewReader(r), frame: make([]byte, chunkSize+s.overhead)}
	return s.content(meta), sealed, nil
}

// content gives the meta data with the size of the content instead of that of the file: that many bytes a reader gets.
func (s *sealedSnapshots) content(m *hraft.SnapshotMeta) *hraft.SnapshotMeta {
	c := *m
	chunks := m.Size/(chunkSize+s.overhead) + 1
	c.Size = max(0, m.Size-chunks*s.overhead)
	return &c
}

type sealedSink struct {
	hraft.SnapshotSink
	sealer Sealer
	buf    []byte
	n      uint64
	ended  bool
}

func (s *sealedSink) Write(p []byte) (int, error) {
	written := 0
	for len(p) > 0 {
		if len(s.buf) == chunkSize {
			if err := s.flush(false); err != nil {
				return written, err
			}
		}
		take := min(len(p), chunkSize-len(s.buf))
		s.buf = append(s.buf, p[:take]...)
		p = p[take:]
		written += take
	}
	return written, nil
}

func (s *sealedSink) flush(last bool) error {
	_, err := s.SnapshotSink.Write(s.sealer.Seal(chunkAD(s.ID(), s.n, last), s.buf))
	s.n++
	s.buf = s.buf[:0]
	return err
}

func (s *sealedSink) Close() error {
	if s.ended {
		return nil
	}
	s.ended = true
	// The last chunk is always shorter than the others, so that its place tells it from them.
	if len(s.buf) == chunkSize {
		if err := s.flush(false); err != nil {
			return errors.Join(err, s.SnapshotSink.Cancel())
		}
	}
	if err := s.flush(true); err != nil {
		return errors.Join(err, s.SnapshotSink.Cancel())
	}
	return s.SnapshotSink.Close()
}

func (s *sealedSink) Cancel() error {
	s.ended = true
	return s.SnapshotSink.Cancel()
}

type sealedReader struct {
	id     string
	sealer Sealer
	file   io.Closer
	in     io.Reader
	frame  []byte
	n      uint64
	rest   []byte // opened and not yet read
	last   bool
	err    error
}

func (s *sealedReader) Read(p []byte) (int, error) {
	for len(s.rest) == 0 {
		if s.err != nil {
			return 0, s.err
		}
		if s.last {
			return 0, io.EOF
		}
		s.rest, s.err = s.next()
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

func (s *sealedReader) next() ([]byte, error) {
	n, err := io.ReadFull(s.in, s.frame)
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		s.last = true
	case errors.Is(err, io.EOF):
		return nil, errTruncated
	case err != nil:
		return nil, fmt.Errorf("read sealed snapshot: %w", err)
	}
	plain, err := s.sealer.Open(chunkAD(s.id, s.n, s.last), s.frame[:n])
	if err != nil {
		return nil, fmt.Errorf("open chunk %d of snapshot: %w", s.n, err)
	}
	s.n++
	return plain, nil
}

func (s *sealedReader) Close() error { return s.file.Close() }
