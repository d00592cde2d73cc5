package netstack

import "encoding/binary"

// answerReset answers a TCP segment to an address that does not serve it with
// a RST (RFC 9293 §3.10.7.1).
func (f *fabric) answerReset(l *Link, p *packet, h *ipInfo) {
	t := p.ip[h.l4:]
	flags := t[13]
	if h.proto != protoTCP || flags&tcpRST != 0 {
		return
	}
	k := keyOf(p.ip, h)
	if flags&tcpACK != 0 {
		f.sendReset(l, k.reverse(), binary.BigEndian.Uint32(t[8:]), 0, tcpRST)
		return
	}
	f.sendReset(l, k.reverse(), 0, binary.BigEndian.Uint32(t[4:])+segmentLen(t, flags), tcpRST|tcpACK)
}

// resetClient tells the client of w that its connection is over.
func (f *fabric) resetClient(w *flow) {
	if s := w.serverNext.Load(); s != 0 {
		f.sendReset(w.link, w.fwd.reverse(), s, w.clientNext.Load(), tcpRST|tcpACK)
		return
	}
	f.sendReset(w.link, w.fwd.reverse(), 0, w.clientNext.Load(), tcpRST|tcpACK)
}

// sendReset sends a RST of the direction k to l.
func (f *fabric) sendReset(l *Link, k flowKey, seq, ack uint32, flags uint8) {
	hlen, n := ipv4Len, k.width()
	if k.v6() {
		hlen = ipv6Len
	}
	p, ok := newPacket(hlen + tcpLen)
	if !ok {
		f.drop(dropNoBuffer)
		return
	}
	defer p.release()
	putIP(p.ip, k.v6(), protoTCP, k.src[:n], k.dst[:n])
	t := p.ip[hlen:]
	clear(t)
	binary.BigEndian.PutUint16(t, k.sport)
	binary.BigEndian.PutUint16(t[2:], k.dport)
	binary.BigEndian.PutUint32(t[4:], seq)
	binary.BigEndian.PutUint32(t[8:], ack)
	t[12], t[13] = tcpLen/4<<4, flags
	binary.BigEndian.PutUint16(t[16:], ^sum(t, pseudoSum(p.ip, k.v6(), protoTCP, tcpLen)))
	l.write(&p)
}
