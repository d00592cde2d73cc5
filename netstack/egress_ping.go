package netstack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

const (
	icmpEchoReply4 = 0
	icmpEchoReply6 = 129
)

// openPing opens an ICMP socket connected to dst: an unprivileged one, which net.ipv4.ping_group_range gives to few on many hosts, else a raw one,
// which is root's.
func openPing(dst netip.Addr) (net.Conn, error) {
	c, err := openPingSocket(dst)
	if err == nil || !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EPERM) {
		return c, err
	}
	if raw, rerr := openRawPing(dst); rerr == nil {
		return raw, nil
	}
	return nil, err
}

// openPingSocket opens an unprivileged ICMP socket (icmp(7)).
func openPingSocket(dst netip.Addr) (net.Conn, error) {
	family, proto := unix.AF_INET, unix.IPPROTO_ICMP
	var to unix.Sockaddr
	if dst.Is4() {
		to = &unix.SockaddrInet4{Addr: dst.As4()}
	} else {
		family, proto = unix.AF_INET6, unix.IPPROTO_ICMPV6
		to = &unix.SockaddrInet6{Addr: dst.As16()}
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
	if err != nil {
		return nil, fmt.Errorf("open ICMP socket: %w", err)
	}
	f := os.NewFile(uintptr(fd), "ping")
	defer f.Close()
	if err := unix.Connect(fd, to); err != nil {
		return nil, fmt.Errorf("connect ICMP socket to %s: %w", dst, err)
	}
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("use ICMP socket: %w", err)
	}
	return c, nil
}

// rawPing does on a raw socket what the kernel does for an unprivileged one: requests go out under an identifier of the socket's own, and only the
// replies to it come back, as ICMP messages.
type rawPing struct {
	*net.IPConn
	ident uint16
	reply byte
}

func openRawPing(dst netip.Addr) (net.Conn, error) {
	network, reply := "ip4:icmp", byte(icmpEchoReply4)
	if dst.Is6() {
		network, reply = "ip6:ipv6-icmp", icmpEchoReply6
	}
	c, err := net.DialIP(network, nil, &net.IPAddr{IP: dst.AsSlice()})
	if err != nil {
		return nil, fmt.Errorf("open raw ICMP socket: %w", err)
	}
	return &rawPing{IPConn: c, ident: uint16(rand.Uint32()), reply: reply}, nil
}

// Write sends an echo request; it does not keep msg. The checksum of ICMPv6 is the kernel's.
func (c *rawPing) Write(msg []byte) (int, error) {
	out := append([]byte(nil), msg...)
	binary.BigEndian.PutUint16(out[4:], c.ident)
	out[2], out[3] = 0, 0
	binary.BigEndian.PutUint16(out[2:], ^sum(out, 0))
	return c.IPConn.Write(out)
}

// Read waits for a reply to one of the requests.
func (c *rawPing) Read(b []byte) (int, error) {
	for {
		n, _, err := c.ReadFromIP(b) // without the IP header, which Read would leave
		if err != nil {
			return 0, err
		}
		if n >= icmpLen && b[0] == c.reply && binary.BigEndian.Uint16(b[4:]) == c.ident {
			return n, nil
		}
	}
}
