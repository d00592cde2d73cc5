package netstack

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/waiter"
)

// chunkSize is what one read of a spliced connection takes at most.
const chunkSize = 64 << 10

// chunks are the buffers of all splices. A connection holds one only while data moves, so ten thousand idle ones cost none.
var chunks = sync.Pool{New: func() any { b := make([]byte, chunkSize); return &b }}

// duplex is one end of a spliced connection.
type duplex interface {
	net.Conn
	CloseWrite() error
	// abort resets the connection: the peer sees RST, not the end of the data. It may be called at any time, also more than once.
	abort()
	// next waits for data and returns it in a chunk, which the caller puts back. io.EOF is the end of the data.
	next() (chunk *[]byte, n int, err error)
}

// stackConn is a TCP connection of the gVisor stack.
type stackConn struct {
	*gonet.TCPConn
	ep tcpip.Endpoint
	wq *waiter.Queue
}

func newStackConn(wq *waiter.Queue, ep tcpip.Endpoint) *stackConn {
	return &stackConn{TCPConn: gonet.NewTCPConn(wq, ep), ep: ep, wq: wq}
}

func (c *stackConn) abort() { c.ep.Abort() }

func (c *stackConn) next() (*[]byte, int, error) {
	chunk := chunks.Get().(*[]byte)
	n, err := c.tryRead(*chunk)
	if errors.Is(err, errWouldBlock) {
		chunks.Put(chunk)
		chunk, n, err = c.waitRead()
	}
	if err != nil {
		if chunk != nil {
			chunks.Put(chunk)
		}
		return nil, 0, err
	}
	c.ep.ModerateRecvBuf(n)
	return chunk, n, nil
}

var errWouldBlock = errors.New("no data yet")

func (c *stackConn) waitRead() (*[]byte, int, error) {
	entry, ready := waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventRdHUp | waiter.EventHUp | waiter.EventErr)
	c.wq.EventRegister(&entry)
	defer c.wq.EventUnregister(&entry)
	for {
		chunk := chunks.Get().(*[]byte)
		n, err := c.tryRead(*chunk)
		if !errors.Is(err, errWouldBlock) {
			return chunk, n, err
		}
		chunks.Put(chunk)
		<-ready
	}
}

func (c *stackConn) tryRead(b []byte) (int, error) {
	w := tcpip.SliceWriter(b)
	res, err := c.ep.Read(&w, tcpip.ReadOptions{})
	switch err.(type) {
	case nil:
		return res.Count, nil
	case *tcpip.ErrWouldBlock:
		return 0, errWouldBlock
	case *tcpip.ErrClosedForReceive:
		return 0, io.EOF
	default:
		return 0, fmt.Errorf("read from the stack: %s", err)
	}
}

// hostConn is a TCP connection of the host.
type hostConn struct {
	*net.TCPConn
}

func (c hostConn) abort() {
	_ = c.SetLinger(0)
	_ = c.Close()
}

// next reads when the socket is readable, so that nothing is held while it is not.
func (c hostConn) next() (*[]byte, int, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, 0, err
	}
	var chunk *[]byte
	var n int
	var readErr error
	err = raw.Read(func(fd uintptr) bool {
		chunk = chunks.Get().(*[]byte)
		for {
			n, readErr = unix.Read(int(fd), *chunk)
			if !errors.Is(readErr, unix.EINTR) {
				break
			}
		}
		if errors.Is(readErr, unix.EAGAIN) {
			chunks.Put(chunk)
			chunk = nil
			return false
		}
		return true
	})
	if err == nil {
		err = readErr
	}
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err != nil {
		if chunk != nil {
			chunks.Put(chunk)
		}
		return nil, 0, err
	}
	return chunk, n, nil
}

// otherConn is a connection of an Outside that is not the host's.
type otherConn struct{ net.Conn }

func (c otherConn) abort() { _ = c.Close() }

func (c otherConn) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return c.Close()
}

func (c otherConn) next() (*[]byte, int, error) {
	chunk := chunks.Get().(*[]byte)
	n, err := c.Read(*chunk)
	if n > 0 {
		return chunk, n, nil
	}
	chunks.Put(chunk)
	if err == nil {
		err = io.ErrNoProgress
	}
	return nil, 0, err
}

func duplexOf(c net.Conn) duplex {
	switch c := c.(type) {
	case duplex:
		return c
	case *net.TCPConn:
		return hostConn{c}
	}
	return otherConn{c}
}

// splice copies both ways until both ends have ended, and closes both. The end of one direction is passed on as a half-close; a failure of either
// side resets both. It uses the caller's goroutine and one more, which has ended when it returns.
func splice(a, b duplex) { spliceNoting(a, b, func(bool) {}) }

// spliceNoting is splice that calls note after each piece of data that went from b to a (false), and after b's end (true).
func spliceNoting(a, b duplex, note func(ended bool)) {
	var wg sync.WaitGroup
	wg.Go(func() { copyHalf(a, b, note) })
	copyHalf(b, a, func(bool) {})
	wg.Wait()
	_ = a.Close()
	_ = b.Close()
}

func copyHalf(dst, src duplex, note func(ended bool)) {
	for {
		chunk, n, err := src.next()
		if err == nil {
			_, err = dst.Write((*chunk)[:n])
			chunks.Put(chunk)
		}
		switch {
		case err == nil:
			note(false)
		case errors.Is(err, io.EOF):
			if dst.CloseWrite() != nil {
				dst.abort()
				src.abort()
			}
			note(true)
			return
		default:
			dst.abort()
			src.abort()
			return
		}
	}
}

// setKeepalive makes the stack give up a dead peer within a minute.
func setKeepalive(ep tcpip.Endpoint) {
	idle, interval, timeout := tcpip.KeepaliveIdleOption(keepaliveIdle), tcpip.KeepaliveIntervalOption(keepaliveInterval), tcpip.TCPUserTimeoutOption(userTimeout)
	_ = ep.SetSockOpt(&idle)
	_ = ep.SetSockOpt(&interval)
	_ = ep.SetSockOpt(&timeout)
	_ = ep.SetSockOptInt(tcpip.KeepaliveCountOption, keepaliveCount)
	ep.SocketOptions().SetKeepAlive(true)
	// A splice forwards what it has read at once; Nagle's algorithm would only add the peer's delayed acknowledgement to every small message.
	ep.SocketOptions().SetDelayOption(false)
}

// hostKeepalive is the same for sockets of the host.
var hostKeepalive = net.KeepAliveConfig{Enable: true, Idle: keepaliveIdle, Interval: keepaliveInterval, Count: keepaliveCount}
