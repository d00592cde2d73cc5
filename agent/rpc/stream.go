package rpc

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Stream is a conversation in JSON messages over one HTTP/2 request, both directions at once. One goroutine may send while
// another one receives; neither method is for two goroutines at once.
type Stream struct {
	in       io.Reader
	out      io.Writer
	maxIn    int
	maxOut   int
	flush    func() error
	deadline func(time.Time) error // nil: none
	close    func()
	lastRead atomic.Int64 // unix nanoseconds

	mu     sync.Mutex // orders deadlines and Close
	closed bool
}

// sendTimeout ends a stream whose receiver does not take what it is sent.
const sendTimeout = 30 * time.Second

// AcceptStream answers a request with 200 and turns it into a stream, as the manager's side. The handler must Close it,
// and wait for its own calls to return, before it returns itself.
func AcceptStream(w http.ResponseWriter, r *http.Request) (*Stream, error) {
	rc := http.NewResponseController(w)
	if err := rc.EnableFullDuplex(); err != nil {
		return nil, fmt.Errorf("accept stream: %w", err)
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.WriteHeader(http.StatusOK)
	if err := rc.Flush(); err != nil {
		return nil, fmt.Errorf("accept stream: %w", err)
	}
	s := &Stream{
		in: r.Body, out: w, maxIn: MaxUp, maxOut: MaxDown, flush: rc.Flush, deadline: rc.SetWriteDeadline,
		close: func() {
			_ = rc.SetReadDeadline(time.Unix(1, 0))
			_ = rc.SetWriteDeadline(time.Unix(1, 0))
		},
	}
	s.lastRead.Store(time.Now().UnixNano())
	return s, nil
}

// Send sends v as one message; nil is an empty one.
func (s *Stream) Send(v any) error {
	if v == nil {
		return s.SendRaw(nil)
	}
	message, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	return s.SendRaw(message)
}

// SendRaw sends an encoded message.
func (s *Stream) SendRaw(message []byte) error {
	frame, err := AppendFrame(make([]byte, 0, headerLen+len(message)), message, s.maxOut)
	if err != nil {
		return err
	}
	if err := s.setDeadline(time.Now().Add(sendTimeout)); err != nil {
		return fmt.Errorf("send message: %w", err)
	}
	defer func() { _ = s.setDeadline(time.Time{}) }()
	if _, err := s.out.Write(frame); err != nil {
		return fmt.Errorf("send message: %w", err)
	}
	if err := s.flush(); err != nil {
		return fmt.Errorf("send message: %w", err)
	}
	return nil
}

// Receive reads the next message into v, which stays as it is for an empty message. io.EOF is the stream's orderly end.
func (s *Stream) Receive(v any) error {
	message, err := ReadFrame(s, s.maxIn)
	if err != nil || len(message) == 0 {
		return err
	}
	if err := json.Unmarshal(message, v); err != nil {
		return fmt.Errorf("decode message: %w", err)
	}
	return nil
}

// Read implements io.Reader for Receive: it notes the time, so that a large message on a slow line counts as life.
func (s *Stream) Read(p []byte) (int, error) {
	n, err := s.in.Read(p)
	if n > 0 {
		s.lastRead.Store(time.Now().UnixNano())
	}
	return n, err
}

// LastRead is when the last byte arrived (at first: when the stream was opened). Safe for concurrent use.
func (s *Stream) LastRead() time.Time { return time.Unix(0, s.lastRead.Load()) }

// Close ends the stream at once; pending calls return. Safe for concurrent use and more than once.
func (s *Stream) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		s.close()
	}
}

// setDeadline bounds the next write, unless the stream is closed: then Close has set the last deadline.
func (s *Stream) setDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	if s.deadline == nil {
		return nil
	}
	return s.deadline(t)
}
