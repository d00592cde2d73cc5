package netstack

import (
	"net/netip"
	"sync"
	"sync/atomic"
)

const (
	// maxIP is the largest IP packet, a super-packet included.
	maxIP = 65535
	// headroom is kept free in front of the IP bytes of every buffer: room for
	// a virtio-net header and an Ethernet header, so that a link write needs
	// no copy.
	headroom = 64
	// smallIP is the largest IP packet of a small buffer.
	smallIP = 2048 - headroom
	// maxBuffers bounds the large buffers in use at any time, in all links and
	// queues together. When it is reached, packets are dropped.
	maxBuffers = 1024
	// maxSmallBuffers bounds the small ones.
	maxSmallBuffers = 16384
)

// A packet is a view of one IP packet or super-packet in a pooled buffer.
//
// Ownership: who holds a packet whose buf is not nil must pass it on or call
// release exactly once. A function that is given packets ([]packet or *packet)
// borrows them for the time of the call; it may change hdr and the IP bytes,
// and it may keep a packet by moving it out (take), which leaves a packet
// without a buffer behind. So a caller calls release (or releaseAll) on what it
// passed, after the call, and that does nothing for the packets that were
// taken. Nothing may refer to ip after that.
type packet struct {
	buf *packetBuffer
	hdr vnetHdr
	// ip are the IP bytes: always buf.b[headroom : headroom+n].
	ip []byte
}

// newPacket returns a packet with room for n bytes of IP, len(ip) == n, and
// contents undefined; ok is false when n is too large or the bound on buffers is reached.
func newPacket(n int) (p packet, ok bool) {
	if n > maxIP {
		return packet{}, false
	}
	b := getBuffer(n)
	if b == nil {
		return packet{}, false
	}
	return packet{buf: b, ip: b.b[headroom : headroom+n]}, true
}

// take moves the packet out: p has no buffer afterwards.
func (p *packet) take() packet {
	q := *p
	*p = packet{}
	return q
}

// release gives the buffer back. It is safe on a packet that was taken.
func (p *packet) release() {
	if p.buf != nil {
		p.buf.put()
	}
	*p = packet{}
}

func releaseAll(pkts []packet) {
	for i := range pkts {
		pkts[i].release()
	}
}

// src and dst return the addresses of a packet whose header was checked (parse).
func (p *packet) src() netip.Addr { return ipSrc(p.ip) }
func (p *packet) dst() netip.Addr { return ipDst(p.ip) }

func ipSrc(ip []byte) netip.Addr {
	if ip[0]>>4 == 4 {
		return netip.AddrFrom4([4]byte(ip[12:16]))
	}
	return netip.AddrFrom16([16]byte(ip[8:24]))
}

func ipDst(ip []byte) netip.Addr {
	if ip[0]>>4 == 4 {
		return netip.AddrFrom4([4]byte(ip[16:20]))
	}
	return netip.AddrFrom16([16]byte(ip[24:40]))
}

// A packetBuffer is pooled memory. Two sizes: small ones hold one ordinary packet,
// large ones anything up to maxIP.
type packetBuffer struct {
	b []byte
}

var (
	largePool = sync.Pool{New: func() any { return &packetBuffer{b: make([]byte, 9*8192)} }}
	smallPool = sync.Pool{New: func() any { return &packetBuffer{b: make([]byte, headroom+smallIP)} }}
	largeUsed atomic.Int64
	smallUsed atomic.Int64
)

// getBuffer returns a buffer with room for n bytes of IP, nil when the bound is reached.
func getBuffer(n int) *packetBuffer {
	pool, used, bound := &largePool, &largeUsed, int64(maxBuffers)
	if n <= smallIP {
		pool, used, bound = &smallPool, &smallUsed, maxSmallBuffers
	}
	if used.Add(1) > bound {
		used.Add(-1)
		return nil
	}
	return pool.Get().(*packetBuffer)
}

func (b *packetBuffer) put() {
	if len(b.b) > headroom+smallIP {
		largeUsed.Add(-1)
		largePool.Put(b)
		return
	}
	smallUsed.Add(-1)
	smallPool.Put(b)
}
