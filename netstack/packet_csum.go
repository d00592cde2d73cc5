package netstack

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
)

// sum returns the folded ones' complement sum of b and initial (RFC 1071). b
// must start at an even offset of what is summed.
func sum(b []byte, initial uint16) uint16 { return checksum.Checksum(b, initial) }

func fold(s uint32) uint16 {
	s = s>>16 + s&0xffff
	return uint16(s + s>>16)
}

// pseudoSum returns the folded sum of the pseudo header of a packet whose
// transport part has n bytes.
func pseudoSum(ip []byte, v6 bool, proto uint8, n int) uint16 {
	addrs := ip[12:20]
	if v6 {
		addrs = ip[8:40]
	}
	return fold(uint32(sum(addrs, 0)) + uint32(proto) + uint32(n))
}

// delta returns what an exchange of old for new (same even length) adds to a
// ones' complement sum (RFC 1624).
func delta(old, new []byte) uint32 {
	return uint32(^sum(old, 0)) + uint32(sum(new, 0))
}

// addDelta corrects a finished checksum field.
func addDelta(field []byte, d uint32) {
	c := ^binary.BigEndian.Uint16(field)
	binary.BigEndian.PutUint16(field, ^fold(uint32(c)+uint32(fold(d))))
}

// addDeltaPartial corrects the field of a partial checksum: the plain sum of the pseudo header.
func addDeltaPartial(field []byte, d uint32) {
	c := binary.BigEndian.Uint16(field)
	binary.BigEndian.PutUint16(field, fold(uint32(c)+uint32(fold(d))))
}

// setIPv4Csum computes the header checksum.
func setIPv4Csum(ip []byte) {
	hdr := ip[:int(ip[0]&0x0f)*4]
	hdr[10], hdr[11] = 0, 0
	binary.BigEndian.PutUint16(hdr[10:], ^sum(hdr, 0))
}

// finishCsum turns a partial checksum into a finished one.
func finishCsum(p *packet) {
	if !p.hdr.needsCsum() {
		return
	}
	start := int(p.hdr.csumStart)
	field := p.ip[start+int(p.hdr.csumOffset):]
	// The field itself holds the sum of the pseudo header and takes part.
	c := ^sum(p.ip[start:], 0)
	if c == 0 && p.hdr.csumOffset == 6 {
		c = 0xffff // UDP: 0 says that there is none
	}
	binary.BigEndian.PutUint16(field, c)
	p.hdr = vnetHdr{}
}

// csumValid verifies the transport checksum of a whole packet.
func csumValid(ip []byte, v6 bool, proto uint8, l4 int) bool {
	return sum(ip[l4:], pseudoSum(ip, v6, proto, len(ip)-l4)) == 0xffff
}
