package netstack

import "encoding/binary"

// quoted is the packet that an ICMP error is about, as far as the error quotes it.
type quoted struct {
	ip  []byte
	h   ipInfo
	key flowKey // as quoted
}

// parseQuoted looks into an ICMP error. TCP and UDP only: other errors concern no flow.
func parseQuoted(ip []byte, h *ipInfo) (q quoted, ok bool) {
	if len(ip) < h.l4+icmpLen {
		return q, false
	}
	b := ip[h.l4+icmpLen:]
	q.h.v6 = h.v6
	switch {
	case !h.v6 && len(b) >= ipv4Len && b[0]>>4 == 4:
		q.h.l4, q.h.proto = int(b[0]&0x0f)*4, b[9]
		if q.h.l4 < ipv4Len || binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
			return q, false
		}
	case h.v6 && len(b) >= ipv6Len && b[0]>>4 == 6:
		q.h.l4, q.h.proto = ipv6Len, b[6]
	default:
		return q, false
	}
	if q.h.proto != protoTCP && q.h.proto != protoUDP || len(b) < q.h.l4+4 {
		return q, false
	}
	q.h.sport, q.h.dport = binary.BigEndian.Uint16(b[q.h.l4:]), binary.BigEndian.Uint16(b[q.h.l4+2:])
	q.ip = b
	q.key = keyOf(b, &q.h)
	return q, true
}

// rewrite exchanges addresses in the quotation, as rewrite does in packets.
func (q *quoted) rewrite(src, dst *[16]byte) {
	at, n := 12, 4
	if q.h.v6 {
		at, n = 8, 16
	}
	var d uint32
	if src != nil {
		d += uint32(fold(delta(q.ip[at:at+n], src[:n])))
		copy(q.ip[at:at+n], src[:n])
	}
	if dst != nil {
		d += uint32(fold(delta(q.ip[at+n:at+2*n], dst[:n])))
		copy(q.ip[at+n:at+2*n], dst[:n])
	}
	if !q.h.v6 {
		addDelta(q.ip[10:12], d)
	}
	if c := q.h.csumAt(); c+2 <= len(q.ip) {
		fixCsum(q.ip[c:c+2], q.h.proto, false, d)
	}
}

// errorToClient translates an ICMP error of a backend, about a packet that the
// client's node had sent on to it, for the client.
func (f *fabric) errorToClient(p *packet, h *ipInfo) {
	q, ok := parseQuoted(p.ip, h)
	if !ok {
		return
	}
	k := q.key.reverse()
	w, forward := f.flows.lookup(&k)
	if w == nil || forward {
		return
	}
	finishCsum(p)
	q.rewrite(nil, &w.fwd.dst)
	rewrite(p, h, &w.fwd.dst, nil)
	setICMPCsum(p.ip, h.v6, h.l4)
}

// errorToVIP translates an ICMP error that a client sends to a VIP, about a
// packet that it got from there, for the backend; or, of a client that is its own backend, for itself.
func (f *fabric) errorToVIP(l *Link, t *tables, v *vip, p *packet, h *ipInfo) {
	q, ok := parseQuoted(p.ip, h)
	if !ok {
		f.drop(dropNoFlow)
		return
	}
	k := q.key.reverse()
	w, forward := f.flows.lookup(&k)
	if w == nil || w.link != l {
		f.drop(dropNoFlow)
		return
	}
	finishCsum(p)
	vipKey := &w.fwd.dst
	if !forward {
		q.rewrite(&w.fwd.src, vipKey)
		rewrite(p, h, vipKey, &w.fwd.src)
		setICMPCsum(p.ip, h.v6, h.l4)
		l.write(p)
		return
	}
	if w.hairpin {
		q.rewrite(&w.rev.src, vipKey)
		rewrite(p, h, vipKey, &w.rev.src)
	} else {
		q.rewrite(&w.rev.src, nil)
		rewrite(p, h, nil, &w.rev.src)
	}
	setICMPCsum(p.ip, h.v6, h.l4)
	f.toBackend(t, v.net, w.backend, f.link(w.backend), p)
}
