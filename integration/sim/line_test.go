package sim

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"time"
)

// line is a node's way to the managers. A line that is cut is silent: what is sent waits, as with a network that drops
// packets, and arrives when it is whole again, unless somebody gave up meanwhile.
type line struct {
	dialer net.Dialer
	down   *downlink

	mu    sync.Mutex
	whole chan struct{} // closed while the line is whole
	conns map[*lineConn]struct{}
}

// newLine gives node number i a source address of its own, so that the managers see a thousand machines and not one.
func newLine(i int, down *downlink) *line {
	l := &line{down: down, whole: make(chan struct{}), conns: map[*lineConn]struct{}{}}
	l.dialer.LocalAddr = &net.TCPAddr{IP: net.IPv4(127, byte(16+i>>16), byte(i>>8), byte(i))}
	close(l.whole)
	return l
}

func (l *line) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.whole = make(chan struct{})
}

func (l *line) heal() {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.whole)
}

func (l *line) wait() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.whole
}

// dial is for rpc.ClientConfig.Dial.
func (l *line) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	select {
	case <-l.wait():
	case <-ctx.Done():
		return nil, fmt.Errorf("dial %s: %w", addr, context.Cause(ctx))
	}
	c, err := l.dialer.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	lc := &lineConn{Conn: c, line: l, closed: make(chan struct{})}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns[lc] = struct{}{}
	return lc, nil
}

// hangUp closes all connections, as the kernel does when a process ends.
func (l *line) hangUp() {
	l.mu.Lock()
	conns := slices.Collect(maps.Keys(l.conns))
	l.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
	}
}

// lineConn is a connection over a line.
type lineConn struct {
	net.Conn
	line   *line
	once   sync.Once
	closed chan struct{}
}

// Read implements net.Conn.
func (c *lineConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p[:min(len(p), portion)])
	if !c.line.down.takes(n, c.closed) || !c.passes() {
		return 0, net.ErrClosed
	}
	return n, err
}

// Write implements net.Conn.
func (c *lineConn) Write(p []byte) (int, error) {
	if !c.passes() {
		return 0, net.ErrClosed
	}
	return c.Conn.Write(p)
}

// passes waits until the line is whole; false when the connection was closed first.
func (c *lineConn) passes() bool {
	select {
	case <-c.line.wait():
		return true
	case <-c.closed:
		return false
	}
}

// Close implements net.Conn.
func (c *lineConn) Close() error {
	c.once.Do(func() {
		close(c.closed)
		c.line.mu.Lock()
		defer c.line.mu.Unlock()
		delete(c.line.conns, c)
	})
	return c.Conn.Close()
}

// downlink is what all nodes receive over. Its rate is less than the nodes of this process can take in together: otherwise all
// would have a backlog at once, and their signs of life would wait behind a thousand other nodes' work, as in life they
// never do. Small messages pass at once.
type downlink struct {
	rate float64 // bytes per second

	mu    sync.Mutex
	free  time.Time // when what was let through has passed
	total int64     // bytes
}

const (
	// small is what does not wait.
	small = 1 << 10
	// portion is how much one node receives before it is the next one's turn, as packets of many connections share a line.
	portion = 4 << 10
)

// takes waits until n bytes have passed; false when closed closed first.
func (d *downlink) takes(n int, closed <-chan struct{}) bool {
	d.mu.Lock()
	d.total += int64(n)
	now := time.Now()
	if d.free.Before(now) {
		d.free = now
	}
	if n > small {
		d.free = d.free.Add(time.Duration(float64(n) / d.rate * float64(time.Second)))
	}
	wait := d.free.Sub(now)
	d.mu.Unlock()
	if n <= small || wait < time.Millisecond {
		return true
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-closed:
		return false
	}
}

// received is the number of bytes that all nodes have received.
func (d *downlink) received() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.total
}
