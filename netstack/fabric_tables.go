package netstack

import "net/netip"

// changed is called after new tables came into force: flows whose backend is
// gone end at once, and flows that wait for their network are restored.
func (f *fabric) changed(old, new *tables) {
	if lostBackends(old, new) {
		f.flows.each(func(w *flow) { f.checkFlow(new, w) })
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for l := range f.attached {
		f.restore(l)
	}
}

// lostBackends reports whether any VIP of old lacks a backend in new: only then flows must be looked at.
func lostBackends(old, new *tables) bool {
	for a, v := range old.vips {
		n := new.vips[a]
		if n == nil {
			return true
		}
		for m := range v.members {
			if _, ok := n.members[m]; !ok {
				return true
			}
		}
	}
	return false
}

// checkFlow ends w when its backend does not serve its VIP any more. A client
// of TCP is told with a reset; should that not fit its window, its next packet
// gets another. A flow of UDP, or one that the backend never answered, is
// forgotten, and its next packet (the SYN, once more) picks anew.
func (f *fabric) checkFlow(t *tables, w *flow) {
	if v := t.vips[w.vip()]; v != nil {
		if _, ok := v.members[w.backend]; ok {
			return
		}
	}
	if w.is(flowDead) {
		return
	}
	f.metrics.resets.Add(1)
	if !w.fwd.tcp() || w.closed() || !w.is(flowEstablished) {
		f.flows.remove(w)
		return
	}
	w.set(flowDead)
	w.last.Store(f.flows.clock.Load())
	f.resetClient(w)
}

func (w *flow) vip() netip.Addr { return w.fwd.dstAddr() }

func (k *flowKey) dstAddr() netip.Addr {
	if k.v6() {
		return netip.AddrFrom16(k.dst)
	}
	return netip.AddrFrom4([4]byte(k.dst[:4]))
}

// restore opens the flows that a link brought with it, once its network is known. The caller holds mu.
func (f *fabric) restore(l *Link) {
	if len(l.cfg.Flows) == 0 {
		return
	}
	t := f.tables()
	if t.networks[l.cfg.NetworkID] == nil {
		return
	}
	for _, k := range l.cfg.Flows {
		v := t.vips[k.VIP.Addr()]
		if v == nil || v.net.ID != l.cfg.NetworkID || !l.owns(k.Client.Addr()) {
			continue
		}
		key := flowKey{src: addrKey(k.Client.Addr()), dst: addrKey(k.VIP.Addr()), sport: k.Client.Port(), dport: k.VIP.Port(), proto: protoTCP}
		if k.Protocol == "udp" {
			key.proto = protoUDP
		}
		if k.VIP.Addr().Is6() {
			key.proto |= 0x100
		}
		w, _ := f.flows.lookup(&key)
		if w == nil {
			w, _ = f.flows.open(l, v, key, false)
		}
		if w != nil {
			w.set(flowEstablished)
		}
	}
	l.cfg.Flows = nil
}
