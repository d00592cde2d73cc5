package netstacktest

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// Stack is a task with a TCP/IP of its own behind a Device.
type Stack struct {
	dev    *Device
	stack  *stack.Stack
	link   *channel.Endpoint
	cancel context.CancelFunc
	done   chan struct{}
}

// NewStack starts a task with the addresses. Close ends it and closes dev.
func NewStack(dev *Device, mtu int, addrs ...netip.Addr) (*Stack, error) {
	s := &Stack{dev: dev, link: channel.New(4096, uint32(mtu), ""), done: make(chan struct{})}
	s.link.LinkEPCapabilities = stack.CapabilityRXChecksumOffload
	s.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})
	if err := s.stack.CreateNIC(1, s.link); err != nil {
		return nil, fmt.Errorf("create NIC: %s", err)
	}
	for _, a := range addrs {
		if err := s.addAddr(a); err != nil {
			return nil, err
		}
	}
	s.stack.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: 1}, {Destination: header.IPv6EmptySubnet, NIC: 1}})
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	go s.write(ctx)
	go s.read()
	return s, nil
}

func (s *Stack) addAddr(a netip.Addr) error {
	p := tcpip.ProtocolAddress{Protocol: proto(a), AddressWithPrefix: tcpip.AddrFromSlice(a.AsSlice()).WithPrefix()}
	if err := s.stack.AddProtocolAddress(1, p, stack.AddressProperties{}); err != nil {
		return fmt.Errorf("add address %s: %s", a, err)
	}
	return nil
}

func proto(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is6() {
		return ipv6.ProtocolNumber
	}
	return ipv4.ProtocolNumber
}

func (s *Stack) write(ctx context.Context) {
	for {
		p := s.link.ReadContext(ctx)
		if p == nil {
			return
		}
		v := p.ToView()
		_ = s.dev.Send(Header{}, v.AsSlice())
		v.Release()
		p.DecRef()
	}
}

func (s *Stack) read() {
	defer close(s.done)
	for {
		_, ip, err := s.dev.Receive(0)
		if err != nil {
			return
		}
		n := tcpip.NetworkProtocolNumber(ipv4.ProtocolNumber)
		if ip[0]>>4 == 6 {
			n = ipv6.ProtocolNumber
		}
		p := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(ip)})
		s.link.InjectInbound(n, p)
		p.DecRef()
	}
}

// Close ends the task.
func (s *Stack) Close() {
	s.cancel()
	s.dev.Close()
	<-s.done
	s.stack.Close()
	s.stack.Wait()
	s.link.Close()
}

func full(a netip.AddrPort) tcpip.FullAddress {
	f := tcpip.FullAddress{NIC: 1, Port: a.Port()}
	if a.Addr().IsValid() {
		f.Addr = tcpip.AddrFromSlice(a.Addr().AsSlice())
	}
	return f
}

// Dial connects by TCP.
func (s *Stack) Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	return gonet.DialContextTCP(ctx, s.stack, full(to), proto(to.Addr()))
}

// Listen listens for TCP.
func (s *Stack) Listen(at netip.AddrPort) (net.Listener, error) {
	return gonet.ListenTCP(s.stack, full(at), proto(at.Addr()))
}

// DialUDP makes a UDP socket, from a zero address when local is invalid, connected when to is valid.
func (s *Stack) DialUDP(local, to netip.AddrPort) (*gonet.UDPConn, error) {
	var l, r *tcpip.FullAddress
	p := proto(to.Addr())
	if local.IsValid() {
		f := full(local)
		l, p = &f, proto(local.Addr())
	}
	if to.IsValid() {
		f := full(to)
		r = &f
	}
	return gonet.DialUDP(s.stack, l, r, p)
}
