package netstack

import "encoding/binary"

// forward rewrites a packet of the client for the backend.
func (w *flow) forward(p *packet, h *ipInfo) {
	if w.hairpin {
		rewrite(p, h, &w.fwd.dst, &w.rev.src)
		return
	}
	rewrite(p, h, nil, &w.rev.src)
}

// backward rewrites a packet of the backend for the client.
func (w *flow) backward(p *packet, h *ipInfo) {
	if w.hairpin {
		rewrite(p, h, &w.fwd.dst, &w.fwd.src)
		return
	}
	rewrite(p, h, &w.fwd.dst, nil)
}

// rewrite exchanges addresses (nil: leave) and corrects the checksums.
func rewrite(p *packet, h *ipInfo, src, dst *[16]byte) {
	ip, at, n := p.ip, 12, 4
	if h.v6 {
		at, n = 8, 16
	}
	var d uint32
	if src != nil {
		d += uint32(fold(delta(ip[at:at+n], src[:n])))
		copy(ip[at:at+n], src[:n])
	}
	if dst != nil {
		d += uint32(fold(delta(ip[at+n:at+2*n], dst[:n])))
		copy(ip[at+n:at+2*n], dst[:n])
	}
	if !h.v6 {
		addDelta(ip[10:12], d)
	}
	if c := h.csumAt(); c != 0 {
		fixCsum(ip[c:c+2], h.proto, p.hdr.needsCsum(), d)
	}
}

// fixCsum corrects a transport checksum by d.
func fixCsum(field []byte, proto uint8, partial bool, d uint32) {
	switch {
	case partial:
		addDeltaPartial(field, d)
	case proto == protoUDP && field[0] == 0 && field[1] == 0: // none
	default:
		addDelta(field, d)
		if proto == protoUDP && field[0] == 0 && field[1] == 0 {
			field[0], field[1] = 0xff, 0xff
		}
	}
}

// track follows the connection's state. It is called with the packet of the
// side that sent it, before or after the rewrite.
func (w *flow) track(now int64, ip []byte, h *ipInfo, fromClient bool) {
	if w.last.Load() != now {
		w.last.Store(now)
	}
	if h.proto != protoTCP || h.later {
		if !fromClient && !w.is(flowEstablished) {
			w.set(flowEstablished)
		}
		return
	}
	t := ip[h.l4:]
	flags := t[13]
	next := binary.BigEndian.Uint32(t[4:]) + segmentLen(t, flags)
	fin, counter := uint32(flowClientFIN), &w.clientNext
	if !fromClient {
		fin, counter = flowServerFIN, &w.serverNext
	}
	if old := counter.Load(); old == 0 || int32(next-old) > 0 || flags&tcpSYN != 0 {
		counter.Store(next)
	}
	state := w.state.Load()
	want := state
	switch {
	case flags&tcpRST != 0:
		want |= flowRST
	case flags&tcpFIN != 0:
		want |= fin
	default:
		want &^= flowRST // a reset that the other side did not believe
	}
	if !fromClient {
		want |= flowEstablished
	}
	if add := want &^ state; add != 0 {
		w.state.Or(add)
	}
	if sub := state &^ want; sub != 0 {
		w.state.And(^sub)
	}
}

// segmentLen returns how far a segment moves the sequence number.
func segmentLen(t []byte, flags uint8) uint32 {
	n := uint32(len(t) - tcpHeaderLen(t))
	if flags&tcpSYN != 0 {
		n++
	}
	if flags&tcpFIN != 0 {
		n++
	}
	return n
}
