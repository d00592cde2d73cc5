package netstack

import (
	"errors"
	"net"
	"net/netip"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// udpSocket is the host's socket of a published UDP port.
type udpSocket struct {
	*net.UDPConn
	v6 bool // the socket is of the IPv6 family, for both versions
	// any: the socket is bound to no address, so a reply must be told which one the client spoke to.
	any bool
}

func (s *udpSocket) wantDestination() error {
	if s.v6 {
		return ipv6.NewPacketConn(s.UDPConn).SetControlMessage(ipv6.FlagDst, true)
	}
	return ipv4.NewPacketConn(s.UDPConn).SetControlMessage(ipv4.FlagDst, true)
}

// receive waits for a datagram, holding no memory meanwhile; the caller puts the chunk back.
func (s *udpSocket) receive() (chunk *[]byte, n int, from netip.AddrPort, local netip.Addr, err error) {
	raw, err := s.SyscallConn()
	if err != nil {
		return nil, 0, from, local, err
	}
	var oob [oobSize]byte
	var oobn int
	var sa unix.Sockaddr
	var recvErr error
	err = raw.Read(func(fd uintptr) bool {
		chunk = chunks.Get().(*[]byte)
		n, oobn, _, sa, recvErr = unix.Recvmsg(int(fd), *chunk, oob[:], 0)
		if errors.Is(recvErr, unix.EAGAIN) || errors.Is(recvErr, unix.EINTR) {
			chunks.Put(chunk)
			chunk = nil
			return false
		}
		return true
	})
	if err == nil {
		err = recvErr
	}
	if err != nil {
		if chunk != nil {
			chunks.Put(chunk)
		}
		return nil, 0, from, local, err
	}
	if s.any {
		local = s.destination(oob[:oobn])
	}
	return chunk, n, addrPortOfSockaddr(sa), local, nil
}

func addrPortOfSockaddr(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		a := netip.AddrFrom16(sa.Addr).Unmap()
		if a.IsLinkLocalUnicast() && a.Is6() && sa.ZoneId != 0 {
			if ifi, err := net.InterfaceByIndex(int(sa.ZoneId)); err == nil {
				a = a.WithZone(ifi.Name)
			}
		}
		return netip.AddrPortFrom(a, uint16(sa.Port))
	}
	return netip.AddrPort{}
}

func (s *udpSocket) destination(oob []byte) netip.Addr {
	var dst net.IP
	if s.v6 {
		var cm ipv6.ControlMessage
		if cm.Parse(oob) == nil {
			dst = cm.Dst
		}
	} else {
		var cm ipv4.ControlMessage
		if cm.Parse(oob) == nil {
			dst = cm.Dst
		}
	}
	a, _ := netip.AddrFromSlice(dst)
	return a.Unmap()
}

// reply sends a datagram to the client from the address that the client spoke to.
func (s *udpSocket) reply(b []byte, c udpClient) {
	var oob []byte
	switch {
	case !c.local.IsValid():
	case c.local.Is4(): // on an IPv6 socket, too: x/net's ControlMessage does not do that
		oob = unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: c.local.As4()})
	default:
		oob = unix.PktInfo6(&unix.Inet6Pktinfo{Addr: c.local.As16()})
	}
	_, _, _ = s.WriteMsgUDPAddrPort(b, oob, c.client) // lost, as datagrams are
}
