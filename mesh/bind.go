package mesh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
)

// endpoint is where a peer is. Immutable.
type endpoint struct {
	addr netip.AddrPort
}

var _ conn.Endpoint = (*endpoint)(nil)

func (e *endpoint) ClearSrc()           {}
func (e *endpoint) SrcToString() string { return "" }
func (e *endpoint) SrcIP() netip.Addr   { return netip.Addr{} }
func (e *endpoint) DstToString() string { return e.addr.String() }
func (e *endpoint) DstIP() netip.Addr   { return e.addr.Addr() }
func (e *endpoint) DstToBytes() []byte {
	b, _ := e.addr.MarshalBinary()
	return b
}

// countedBind tells the guard what was sent.
type countedBind struct {
	conn.Bind
	sent func(n int)
}

func (b countedBind) Send(bufs [][]byte, ep conn.Endpoint) error {
	err := b.Bind.Send(bufs, ep)
	b.sent(len(bufs))
	return err
}

// bind is the mesh's conn.Bind: UDP on exactly one address, or on all.
type bind struct {
	listen netip.AddrPort
	logger *slog.Logger

	mu     sync.RWMutex
	v4, v6 *socket
}

var _ conn.Bind = (*bind)(nil)

func newBind(listen netip.AddrPort, logger *slog.Logger) *bind {
	return &bind{listen: netip.AddrPortFrom(listen.Addr().Unmap(), listen.Port()), logger: logger}
}

// BatchSize returns how many datagrams a call moves at most.
func (b *bind) BatchSize() int { return conn.IdealBatchSize }

// Open listens. The port is that of the Mesh's configuration, or the one that an
// earlier Open got.
func (b *bind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.v4 != nil || b.v6 != nil {
		return nil, 0, conn.ErrBindAlreadyOpen
	}
	addr := b.listen.Addr()
	var err error
	switch {
	case addr.IsUnspecified():
		port, err = b.openBoth(port)
	case addr.Is4():
		b.v4, port, err = b.open("udp4", addr, port)
	default:
		b.v6, port, err = b.open("udp6", addr, port)
	}
	if err != nil {
		return nil, 0, err
	}
	var fns []conn.ReceiveFunc
	for _, s := range []*socket{b.v4, b.v6} {
		if s != nil {
			fns = append(fns, s.receive)
		}
	}
	return fns, port, nil
}

// openBoth listens on all addresses. A machine may have one family only.
func (b *bind) openBoth(port uint16) (uint16, error) {
	const attempts = 20 // a free port of one family may be taken in the other
	for n := 1; ; n++ {
		v4, got, err := b.open("udp4", netip.IPv4Unspecified(), port)
		if err != nil && !errors.Is(err, syscall.EAFNOSUPPORT) {
			return 0, err
		}
		if err != nil {
			got = port
		}
		v6, got6, err := b.open("udp6", netip.IPv6Unspecified(), got)
		switch {
		case err == nil:
			b.v4, b.v6 = v4, v6
			return got6, nil
		case v4 != nil && (errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.EADDRNOTAVAIL)):
			b.v4 = v4
			return got, nil
		}
		if v4 != nil {
			v4.close()
		}
		if port != 0 || n == attempts || !errors.Is(err, syscall.EADDRINUSE) {
			return 0, err
		}
	}
}

func (b *bind) open(network string, addr netip.Addr, port uint16) (*socket, uint16, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error { return c.Control(setOptions) }}
	pc, err := lc.ListenPacket(context.Background(), network, net.JoinHostPort(addr.String(), strconv.Itoa(int(port))))
	if err != nil {
		return nil, 0, fmt.Errorf("listen on UDP %s: %w", netip.AddrPortFrom(addr, port), err)
	}
	uc := pc.(*net.UDPConn)
	s, err := newSocket(uc, network == "udp6", b.logger)
	if err != nil {
		uc.Close()
		return nil, 0, err
	}
	return s, uint16(uc.LocalAddr().(*net.UDPAddr).Port), nil
}

// socketBuffer is asked for the kernel's buffers of a socket, in bytes; the kernel clamps it.
const socketBuffer = 4 << 20

// setOptions sets what may be refused without harm.
func setOptions(fd uintptr) {
	for _, o := range []int{unix.SO_RCVBUF, unix.SO_SNDBUF, unix.SO_RCVBUFFORCE, unix.SO_SNDBUFFORCE} {
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, o, socketBuffer)
	}
	_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_GRO, 1)
}

// Close stops listening; all receivers return.
func (b *bind) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	var errs []error
	for _, s := range []*socket{b.v4, b.v6} {
		if s != nil {
			errs = append(errs, s.close())
		}
	}
	b.v4, b.v6 = nil, nil
	return errors.Join(errs...)
}

// Send sends datagrams to one peer.
func (b *bind) Send(bufs [][]byte, ep conn.Endpoint) error {
	e, ok := ep.(*endpoint)
	if !ok {
		return conn.ErrWrongEndpointType
	}
	b.mu.RLock()
	s := b.v4
	if e.addr.Addr().Is6() {
		s = b.v6
	}
	b.mu.RUnlock()
	if s == nil {
		return fmt.Errorf("send to %s: %w", e.addr, syscall.EAFNOSUPPORT)
	}
	return s.send(bufs, e)
}

// SetMark is not used by the mesh.
func (b *bind) SetMark(uint32) error { return nil }

// ParseEndpoint parses address:port.
func (b *bind) ParseEndpoint(s string) (conn.Endpoint, error) {
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		return nil, err
	}
	return &endpoint{addr: netip.AddrPortFrom(a.Addr().Unmap(), a.Port())}, nil
}
