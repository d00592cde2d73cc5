package state

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"

	memdb "github.com/hashicorp/go-memdb"
)

// A snapshot is lines of JSON: a head, one line per object, a foot with the count and a SHA-256 over all lines before.
const (
	snapshotFormat  = "meshswarm state"
	snapshotVersion = 1
	// maxLine bounds one object of a snapshot; every object once fitted into a batch.
	maxLine = MaxBatch + 64<<10
)

// ErrDamaged is what Restore returns for a snapshot that it cannot use.
var ErrDamaged = errors.New("snapshot is damaged")

type snapshotHead struct {
	Format  string
	Version int
	Index   uint64
}

// snapshotLine is an object, or the foot if Kind is empty.
type snapshotLine struct {
	Kind   Kind            `json:",omitempty"`
	Object json.RawMessage `json:",omitempty"`
	Count  int             `json:",omitempty"`
	SHA256 string          `json:",omitempty"`
}

// Snapshot writes all objects of the view. The same view always gives the same bytes. Memory stays bounded by one object.
func (v View) Snapshot(w io.Writer) error {
	sum := sha256.New()
	buf := bufio.NewWriterSize(w, 64<<10)
	out := io.MultiWriter(buf, sum)
	if err := json.NewEncoder(out).Encode(snapshotHead{snapshotFormat, snapshotVersion, v.index}); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	count := 0
	for _, k := range kinds {
		n, err := v.writeKind(out, k)
		if err != nil {
			return fmt.Errorf("write snapshot: %w", err)
		}
		count += n
	}
	foot := json.NewEncoder(buf)
	if err := foot.Encode(snapshotLine{Count: count, SHA256: hex.EncodeToString(sum.Sum(nil))}); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	if err := buf.Flush(); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	return nil
}

// writeKind writes a snapshotLine per object. It puts the line around the object by hand: an encoder would go over every
// object again, to see that it is JSON.
func (v View) writeKind(w io.Writer, k Kind) (int, error) {
	it, err := v.txn.Get(string(k), byID)
	if err != nil {
		return 0, fmt.Errorf("list %s: %w", k, err)
	}
	var line bytes.Buffer
	n := 0
	for raw := it.Next(); raw != nil; raw = it.Next() {
		line.Reset()
		line.WriteString(`{"Kind":"` + string(k) + `","Object":`)
		if err := json.NewEncoder(&line).Encode(raw); err != nil {
			return n, fmt.Errorf("%s %s: %w", k, raw.(Object).Key(), err)
		}
		line.Truncate(line.Len() - 1) // the encoder ends the object with a line break
		line.WriteString("}\n")
		if _, err := w.Write(line.Bytes()); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// Restore replaces the store's content, and its index, with what Snapshot wrote. With an error (ErrDamaged, or the
// reader's) the store is unchanged. Watches end with ErrLagged.
func (s *Store) Restore(r io.Reader) error {
	db, index, err := readSnapshot(r)
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.db = db
	s.advance(index)
	s.tail = newLink(0)
	for w := range s.watches {
		s.endWatch(w, ErrLagged)
	}
	return nil
}

func readSnapshot(r io.Reader) (*memdb.MemDB, uint64, error) {
	lines := &lineReader{r: bufio.NewReaderSize(r, 64<<10), sum: sha256.New()}
	var head snapshotHead
	if err := lines.next(&head); err != nil {
		return nil, 0, err
	}
	if head.Format != snapshotFormat || head.Version != snapshotVersion {
		return nil, 0, fmt.Errorf("%w: format %q version %d, want %q version %d", ErrDamaged, head.Format, head.Version, snapshotFormat, snapshotVersion)
	}
	db := newDB()
	txn := db.Txn(true)
	defer txn.Abort()
	if err := readObjects(lines, txn, head.Index); err != nil {
		return nil, 0, err
	}
	txn.Commit()
	return db, head.Index, nil
}

func readObjects(lines *lineReader, txn *memdb.Txn, index uint64) error {
	for count := 0; ; count++ {
		sum := hex.EncodeToString(lines.sum.Sum(nil))
		var l snapshotLine
		if err := lines.next(&l); err != nil {
			return err
		}
		if l.Kind != "" {
			if err := readObject(txn, l, index); err != nil {
				return fmt.Errorf("%w: object %d: %w", ErrDamaged, count, err)
			}
			continue
		}
		if l.SHA256 != sum || l.Count != count {
			return fmt.Errorf("%w: checksum or count does not match after %d objects", ErrDamaged, count)
		}
		return lines.end()
	}
}

func readObject(txn *memdb.Txn, l snapshotLine, index uint64) error {
	o, err := decodeObject(l.Kind, l.Object)
	if err != nil {
		return err
	}
	if o.Key() == "" || o.Head().Modified > index {
		return fmt.Errorf("%w: %s %q changed at %d, snapshot at %d", ErrInvalid, l.Kind, o.Key(), o.Head().Modified, index)
	}
	if old, err := first(txn, l.Kind, o.Key()); err != nil || old != nil {
		return fmt.Errorf("%s %s twice: %w", l.Kind, o.Key(), errors.Join(ErrExists, err))
	}
	if err := txn.Insert(string(l.Kind), o); err != nil {
		return err
	}
	return takeClaims(txn, o)
}

// lineReader reads lines of bounded length and hashes them.
type lineReader struct {
	r   *bufio.Reader
	sum hash.Hash
}

func (l *lineReader) next(into any) error {
	var line []byte
	for {
		part, err := l.r.ReadSlice('\n')
		if len(line)+len(part) > maxLine {
			return fmt.Errorf("%w: a line of more than %d bytes", ErrDamaged, maxLine)
		}
		line = append(line, part...)
		if err == nil {
			break
		}
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("%w: it ends early", ErrDamaged)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return fmt.Errorf("read: %w", err)
		}
	}
	l.sum.Write(line)
	if err := json.Unmarshal(bytes.TrimSuffix(line, []byte("\n")), into); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return nil
}

func (l *lineReader) end() error {
	if _, err := l.r.ReadByte(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: data after its end", ErrDamaged)
	}
	return nil
}
