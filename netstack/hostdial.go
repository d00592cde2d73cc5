package netstack

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	// dialPorts is how many source ports are tried.
	dialPorts     = 16
	firstPort     = 16384
	stackBacklog  = 1024
	maxSourcePort = 1<<16 - 1
	// udpBuffer is what a UDP socket of the stack holds unread.
	udpBuffer = 512 << 10
)

var errPortTaken = errors.New("the source port is in use")

// dialTCP connects from src to dst in the stack. A zero port of src is any; when the port of src is taken for dst, another one is used.
// The choice is ours rather than gVisor's, which would give each source port of an address to one connection only; here two connections share it
// when they lead to different places, as on Linux.
func (ip *ipStack) dialTCP(ctx context.Context, src, dst netip.AddrPort) (*stackConn, error) {
	var err error
	for attempt := range dialPorts {
		if attempt > 0 || src.Port() == 0 {
			src = netip.AddrPortFrom(src.Addr(), randomPort())
		}
		var c *stackConn
		if c, err = ip.dialTCPOnce(ctx, src, dst); err == nil || !errors.Is(err, errPortTaken) {
			return c, err
		}
	}
	return nil, err
}

func randomPort() uint16 { return uint16(firstPort + rand.IntN(maxSourcePort-firstPort+1)) }

func (ip *ipStack) dialTCPOnce(ctx context.Context, src, dst netip.AddrPort) (*stackConn, error) {
	wq := new(waiter.Queue)
	ep, err := ip.NewEndpoint(tcp.ProtocolNumber, protocolOf(dst.Addr()), wq)
	if err != nil {
		return nil, stackError("open socket", err)
	}
	ep.SocketOptions().SetReuseAddress(true)
	setKeepalive(ep)
	entry, ready := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventHUp | waiter.EventErr)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)

	if err := ep.Bind(fullAddr(src)); err != nil {
		ep.Close()
		return nil, stackError("bind to "+src.String(), err)
	}
	err = ep.Connect(fullAddr(dst))
	if _, started := err.(*tcpip.ErrConnectStarted); started {
		select {
		case <-ctx.Done():
			ep.Close()
			return nil, fmt.Errorf("connect to %s: %w", dst, context.Cause(ctx))
		case <-ready:
			err = ep.LastError()
		}
	}
	if err != nil {
		ep.Close()
		return nil, stackError("connect to "+dst.String(), err)
	}
	return newStackConn(wq, ep), nil
}

// stackError turns gVisor's error into a Go error; a taken port is errPortTaken.
func stackError(doing string, err tcpip.Error) error {
	switch err.(type) {
	case *tcpip.ErrPortInUse, *tcpip.ErrBadLocalAddress, *tcpip.ErrDuplicateAddress:
		return fmt.Errorf("%s: %w (%s)", doing, errPortTaken, err)
	case *tcpip.ErrConnectionRefused:
		return fmt.Errorf("%s: %w", doing, errRefused)
	}
	return fmt.Errorf("%s: %s", doing, err)
}

var errRefused = errors.New("connection refused")

// dialUDP opens a connected UDP socket from src to dst, with another source port when src's is taken.
func (ip *ipStack) dialUDP(src, dst netip.AddrPort) (*stackPacketConn, error) {
	var last error
	for attempt := range dialPorts {
		if attempt > 0 || src.Port() == 0 {
			src = netip.AddrPortFrom(src.Addr(), randomPort())
		}
		c, err := ip.openUDP(src, dst)
		if err == nil || !errors.Is(err, errPortTaken) {
			return c, err
		}
		last = err
	}
	return nil, last
}

// openUDP binds a UDP socket to local and connects it to remote when that is valid.
func (ip *ipStack) openUDP(local, remote netip.AddrPort) (*stackPacketConn, error) {
	wq := new(waiter.Queue)
	ep, err := ip.NewEndpoint(udp.ProtocolNumber, protocolOf(local.Addr()), wq)
	if err != nil {
		return nil, stackError("open socket", err)
	}
	// Sockets that share a source port are told apart by where they are connected to.
	ep.SocketOptions().SetReuseAddress(remote.IsValid())
	if err := ep.Bind(fullAddr(local)); err != nil {
		ep.Close()
		return nil, stackError("bind to "+local.String(), err)
	}
	if remote.IsValid() {
		if err := ep.Connect(fullAddr(remote)); err != nil {
			ep.Close()
			return nil, stackError("connect to "+remote.String(), err)
		}
	}
	ep.SocketOptions().SetReceiveBufferSize(udpBuffer, true)
	return newStackPacketConn(wq, ep), nil
}

// stackListener is a TCP listener of the stack.
type stackListener struct {
	ep   tcpip.Endpoint
	wq   *waiter.Queue
	addr netip.AddrPort
	once sync.Once
	done chan struct{}
}

func (ip *ipStack) listenTCP(at netip.AddrPort) (*stackListener, error) {
	wq := new(waiter.Queue)
	ep, err := ip.NewEndpoint(tcp.ProtocolNumber, protocolOf(at.Addr()), wq)
	if err != nil {
		return nil, stackError("open socket", err)
	}
	ep.SocketOptions().SetReuseAddress(true)
	if err := ep.Bind(fullAddr(at)); err != nil {
		ep.Close()
		return nil, stackError("bind to "+at.String(), err)
	}
	if err := ep.Listen(stackBacklog); err != nil {
		ep.Close()
		return nil, stackError("listen on "+at.String(), err)
	}
	return &stackListener{ep: ep, wq: wq, addr: at, done: make(chan struct{})}, nil
}

// Accept implements net.Listener.
func (l *stackListener) Accept() (net.Conn, error) {
	entry, ready := waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventHUp | waiter.EventErr)
	l.wq.EventRegister(&entry)
	defer l.wq.EventUnregister(&entry)
	for {
		ep, wq, err := l.ep.Accept(nil)
		if err == nil {
			setKeepalive(ep)
			return newStackConn(wq, ep), nil
		}
		if _, ok := err.(*tcpip.ErrWouldBlock); !ok {
			return nil, fmt.Errorf("accept on %s: %w (%s)", l.addr, net.ErrClosed, err)
		}
		select {
		case <-l.done:
			return nil, fmt.Errorf("accept on %s: %w", l.addr, net.ErrClosed)
		case <-ready:
		}
	}
}

// Close implements net.Listener. Accepted connections live on.
func (l *stackListener) Close() error {
	l.once.Do(func() {
		close(l.done)
		l.ep.Close()
	})
	return nil
}

// Addr implements net.Listener.
func (l *stackListener) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.addr) }
