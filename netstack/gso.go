package netstack

import "encoding/binary"

const (
	// minGSO is the least segment size of a super-packet: what Linux leaves of
	// its least MSS (48) after 40 bytes of TCP options.
	minGSO = 8
	// maxSegment is the largest segment: what fits in a buffer of the cipher.
	maxSegment = maxIP - 64
)

// A splitter cuts one (super-)packet into segments, each straight into the
// buffer of its reader, and can pause between any two. Use: begin, then next
// while more.
type splitter struct {
	p    packet
	h    ipInfo
	hlen int // IP and transport headers
	size int // payload per segment
	off  int // payload already sent
	seq  uint32
	n    uint16 // segments already made
}

// begin takes the packet over. mtu bounds TCP segments, too. false: not a packet that can be sent; it is released.
func (s *splitter) begin(p packet, mtu int) bool {
	*s = splitter{p: p}
	ip, h, ok := parse(p.ip)
	if !ok || !h.checkVnet(&p.hdr, len(ip)) {
		s.end()
		return false
	}
	s.p.ip, s.h, s.hlen = ip, h, h.l4
	switch p.hdr.gso() {
	case gsoTCPv4, gsoTCPv6:
		s.hlen += tcpHeaderLen(ip[h.l4:])
		s.seq = binary.BigEndian.Uint32(ip[h.l4+4:])
		s.size = min(int(p.hdr.gsoSize), mtu-s.hlen)
	case gsoUDPL4:
		s.hlen += udpLen
		s.size = int(p.hdr.gsoSize)
	default:
		finishCsum(&s.p)
		if len(ip) > maxSegment {
			s.end()
			return false
		}
		return true
	}
	if s.size < minGSO || s.hlen+s.size > maxSegment {
		s.end()
		return false
	}
	return true
}

// more reports whether next has another segment.
func (s *splitter) more() bool { return s.p.buf != nil }

// end drops what is left.
func (s *splitter) end() { s.p.release() }

// next writes the next segment to out, which holds at least maxSegment bytes,
// and returns its length.
func (s *splitter) next(out []byte) int {
	if s.size == 0 {
		n := copy(out, s.p.ip)
		s.end()
		return n
	}
	in := s.p.ip
	payload := in[s.hlen+s.off:]
	last := len(payload) <= s.size
	if !last {
		payload = payload[:s.size]
	}
	n := s.hlen + copy(out[s.hlen:], payload)
	out = out[:n]
	copy(out, in[:s.hlen])
	s.setIP(out)
	if s.h.proto == protoTCP {
		s.setTCP(out, last)
	} else {
		binary.BigEndian.PutUint16(out[s.h.l4+4:], uint16(n-s.h.l4))
	}
	s.setCsum(out)
	s.off += s.size
	s.n++
	if last {
		s.end()
	}
	return n
}

func (s *splitter) setIP(out []byte) {
	if s.h.v6 {
		binary.BigEndian.PutUint16(out[4:], uint16(len(out)-ipv6Len))
		return
	}
	binary.BigEndian.PutUint16(out[2:], uint16(len(out)))
	binary.BigEndian.PutUint16(out[4:], binary.BigEndian.Uint16(out[4:])+s.n)
	setIPv4Csum(out)
}

// setTCP numbers a segment. FIN and PSH belong to the last one, CWR to the first.
func (s *splitter) setTCP(out []byte, last bool) {
	t := out[s.h.l4:]
	binary.BigEndian.PutUint32(t[4:], s.seq+uint32(s.off))
	if !last {
		t[13] &^= tcpFIN | tcpPSH
	}
	if s.n > 0 {
		t[13] &^= tcpCWR
	}
}

func (s *splitter) setCsum(out []byte) {
	at := s.h.csumAt()
	out[at], out[at+1] = 0, 0
	c := ^sum(out[s.h.l4:], pseudoSum(out, s.h.v6, s.h.proto, len(out)-s.h.l4))
	if c == 0 && s.h.proto == protoUDP {
		c = 0xffff
	}
	binary.BigEndian.PutUint16(out[at:], c)
}
