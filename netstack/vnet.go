package netstack

import "encoding/binary"

// The virtio-net header in front of every frame of a link (virtio 1.2 §5.1.6,
// linux/virtio_net.h), ten bytes in the machine's byte order.
const (
	vnetLen = 10

	vnetNeedsCsum = 1 // flags: the checksum at csumStart+csumOffset is partial
	vnetDataValid = 2 // flags: the checksum was verified

	gsoNone  = 0
	gsoTCPv4 = 1
	gsoTCPv6 = 4
	gsoUDPL4 = 5
	gsoECN   = 0x80 // may be or-ed to a TCP type
)

// vnetHdr is the decoded virtio-net header. csumStart counts from the first
// IP byte on every kind of link. hdrLen is a hint only and never trusted.
type vnetHdr struct {
	flags      uint8
	gsoType    uint8
	hdrLen     uint16
	gsoSize    uint16
	csumStart  uint16
	csumOffset uint16
}

func (h *vnetHdr) decode(b []byte) {
	_ = b[vnetLen-1]
	h.flags, h.gsoType = b[0], b[1]
	h.hdrLen = binary.NativeEndian.Uint16(b[2:])
	h.gsoSize = binary.NativeEndian.Uint16(b[4:])
	h.csumStart = binary.NativeEndian.Uint16(b[6:])
	h.csumOffset = binary.NativeEndian.Uint16(b[8:])
}

func (h *vnetHdr) encode(b []byte) {
	_ = b[vnetLen-1]
	b[0], b[1] = h.flags, h.gsoType
	binary.NativeEndian.PutUint16(b[2:], h.hdrLen)
	binary.NativeEndian.PutUint16(b[4:], h.gsoSize)
	binary.NativeEndian.PutUint16(b[6:], h.csumStart)
	binary.NativeEndian.PutUint16(b[8:], h.csumOffset)
}

// needsCsum reports a partial checksum: the field holds the folded
// pseudo-header sum only.
func (h *vnetHdr) needsCsum() bool { return h.flags&vnetNeedsCsum != 0 }

// gso returns the type of super-packet without the ECN bit.
func (h *vnetHdr) gso() uint8 { return h.gsoType &^ gsoECN }
