package state

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"
)

// MaxBatch is the most that an encoded batch may take, in bytes: one raft entry.
const MaxBatch = 1536 << 10

// batchVersion is the first byte of an encoded batch: the form of what follows.
const batchVersion = 1

// wireBatch is the content: JSON, because objects are Docker's own types, which promise compatible JSON.
type wireBatch struct {
	Time time.Time
	Ops  []wireOp
}

type wireOp struct {
	Action     Action
	Kind       Kind
	Key        string          `json:",omitempty"` // Delete
	Object     json.RawMessage `json:",omitempty"` // Create, Update
	Expected   uint64          `json:",omitempty"`
	SpecChange bool            `json:",omitempty"`
}

// Encode gives the log entry's form: one version byte, then the content. It fails with ErrTooLarge over MaxBatch bytes.
// The same batch always gives the same bytes. Of an object to delete only the key travels.
func (b Batch) Encode() ([]byte, error) {
	w := wireBatch{Time: b.Time.UTC().Round(0), Ops: make([]wireOp, len(b.Ops))}
	for i, op := range b.Ops {
		var err error
		if w.Ops[i], err = encodeOp(op); err != nil {
			return nil, fmt.Errorf("encode op %d: %w", i, err)
		}
	}
	var buf bytes.Buffer
	buf.WriteByte(batchVersion)
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(w); err != nil {
		return nil, fmt.Errorf("encode batch: %w", err)
	}
	if buf.Len() > MaxBatch {
		return nil, fmt.Errorf("%w: %d bytes, at most %d: change less at once", ErrTooLarge, buf.Len(), MaxBatch)
	}
	return buf.Bytes(), nil
}

func encodeOp(op Op) (wireOp, error) {
	if isNil(op.Object) {
		return wireOp{}, fmt.Errorf("%w: %s without an object", ErrInvalid, op.Action)
	}
	w := wireOp{Action: op.Action, Kind: op.Object.Kind(), Expected: op.Expected, SpecChange: op.SpecChange}
	switch op.Action {
	case Delete:
		w.Key = op.Object.Key()
	case Create, Update:
		data, err := json.Marshal(op.Object)
		if err != nil {
			return wireOp{}, fmt.Errorf("%s %s: %w", w.Kind, op.Object.Key(), err)
		}
		w.Object = data
	default:
		return wireOp{}, fmt.Errorf("%w: unknown action %q", ErrInvalid, op.Action)
	}
	return w, nil
}

// DecodeBatch reads what Encode wrote. An unknown version, action or kind is an error (ErrInvalid), as is anything over
// MaxBatch bytes (ErrTooLarge).
func DecodeBatch(data []byte) (Batch, error) {
	if len(data) > MaxBatch {
		return Batch{}, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(data), MaxBatch)
	}
	if len(data) == 0 {
		return Batch{}, fmt.Errorf("%w: empty", ErrInvalid)
	}
	if data[0] != batchVersion {
		return Batch{}, fmt.Errorf("%w: encoding version %d, this program knows %d: upgrade this node", ErrInvalid, data[0], batchVersion)
	}
	var w wireBatch
	if err := json.Unmarshal(data[1:], &w); err != nil {
		return Batch{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	b := Batch{Time: w.Time.UTC(), Ops: make([]Op, len(w.Ops))}
	for i, op := range w.Ops {
		var err error
		if b.Ops[i], err = op.decode(); err != nil {
			return Batch{}, fmt.Errorf("decode op %d: %w", i, err)
		}
	}
	return b, nil
}

func (w wireOp) decode() (Op, error) {
	op := Op{Action: w.Action, Expected: w.Expected, SpecChange: w.SpecChange}
	var err error
	switch w.Action {
	case Delete:
		op.Object, err = newObjectWithKey(w.Kind, w.Key)
	case Create, Update:
		op.Object, err = decodeObject(w.Kind, w.Object)
	default:
		err = fmt.Errorf("%w: unknown action %q", ErrInvalid, w.Action)
	}
	return op, err
}

func decodeObject(k Kind, data []byte) (Object, error) {
	o := newObject(k)
	if o == nil {
		return nil, unknownKind(k)
	}
	if len(data) == 0 {
		return nil, fmt.Errorf("%w: %s without content", ErrInvalid, k)
	}
	if err := json.Unmarshal(data, o); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrInvalid, k, err)
	}
	return o, nil
}
