package netstack

import "encoding/binary"

// IP protocol numbers (IANA) that the fabric looks into.
const (
	protoICMP   = 1
	protoTCP    = 6
	protoUDP    = 17
	protoICMPv6 = 58

	protoHopByHop = 0
	protoRouting  = 43
	protoFragment = 44
	protoDestOpts = 60
)

const (
	ipv4Len = 20
	ipv6Len = 40
	tcpLen  = 20
	udpLen  = 8
	icmpLen = 8
	// maxExtensions bounds the IPv6 extension headers that parse walks over.
	maxExtensions = 8
)

// TCP flags.
const (
	tcpFIN = 0x01
	tcpSYN = 0x02
	tcpRST = 0x04
	tcpPSH = 0x08
	tcpACK = 0x10
	tcpCWR = 0x80
)

// ipInfo is what parse found in a packet.
type ipInfo struct {
	v6    bool
	proto uint8
	// l4 is the offset of the transport header, or of the data of a later fragment.
	l4 int
	// frag is true for every fragment, later for all but the first: those have no transport header.
	frag, later bool
	fragID      uint32
	// sport and dport are 0 when proto has no ports.
	sport, dport uint16
}

// parse checks the IP header and the transport header of ip. It returns the
// packet without bytes behind its own length (link layers pad), and false for
// a packet that no one may look into further.
func parse(ip []byte) ([]byte, ipInfo, bool) {
	var h ipInfo
	ok := false
	if len(ip) > 0 {
		switch ip[0] >> 4 {
		case 4:
			ip, ok = h.parse4(ip)
		case 6:
			ip, ok = h.parse6(ip)
		}
	}
	if !ok {
		return nil, ipInfo{}, false
	}
	return ip, h, h.later || h.parseTransport(ip[h.l4:])
}

func (h *ipInfo) parse4(ip []byte) ([]byte, bool) {
	if len(ip) < ipv4Len {
		return nil, false
	}
	total, hlen := int(binary.BigEndian.Uint16(ip[2:])), int(ip[0]&0x0f)*4
	if hlen < ipv4Len || total < hlen || total > len(ip) {
		return nil, false
	}
	frag := binary.BigEndian.Uint16(ip[6:])
	h.proto, h.l4 = ip[9], hlen
	h.frag, h.later = frag&0x3fff != 0, frag&0x1fff != 0
	h.fragID = uint32(binary.BigEndian.Uint16(ip[4:]))
	return ip[:total], true
}

func (h *ipInfo) parse6(ip []byte) ([]byte, bool) {
	if len(ip) < ipv6Len {
		return nil, false
	}
	total := ipv6Len + int(binary.BigEndian.Uint16(ip[4:]))
	if total > len(ip) {
		return nil, false
	}
	ip = ip[:total]
	h.v6, h.proto, h.l4 = true, ip[6], ipv6Len
	for range maxExtensions {
		switch h.proto {
		case protoHopByHop, protoRouting, protoDestOpts:
			if len(ip) < h.l4+8 {
				return nil, false
			}
			h.proto, h.l4 = ip[h.l4], h.l4+8+int(ip[h.l4+1])*8
		case protoFragment:
			if h.frag || len(ip) < h.l4+8 {
				return nil, false
			}
			off := binary.BigEndian.Uint16(ip[h.l4+2:])
			h.frag, h.later = off&0xfff9 != 0, off&0xfff8 != 0
			h.fragID = binary.BigEndian.Uint32(ip[h.l4+4:])
			h.proto, h.l4 = ip[h.l4], h.l4+8
			if h.later {
				return ip, h.l4 <= len(ip)
			}
		default:
			return ip, h.l4 <= len(ip)
		}
		if h.l4 > len(ip) {
			return nil, false
		}
	}
	return nil, false
}

func (h *ipInfo) parseTransport(b []byte) bool {
	switch h.proto {
	case protoTCP:
		if len(b) < tcpLen {
			return false
		}
		if off := int(b[12]>>4) * 4; off < tcpLen || off > len(b) {
			return false
		}
	case protoUDP:
		if len(b) < udpLen {
			return false
		}
	case protoICMP:
		return !h.v6 && len(b) >= icmpLen
	case protoICMPv6:
		return h.v6 && len(b) >= icmpLen
	default:
		return true
	}
	h.sport, h.dport = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	return true
}

// csumAt returns the offset in the packet of the transport checksum that
// covers the addresses, 0 when there is none.
func (h *ipInfo) csumAt() int {
	switch {
	case h.later:
		return 0
	case h.proto == protoTCP:
		return h.l4 + 16
	case h.proto == protoUDP:
		return h.l4 + 6
	case h.proto == protoICMPv6:
		return h.l4 + 2
	}
	return 0
}

// checkVnet reports whether the virtio header v fits the packet: a partial
// checksum must be the transport's own, a super-packet must be one of the kinds that
// the fabric can split.
func (h *ipInfo) checkVnet(v *vnetHdr, n int) bool {
	if v.needsCsum() {
		if h.frag || int(v.csumStart) != h.l4 || h.l4+int(v.csumOffset)+2 > n || h.l4+int(v.csumOffset) != h.csumAt() {
			return false
		}
	}
	if v.gso() == gsoNone {
		return true
	}
	if !v.needsCsum() || v.gsoSize < minGSO {
		return false
	}
	switch v.gso() {
	case gsoTCPv4:
		return !h.v6 && h.proto == protoTCP
	case gsoTCPv6:
		return h.v6 && h.proto == protoTCP
	case gsoUDPL4:
		return h.proto == protoUDP
	}
	return false
}

// tcpHeaderLen returns the length of the TCP header at the start of b.
func tcpHeaderLen(b []byte) int { return int(b[12]>>4) * 4 }
