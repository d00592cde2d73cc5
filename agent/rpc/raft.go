package rpc

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// RaftStream carries raft's connections over the control port. It is the Stream that package raft asks for.
type RaftStream struct {
	*feed
	client *Client
}

// Dial opens a raft stream to the manager at addr (host:port of its control port). The manager's certificate has been
// verified when it returns.
func (s *RaftStream) Dial(addr string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return s.client.dial(ctx, addr, ProtoRaft)
}

// raftSwitch passes incoming raft streams to the RaftStream that was opened last.
type raftSwitch struct {
	mu      sync.Mutex
	current *feed
}

var errNoRaft = errors.New("this node takes no part in raft at present")

func (r *raftSwitch) put(c net.Conn) error {
	r.mu.Lock()
	f := r.current
	r.mu.Unlock()
	if f == nil {
		return errNoRaft
	}
	return f.put(c)
}

func (r *raftSwitch) set(f *feed) {
	r.mu.Lock()
	old := r.current
	r.current = f
	r.mu.Unlock()
	if old != nil {
		_ = old.Close()
	}
}

func (r *raftSwitch) shut() { r.set(nil) }

// RaftStream makes the stream for one life of raft; it replaces an earlier one, and is closed by Close or the end of Run.
// addr is what it calls itself: the control address that other managers know. client dials the others.
func (s *Server) RaftStream(addr string, client *Client) *RaftStream {
	f := newFeed(textAddr(addr))
	s.raft.set(f)
	return &RaftStream{feed: f, client: client}
}

// textAddr is a TCP address as text.
type textAddr string

// Network implements net.Addr.
func (textAddr) Network() string { return "tcp" }

// String implements net.Addr.
func (a textAddr) String() string { return string(a) }
