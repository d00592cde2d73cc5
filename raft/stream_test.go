package raft

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/hashicorp/go-msgpack/v2/codec"
	hraft "github.com/hashicorp/raft"
)

// request encodes as hashicorp/raft does.
func request(t testing.TB, rpc byte, v any) []byte {
	t.Helper()
	var buf bytes.Buffer
	buf.WriteByte(rpc)
	if err := codec.NewEncoder(&buf, &codec.MsgpackHandle{}).Encode(v); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func appendRequest(t testing.TB, entries, size int) []byte {
	r := &hraft.AppendEntriesRequest{RPCHeader: hraft.RPCHeader{ProtocolVersion: 3, ID: []byte("a"), Addr: []byte("a:1")}, Term: 300, PrevLogEntry: 70000}
	for i := range entries {
		r.Entries = append(r.Entries, &hraft.Log{Index: uint64(i), Term: 1 << 40, Data: bytes.Repeat([]byte{0xc1}, size), AppendedAt: time.Unix(1700000000, 5)})
	}
	return request(t, 0, r)
}

func TestScannerFollowsRealMessages(t *testing.T) {
	var all []byte
	n := 0
	add := func(p []byte) { all = append(all, p...); n++ }
	add(appendRequest(t, 0, 0))
	add(appendRequest(t, 3, 10))
	add(appendRequest(t, 40, 300))
	add(appendRequest(t, 2, 70_000))
	add(request(t, 1, &hraft.RequestVoteRequest{Term: 5, LastLogIndex: 1}))
	add(request(t, 4, &hraft.RequestPreVoteRequest{Term: 5}))
	add(request(t, 3, &hraft.TimeoutNowRequest{}))
	for _, step := range []int{1, 3, 1000, len(all)} {
		s := scanner{max: 1 << 20, requests: true}
		for rest := all; len(rest) > 0; {
			k := min(step, len(rest))
			if err := s.scan(rest[:k]); err != nil {
				t.Fatalf("step %d: %v", step, err)
			}
			rest = rest[k:]
		}
		if s.messages != n || !s.between() {
			t.Errorf("step %d: %d messages of %d", step, s.messages, n)
		}
	}
	s := scanner{max: 1 << 20, requests: true}
	snap := append(request(t, 2, &hraft.InstallSnapshotRequest{Term: 5, Size: 1 << 40, Configuration: []byte("x")}), bytes.Repeat([]byte{0xff}, 2<<20)...)
	if err := s.scan(snap); err != nil || !s.streaming {
		t.Errorf("snapshot: streaming %v, %v", s.streaming, err)
	}
	var answer bytes.Buffer
	enc := codec.NewEncoder(&answer, &codec.MsgpackHandle{})
	_ = enc.Encode("")
	_ = enc.Encode(&hraft.AppendEntriesResponse{Term: 3, Success: true})
	a := scanner{max: 1000}
	if err := a.scan(append(answer.Bytes(), answer.Bytes()...)); err != nil || a.messages != 2 {
		t.Errorf("answers: %d, %v", a.messages, err)
	}
}

func TestScannerRefuses(t *testing.T) {
	long := func(code byte, n uint32) []byte { return binary.BigEndian.AppendUint32([]byte{0, code}, n) }
	for name, p := range map[string][]byte{
		"unknown type":   {5},
		"no msgpack":     {0, 0xc1},
		"long bytes":     long(0xc6, 2000),
		"long string":    long(0xdb, 1<<32-1),
		"long extension": long(0xc9, 1<<32-1),
		"long array":     long(0xdd, 1<<32-1),
		"long map":       long(0xdf, 1<<32-1),
		"many values":    append([]byte{0, 0xdc, 3, 0xe0}, bytes.Repeat([]byte{0xda, 0, 100}, 20)...),
		"nested arrays":  append([]byte{0}, bytes.Repeat([]byte{0x91}, 2000)...),
	} {
		s := scanner{max: 1000, requests: true}
		if err := s.scan(p); !errors.Is(err, errMessage) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzScanner(f *testing.F) {
	f.Add(appendRequest(f, 2, 10))
	f.Add(request(f, 2, &hraft.InstallSnapshotRequest{Size: 10}))
	f.Add([]byte{0, 0xdf, 0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{1, 0xc9, 0, 0, 0, 1, 0, 0})
	f.Fuzz(func(t *testing.T, p []byte) {
		whole, bytewise := scanner{max: 200, requests: true}, scanner{max: 200, requests: true}
		err := whole.scan(p)
		var err2 error
		for i := 0; i < len(p) && err2 == nil; i++ {
			err2 = bytewise.scan(p[i : i+1])
		}
		if (err == nil) != (err2 == nil) {
			t.Fatalf("at once: %v, bytewise: %v", err, err2)
		}
		if err == nil && whole != bytewise {
			t.Fatalf("at once: %+v, bytewise: %+v", whole, bytewise)
		}
	})
}

// oneConn is a Stream that accepts the far ends of pipes.
type oneConn struct {
	deaf
	in chan net.Conn
}

func (o oneConn) Accept() (net.Conn, error) {
	select {
	case c := <-o.in:
		return c, nil
	case <-o.closed:
		return nil, net.ErrClosed
	}
}

func TestInboundIsBounded(t *testing.T) {
	o := oneConn{deaf{make(chan struct{})}, make(chan net.Conn, 1)}
	s := newStream(o, "a:1", slog.New(slog.DiscardHandler))
	defer func() { _ = s.Close() }()
	near, far := net.Pipe()
	defer func() { _ = near.Close() }()
	o.in <- far
	c, err := s.Accept()
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = near.Write([]byte{0, 0xdf, 0xff, 0xff, 0xff, 0xff}) }()
	if _, err := io.ReadAll(c); !errors.Is(err, errMessage) {
		t.Errorf("read: %v", err)
	}
	if s.inbound != 0 {
		t.Errorf("%d inbound connections left", s.inbound)
	}
	for range maxInbound {
		if s.admit(far, "", scanner{}) == nil {
			t.Fatal("refused below the limit")
		}
	}
	if s.admit(far, "", scanner{}) != nil || s.admit(far, "b:1", scanner{}) == nil {
		t.Error("the limit is for inbound connections, and a limit")
	}
}

func TestNothingAfterASnapshotsAnswer(t *testing.T) {
	near, far := net.Pipe()
	defer func() { _ = near.Close() }()
	s := newStream(deaf{make(chan struct{})}, "a:1", slog.New(slog.DiscardHandler))
	defer func() { _ = s.Close() }()
	c := s.admit(far, "", scanner{max: maxRequest, requests: true})
	go func() {
		_, _ = near.Write(append(request(t, 2, &hraft.InstallSnapshotRequest{Size: 4}), "data"...))
		_, _ = near.Read(make([]byte, 10))
	}()
	if _, err := io.ReadAtLeast(c, make([]byte, 4096), 10); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("answer")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("read after the answer: %v", err)
	}
}
