package raft

import (
	"errors"
	"fmt"
)

// hashicorp/raft's numbers of its requests (net_transport.go).
const (
	rpcInstallSnapshot = 2
	rpcLast            = 4 // RequestPreVote
)

var errMessage = errors.New("raft message refused")

// scanner follows the messages in a stream of hashicorp/raft's wire format, only to know where each ends and how long it
// gets: hashicorp/raft itself reads whatever length it is told. A request is one byte and one msgpack value, an answer two
// msgpack values. It keeps no content, copies nothing and recurses nowhere.
type scanner struct {
	max      int64 // bytes of one message
	requests bool  // else answers

	streaming bool // after an InstallSnapshot request: the rest is content, to be read in pieces by whoever wants it
	messages  int  // whole ones so far

	used   int64 // bytes of the present message
	typed  bool  // the request's type byte was there
	rpc    byte
	values int64 // msgpack values that the present message still wants
	skip   int64 // bytes of the present value to pass over
	// A length of several bytes is being read: want more bytes, then it counts what per says.
	want               int
	length, per, extra int64
}

// What a length counts: bytes, or values (2 per map entry).
const (
	perBytes = 0
	perItem  = 1
	perPair  = 2
)

// between tells that no message has begun.
func (s *scanner) between() bool { return s.used == 0 && !s.streaming }

// scan follows p, the next bytes of the stream. After an error the stream is of no use.
func (s *scanner) scan(p []byte) error {
	for len(p) > 0 && !s.streaming {
		if s.used == 0 {
			s.values, s.typed = 1, false
			if !s.requests {
				s.values = 2
			}
		}
		if s.skip > 0 {
			n := min(s.skip, int64(len(p)))
			s.skip -= n
			s.used += n
			p = p[n:]
		} else {
			s.used++
			if err := s.one(p[0]); err != nil {
				return err
			}
			p = p[1:]
		}
		if left := s.max - s.used; s.skip > left || s.values > left {
			return fmt.Errorf("%w: more than %d bytes", errMessage, s.max)
		}
		if s.skip == 0 && s.want == 0 && s.values == 0 {
			s.messages++
			s.used = 0
			s.streaming = s.requests && s.rpc == rpcInstallSnapshot
		}
	}
	return nil
}

// one takes a byte that is not content.
func (s *scanner) one(c byte) error {
	switch {
	case s.requests && !s.typed:
		if c > rpcLast {
			return fmt.Errorf("%w: unknown type %d", errMessage, c)
		}
		s.typed, s.rpc = true, c
	case s.want > 0:
		s.length = s.length<<8 | int64(c)
		if s.want--; s.want == 0 {
			s.counted(s.length, s.per, s.extra)
		}
	default:
		s.values--
		return s.begin(c)
	}
	return nil
}

func (s *scanner) counted(length, per, extra int64) {
	if per == perBytes {
		s.skip = length + extra
		return
	}
	s.values += length * per
}

// sized says that a length of n bytes follows.
func (s *scanner) sized(n int, per, extra int64) {
	s.want, s.length, s.per, s.extra = n, 0, per, extra
}

// begin takes the first byte of a msgpack value (https://github.com/msgpack/msgpack/blob/master/spec.md).
func (s *scanner) begin(c byte) error {
	switch {
	case c <= 0x7f || c >= 0xe0: // small integers
	case c <= 0x8f:
		s.counted(int64(c&0x0f), perPair, 0)
	case c <= 0x9f:
		s.counted(int64(c&0x0f), perItem, 0)
	case c <= 0xbf:
		s.counted(int64(c&0x1f), perBytes, 0)
	case c == 0xc1:
		return fmt.Errorf("%w: not msgpack", errMessage)
	case c <= 0xc3: // nil, false, true
	case c <= 0xc6: // bin 8, 16, 32
		s.sized(1<<(c-0xc4), perBytes, 0)
	case c <= 0xc9: // ext 8, 16, 32, and its type
		s.sized(1<<(c-0xc7), perBytes, 1)
	case c <= 0xcb: // float 32, 64
		s.skip = 4 << (c - 0xca)
	case c <= 0xcf: // uint 8 … 64
		s.skip = 1 << (c - 0xcc)
	case c <= 0xd3: // int 8 … 64
		s.skip = 1 << (c - 0xd0)
	case c <= 0xd8: // fixext 1 … 16, and its type
		s.skip = 1 + 1<<(c-0xd4)
	case c <= 0xdb: // str 8, 16, 32
		s.sized(1<<(c-0xd9), perBytes, 0)
	case c <= 0xdd: // array 16, 32
		s.sized(2<<(c-0xdc), perItem, 0)
	default: // map 16, 32
		s.sized(2<<(c-0xde), perPair, 0)
	}
	return nil
}
