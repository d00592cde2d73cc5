package netstack

import "net/netip"

// toVIP translates a packet of a client to the backend of its flow.
func (f *fabric) toVIP(l *Link, t *tables, v *vip, p *packet, h *ipInfo) {
	switch {
	case h.later:
		w, forward := f.flows.frags.lookup(p.ip, h)
		if w == nil {
			f.drop(dropNoFlow)
			return
		}
		f.carry(l, t, v, w, forward, p, h)
	case h.proto == protoTCP || h.proto == protoUDP:
		w, forward, ok := f.flowTo(l, v, p, h)
		if ok {
			f.carry(l, t, v, w, forward, p, h)
		}
	case f.answerEcho(l, p, h):
	case isICMPError(p.ip, h):
		f.errorToVIP(l, t, v, p, h)
	default:
		f.answerUnreachable(l, p, h, unreachProtocol)
	}
}

// flowTo finds or opens the flow of a packet to a VIP. It answers itself when there is none to be had.
func (f *fabric) flowTo(l *Link, v *vip, p *packet, h *ipInfo) (w *flow, forward, ok bool) {
	k := keyOf(p.ip, h)
	flags := uint8(0)
	if h.proto == protoTCP {
		flags = p.ip[h.l4+13]
	}
	syn := flags&(tcpSYN|tcpACK) == tcpSYN
	w, forward = f.flows.lookup(&k)
	if w != nil && w.is(flowDead) && !syn {
		f.answerReset(l, p, h)
		return nil, false, false
	}
	if w != nil && syn && forward && w.closed() {
		f.flows.remove(w)
		w = nil
	}
	if w != nil {
		return w, forward, true
	}
	if flags&tcpRST != 0 {
		f.drop(dropNoFlow)
		return nil, false, false
	}
	w, res := f.flows.open(l, v, k, syn || h.proto == protoUDP)
	if now := f.tables(); res == openOK && now != l.tabs {
		f.checkFlow(now, w) // the tables changed meanwhile, and their look at the flows may have missed this one
	}
	switch res {
	case openNoBackend:
		f.refuse(l, p, h)
	case openFull:
		f.drop(dropFlows)
	}
	return w, true, res == openOK
}

// refuse answers for a service that nobody serves.
func (f *fabric) refuse(l *Link, p *packet, h *ipInfo) {
	if h.proto == protoTCP {
		f.answerReset(l, p, h)
		return
	}
	f.answerUnreachable(l, p, h, unreachPort)
}

// carry takes a packet that was sent to a VIP through its flow: forward to the
// backend, or, when a client that is its own backend answers, back to itself.
func (f *fabric) carry(l *Link, t *tables, v *vip, w *flow, forward bool, p *packet, h *ipInfo) {
	now := f.flows.clock.Load()
	if h.frag && !h.later {
		f.flows.frags.remember(p.ip, h, w, forward, now)
	}
	w.track(now, p.ip, h, forward)
	if !forward {
		w.backward(p, h)
		w.link.write(p)
		return
	}
	to := f.link(w.backend)
	if to == nil && f.tooBig(p) {
		f.answerTooBig(l, v.net, p, h)
		return
	}
	w.forward(p, h)
	f.toBackend(t, v.net, w.backend, to, p)
}

// toBackend delivers a translated packet.
func (f *fabric) toBackend(t *tables, net *network, backend netip.Addr, to *Link, p *packet) {
	if to != nil {
		if to.cfg.NetworkID != net.ID {
			f.drop(dropIsolation)
			return
		}
		to.write(p)
		return
	}
	e, ok := t.endpoints[backend]
	if !ok || e.net != net || !e.node.IsValid() || e.node == t.Self {
		f.drop(dropNoRoute)
		return
	}
	f.toMesh(p)
}

// translateBack gives a packet for the task behind to the address of the VIP, when
// it comes from the backend of one of the task's flows, or is an ICMP error about one.
func (f *fabric) translateBack(to *Link, p *packet, h *ipInfo) {
	if to.flows.Load() == 0 {
		return
	}
	now := f.flows.clock.Load()
	var w *flow
	var forward bool
	switch {
	case h.later:
		w, forward = f.flows.frags.lookup(p.ip, h)
	case h.proto == protoTCP || h.proto == protoUDP:
		k := keyOf(p.ip, h)
		w, forward = f.flows.lookup(&k)
	case isICMPError(p.ip, h):
		f.errorToClient(p, h)
		return
	}
	if w == nil || forward || w.link != to {
		return
	}
	if h.frag && !h.later {
		f.flows.frags.remember(p.ip, h, w, false, now)
	}
	w.track(now, p.ip, h, false)
	w.backward(p, h)
}
