package netstack

import (
	"bytes"
	"encoding/binary"
	"sync"
)

const (
	// maxMerge bounds the packets in one super-packet: 64 KiB of ordinary
	// segments, and well below the kernel's bound on the parts of a write.
	maxMerge = 64
	// mergeScan bounds how many super-packets under way a packet is compared with.
	mergeScan = 16
)

// A merger joins consecutive TCP segments of a flow into super-packets (GRO),
// without copying: a super-packet is the first packet, whose headers are
// rewritten, and the payloads of the others. It borrows the packets' bytes.
//
// It merges what the kernel would (net/ipv4/tcp_offload.c): same addresses,
// ports, options, window, acknowledgement, TTL, TOS and DF, next sequence number, full
// segments but for the last, nothing after PSH; checksums verified. The order within a flow is kept.
type merger struct {
	items []merged
	next  []int16 // per packet: the next one in its super-packet, or -1
	rest  [][]byte
}

// merged is one packet or super-packet of a merger.
type merged struct {
	hdr vnetHdr
	// ip is the first packet; the payloads of the others follow, in merger.rest.
	ip   []byte
	h    ipInfo
	size int // bytes in all
	// first and last are the indexes of the packets chained behind ip, -1 for none.
	first, last int16
	count       int
	tcp         bool // may be compared by later segments
	closed      bool // may not grow
	verified    bool
	hlen        int
	nextSeq     uint32
}

var mergers = sync.Pool{New: func() any { return new(merger) }}

func (m *merger) reset() {
	clear(m.items)
	clear(m.rest)
	m.items, m.next, m.rest = m.items[:0], m.next[:0], m.rest[:0]
}

// add takes one packet of the batch, false when it is malformed.
func (m *merger) add(ip []byte) bool {
	ip, h, ok := parse(ip)
	if !ok {
		return false
	}
	c := merged{ip: ip, h: h, size: len(ip), first: -1, last: -1, count: 1}
	if h.proto == protoTCP && !h.frag {
		c.tcp = true
		c.hlen = h.l4 + tcpHeaderLen(ip[h.l4:])
		c.closed = !mergeable(&c) || ip[h.l4+13]&tcpPSH != 0
		c.nextSeq = binary.BigEndian.Uint32(ip[h.l4+4:]) + uint32(len(ip)-c.hlen)
		if prev := m.flow(&c); prev != nil && m.join(prev, &c) {
			return true
		}
	}
	m.items = append(m.items, c)
	return true
}

// mergeable reports whether a segment may start or join a super-packet.
func mergeable(c *merged) bool {
	flags := c.ip[c.h.l4+13]
	plain := flags&^tcpPSH == tcpACK && len(c.ip) > c.hlen
	return plain && (c.h.v6 && c.h.l4 == ipv6Len || !c.h.v6 && c.h.l4 == ipv4Len)
}

// flow returns the latest item of c's flow.
func (m *merger) flow(c *merged) *merged {
	for i := len(m.items) - 1; i >= max(0, len(m.items)-mergeScan); i-- {
		o := &m.items[i]
		if o.tcp && o.h.v6 == c.h.v6 && o.h.sport == c.h.sport && o.h.dport == c.h.dport && bytes.Equal(addrBytes(o.ip), addrBytes(c.ip)) {
			return o
		}
	}
	return nil
}

// addrBytes returns the source and destination addresses as they are in the packet.
func addrBytes(ip []byte) []byte {
	if ip[0]>>4 == 4 {
		return ip[12:20]
	}
	return ip[8:40]
}

// join appends c to o when it may.
func (m *merger) join(o, c *merged) bool {
	n := len(c.ip) - c.hlen
	gso := len(o.ip) - o.hlen
	if o.closed || !mergeable(c) || n > gso || o.size+n > maxIP || o.count == maxMerge || !sameHeaders(o, c) {
		return false
	}
	if binary.BigEndian.Uint32(c.ip[c.h.l4+4:]) != o.nextSeq {
		return false
	}
	if !o.verified {
		if !csumValid(o.ip, o.h.v6, protoTCP, o.h.l4) {
			o.closed = true
			return false
		}
		o.verified = true
	}
	if !csumValid(c.ip, c.h.v6, protoTCP, c.h.l4) {
		c.closed = true
		return false
	}
	if psh := c.ip[c.h.l4+13] & tcpPSH; psh != 0 || n < gso {
		o.ip[o.h.l4+13] |= psh
		o.closed = true
	}
	m.chain(o, c.ip[c.hlen:])
	o.size += n
	o.count++
	o.nextSeq = c.nextSeq
	return true
}

func (m *merger) chain(o *merged, payload []byte) {
	i := int16(len(m.rest))
	m.rest = append(m.rest, payload)
	m.next = append(m.next, -1)
	if o.first < 0 {
		o.first = i
	} else {
		m.next[o.last] = i
	}
	o.last = i
}

// sameHeaders compares what all segments of a super-packet must share.
func sameHeaders(o, c *merged) bool {
	if o.hlen != c.hlen {
		return false
	}
	a, b := o.ip, c.ip
	if o.h.v6 {
		if !bytes.Equal(a[:4], b[:4]) || a[7] != b[7] { // class, flow label, hop limit
			return false
		}
	} else if a[1] != b[1] || a[8] != b[8] || a[6]&0xc0 != b[6]&0xc0 {
		return false
	}
	a, b = a[o.h.l4:o.hlen], b[c.h.l4:c.hlen]
	if !bytes.Equal(a[8:13], b[8:13]) || !bytes.Equal(a[14:16], b[14:16]) || !bytes.Equal(a[tcpLen:], b[tcpLen:]) {
		return false // acknowledgement, data offset, window, options
	}
	return true
}

// finish writes the headers of all super-packets: length, partial checksum, virtio header.
func (m *merger) finish() {
	for i := range m.items {
		o := &m.items[i]
		if o.count == 1 {
			continue
		}
		o.hdr = vnetHdr{flags: vnetNeedsCsum, gsoType: gsoTCPv4, hdrLen: uint16(o.hlen), gsoSize: uint16(len(o.ip) - o.hlen),
			csumStart: uint16(o.h.l4), csumOffset: 16}
		if o.h.v6 {
			o.hdr.gsoType = gsoTCPv6
			binary.BigEndian.PutUint16(o.ip[4:], uint16(o.size-ipv6Len))
		} else {
			binary.BigEndian.PutUint16(o.ip[2:], uint16(o.size))
			setIPv4Csum(o.ip)
		}
		binary.BigEndian.PutUint16(o.ip[o.h.l4+16:], pseudoSum(o.ip, o.h.v6, protoTCP, o.size-o.h.l4))
	}
}

// parts appends all bytes of o to list: the first packet, then the payloads.
func (m *merger) parts(o *merged, list [][]byte) [][]byte {
	list = append(list, o.ip)
	for i := o.first; i >= 0; i = m.next[i] {
		list = append(list, m.rest[i])
	}
	return list
}
