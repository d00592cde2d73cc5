package rafttest

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// errTimeout is what a dial to an unreachable address ends with.
var errTimeout = errors.New("i/o timeout")

// Network connects streams in memory. A cut link behaves like a network that drops packets: what is under way arrives
// after it has healed, and new connections wait until then or their timeout.
type Network struct {
	mu      sync.Mutex
	streams map[string]*Stream
	cut     map[[2]string]bool
	// changed is closed and replaced when links or streams change.
	changed chan struct{}
}

// NewNetwork returns a network without streams.
func NewNetwork() *Network {
	return &Network{streams: map[string]*Stream{}, cut: map[[2]string]bool{}, changed: make(chan struct{})}
}

// Listen opens the stream of an address, in the place of an earlier one.
func (n *Network) Listen(addr string) *Stream {
	s := &Stream{net: n, addr: addr, incoming: make(chan net.Conn), closed: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.streams[addr] = s
	n.notify()
	return s
}

// Cut stops all traffic between two addresses; Heal lets it go on.
func (n *Network) Cut(a, b string)  { n.set(a, b, true) }
func (n *Network) Heal(a, b string) { n.set(a, b, false) }

// Isolate cuts an address off from all others that listen now; Rejoin heals that.
func (n *Network) Isolate(addr string) { n.setAll(addr, true) }
func (n *Network) Rejoin(addr string)  { n.setAll(addr, false) }

func (n *Network) set(a, b string, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[[2]string{min(a, b), max(a, b)}] = cut
	n.notify()
}

func (n *Network) setAll(addr string, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for other := range n.streams {
		if other != addr {
			n.cut[[2]string{min(addr, other), max(addr, other)}] = cut
		}
	}
	n.notify()
}

// notify needs mu.
func (n *Network) notify() {
	close(n.changed)
	n.changed = make(chan struct{})
}

// target is the stream that listens at an address, nil while from cannot reach it, and what closes when that may change.
func (n *Network) target(from, to string) (s *Stream, reachable bool, changed <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.streams[to], !n.cut[[2]string{min(from, to), max(from, to)}], n.changed
}

// await blocks while the link is cut; false when stop closed first.
func (n *Network) await(from, to string, stop <-chan struct{}) bool {
	for {
		_, reachable, changed := n.target(from, to)
		if reachable {
			return true
		}
		select {
		case <-changed:
		case <-stop:
			return false
		}
	}
}

// Stream is one address of a Network; it is a raft.Stream.
type Stream struct {
	net      *Network
	addr     string
	incoming chan net.Conn
	once     sync.Once
	closed   chan struct{}
}

type memAddr string

func (memAddr) Network() string  { return "mem" }
func (a memAddr) String() string { return string(a) }

// Addr is the address given to Listen.
func (s *Stream) Addr() net.Addr { return memAddr(s.addr) }

// Accept waits for a connection.
func (s *Stream) Accept() (net.Conn, error) {
	select {
	case c := <-s.incoming:
		return c, nil
	case <-s.closed:
		return nil, net.ErrClosed
	}
}

// Close ends the stream; its connections live on.
func (s *Stream) Close() error {
	s.once.Do(func() {
		close(s.closed)
		s.net.mu.Lock()
		defer s.net.mu.Unlock()
		if s.net.streams[s.addr] == s {
			delete(s.net.streams, s.addr)
		}
	})
	return nil
}

// Dial connects to an address: refused at once when nobody listens there, timed out when the link is cut.
func (s *Stream) Dial(addr string, timeout time.Duration) (net.Conn, error) {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	for {
		t, reachable, changed := s.net.target(s.addr, addr)
		if reachable && t == nil {
			return nil, fmt.Errorf("dial %s: connection refused", addr)
		}
		var incoming chan net.Conn
		var near, far net.Conn
		if reachable {
			incoming = t.incoming
			near, far = s.net.pipe(s.addr, addr)
		}
		select {
		case incoming <- far:
			return near, nil
		case <-changed:
		case <-s.closed:
			closeAll(near, far)
			return nil, net.ErrClosed
		case <-timer.C:
			closeAll(near, far)
			return nil, fmt.Errorf("dial %s: %w", addr, errTimeout)
		}
		closeAll(near, far)
	}
}

func closeAll(conns ...net.Conn) {
	for _, c := range conns {
		if c != nil {
			_ = c.Close()
		}
	}
}

// end is one end of a connection, with the address of the other.
type end struct {
	net.Conn
	local, remote memAddr
}

func (e end) LocalAddr() net.Addr  { return e.local }
func (e end) RemoteAddr() net.Addr { return e.remote }

// pipe makes a connection whose bytes wait while the link is cut. Two goroutines carry them until either end closes.
func (n *Network) pipe(a, b string) (near, far net.Conn) {
	n1, n2 := net.Pipe()
	f1, f2 := net.Pipe()
	stop := make(chan struct{})
	var once sync.Once
	carry := func(from, to net.Conn) {
		defer once.Do(func() { close(stop) })
		defer closeAll(from, to)
		buf := make([]byte, 64<<10)
		for {
			c, err := from.Read(buf)
			if err != nil || !n.await(a, b, stop) {
				return
			}
			if _, err := to.Write(buf[:c]); err != nil {
				return
			}
		}
	}
	go carry(n2, f1)
	go carry(f1, n2)
	return end{n1, memAddr(a), memAddr(b)}, end{f2, memAddr(b), memAddr(a)}
}
