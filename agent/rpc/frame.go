package rpc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Largest messages on a stream, in bytes without the length.
const (
	MaxUp   = 1 << 20  // from a node to a manager
	MaxDown = 16 << 20 // from a manager to a node
)

// ErrMessageSize: a message larger than the receiver takes.
var ErrMessageSize = errors.New("message is too large")

const headerLen = 4

// AppendFrame appends one message, behind its length in four bytes (big endian), to buf.
func AppendFrame(buf, message []byte, limit int) ([]byte, error) {
	if len(message) > limit {
		return buf, fmt.Errorf("send %d bytes: %w (at most %d)", len(message), ErrMessageSize, limit)
	}
	buf = binary.BigEndian.AppendUint32(buf, uint32(len(message)))
	return append(buf, message...), nil
}

// ReadFrame reads one message of at most limit bytes. Memory grows with what arrives, not with what the length
// promises. io.EOF means that the stream ended between two messages.
func ReadFrame(r io.Reader, limit int) ([]byte, error) {
	var header [headerLen]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return nil, err
	}
	n := int64(binary.BigEndian.Uint32(header[:]))
	if n > int64(limit) {
		return nil, fmt.Errorf("receive %d bytes: %w (at most %d)", n, ErrMessageSize, limit)
	}
	if n == 0 {
		return nil, nil
	}
	var buf bytes.Buffer
	buf.Grow(int(min(n, 64<<10)))
	if _, err := io.CopyN(&buf, r, n); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return buf.Bytes(), nil
}
