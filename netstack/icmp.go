package netstack

import "encoding/binary"

// ICMP types and codes (RFC 792, RFC 4443).
const (
	icmp4EchoReply = 0
	icmp4Unreach   = 3
	icmp4Echo      = 8
	icmp4Exceeded  = 11
	icmp4Parameter = 12

	icmp6Unreach   = 1
	icmp6TooBig    = 2
	icmp6Parameter = 4
	icmp6Echo      = 128
	icmp6EchoReply = 129
)

// unreach is why a packet is answered with an ICMP error.
type unreach int

const (
	unreachPort unreach = iota
	unreachProtocol
	unreachTooBig
)

// codes returns type and code of the error.
func (u unreach) codes(v6 bool) (typ, code uint8) {
	switch {
	case u == unreachPort && v6:
		return icmp6Unreach, 4
	case u == unreachPort:
		return icmp4Unreach, 3
	case u == unreachTooBig && v6:
		return icmp6TooBig, 0
	case u == unreachTooBig:
		return icmp4Unreach, 4
	case v6:
		return icmp6Parameter, 1
	}
	return icmp4Unreach, 2
}

// How much of the offending packet an error quotes: the whole error stays
// within 576 bytes (RFC 1812 §4.3.2.3) or 1280 (RFC 4443 §2.4).
const (
	quote4 = 576 - ipv4Len - icmpLen
	quote6 = 1280 - ipv6Len - icmpLen
)

// isICMPError reports whether the packet is an ICMP error message.
func isICMPError(ip []byte, h *ipInfo) bool {
	if h.later {
		return false
	}
	switch h.proto {
	case protoICMP:
		t := ip[h.l4]
		return t == icmp4Unreach || t == icmp4Exceeded || t == icmp4Parameter
	case protoICMPv6:
		return ip[h.l4] < 128
	}
	return false
}

// answerEcho answers a ping in place, false when the packet is none.
func (f *fabric) answerEcho(l *Link, p *packet, h *ipInfo) bool {
	if h.frag || h.proto != protoICMP && h.proto != protoICMPv6 {
		return false
	}
	want, reply := byte(icmp4Echo), byte(icmp4EchoReply)
	if h.v6 {
		want, reply = icmp6Echo, icmp6EchoReply
	}
	m := p.ip[h.l4:]
	if m[0] != want {
		return false
	}
	finishCsum(p)
	was := [2]byte{m[0], m[1]}
	m[0] = reply
	addDelta(m[2:4], delta(was[:], m[:2]))
	swapAddrs(p.ip)
	if h.v6 {
		p.ip[7] = 64
	} else {
		p.ip[8] = 64
		setIPv4Csum(p.ip)
	}
	l.write(p)
	return true
}

func swapAddrs(ip []byte) {
	a := addrBytes(ip)
	n := len(a) / 2
	var t [16]byte
	copy(t[:], a[:n])
	copy(a[:n], a[n:])
	copy(a[n:], t[:n])
}

// tooBig reports whether p does not fit the mesh and cannot be split.
func (f *fabric) tooBig(p *packet) bool {
	switch p.hdr.gso() {
	case gsoNone:
		return len(p.ip) > f.mtu
	case gsoUDPL4:
		return int(p.hdr.csumStart)+udpLen+int(p.hdr.gsoSize) > f.mtu
	}
	return false
}

// answerTooBig tells the sender the mesh's MTU, in the name of the network's gateway.
func (f *fabric) answerTooBig(l *Link, net *network, p *packet, h *ipInfo) {
	f.drop(dropTooBig)
	var src []byte
	for _, g := range net.Gateways {
		if g.Is6() == h.v6 {
			src = g.AsSlice()
		}
	}
	f.answerError(l, p, h, unreachTooBig, src)
}

// answerUnreachable tells the sender, in the name of the destination, that nobody serves it.
func (f *fabric) answerUnreachable(l *Link, p *packet, h *ipInfo, u unreach) {
	f.answerError(l, p, h, u, nil)
}

// answerError sends an ICMP error about p to l. src nil means the packet's destination.
func (f *fabric) answerError(l *Link, p *packet, h *ipInfo, u unreach, src []byte) {
	if h.later || isICMPError(p.ip, h) {
		return
	}
	hlen, quote, proto := ipv4Len, min(len(p.ip), quote4), uint8(protoICMP)
	if h.v6 {
		hlen, quote, proto = ipv6Len, min(len(p.ip), quote6), protoICMPv6
	}
	e, ok := newPacket(hlen + icmpLen + quote)
	if !ok {
		f.drop(dropNoBuffer)
		return
	}
	defer e.release()
	addrs := addrBytes(p.ip)
	n := len(addrs) / 2
	if src == nil {
		src = addrs[n:]
	}
	putIP(e.ip, h.v6, proto, src, addrs[:n])
	m := e.ip[hlen:]
	clear(m[:icmpLen])
	m[0], m[1] = u.codes(h.v6)
	switch {
	case u == unreachTooBig:
		binary.BigEndian.PutUint32(m[4:], uint32(f.mtu)) // ICMP keeps it in the low half
	case u == unreachProtocol && h.v6:
		binary.BigEndian.PutUint32(m[4:], 6) // where the next header stands
	}
	copy(m[icmpLen:], p.ip[:quote])
	setICMPCsum(e.ip, h.v6, hlen)
	l.write(&e)
}

// putIP writes an IP header of minimal length for all of ip.
func putIP(ip []byte, v6 bool, proto uint8, src, dst []byte) {
	if v6 {
		clear(ip[:8])
		ip[0], ip[6], ip[7] = 0x60, proto, 64
		binary.BigEndian.PutUint16(ip[4:], uint16(len(ip)-ipv6Len))
		copy(ip[8:24], src)
		copy(ip[24:40], dst)
		return
	}
	clear(ip[:12])
	ip[0], ip[8], ip[9] = 0x45, 64, proto
	ip[6] = 0x40 // DF
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	copy(ip[12:16], src)
	copy(ip[16:20], dst)
	setIPv4Csum(ip)
}

// setICMPCsum computes the checksum of the ICMP message at l4.
func setICMPCsum(ip []byte, v6 bool, l4 int) {
	m := ip[l4:]
	m[2], m[3] = 0, 0
	initial := uint16(0)
	if v6 {
		initial = pseudoSum(ip, true, protoICMPv6, len(m))
	}
	binary.BigEndian.PutUint16(m[2:], ^sum(m, initial))
}
