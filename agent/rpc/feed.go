package rpc

import (
	"net"
	"sync"
)

// feed is a net.Listener whose connections are put into it.
type feed struct {
	addr  net.Addr
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newFeed(addr net.Addr) *feed {
	return &feed{addr: addr, conns: make(chan net.Conn), done: make(chan struct{})}
}

// put waits until somebody accepts c, or the feed is closed.
func (f *feed) put(c net.Conn) error {
	select {
	case <-f.done:
		return net.ErrClosed
	default:
	}
	select {
	case f.conns <- c:
		return nil
	case <-f.done:
		return net.ErrClosed
	}
}

// Accept implements net.Listener.
func (f *feed) Accept() (net.Conn, error) {
	select {
	case c := <-f.conns:
		return c, nil
	case <-f.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (f *feed) Close() error {
	f.once.Do(func() { close(f.done) })
	return nil
}

// Addr implements net.Listener.
func (f *feed) Addr() net.Addr { return f.addr }
