package netstack

// fromMesh routes the packets of a merger, all from one peer.
func (f *fabric) fromMesh(g *merger) {
	t := f.tables()
	var host [8]packet
	toHost := host[:0]
	for i := range g.items {
		o := &g.items[i]
		src, dst := ipSrc(o.ip), ipDst(o.ip)
		if dst == t.Self && t.Self.IsValid() {
			if !t.inMesh(src) || src == t.Self {
				f.drop(dropSource)
				continue
			}
			if p, ok := f.flatten(g, o); ok {
				toHost = append(toHost, p)
			}
			continue
		}
		e, ok := t.endpoints[src]
		if !ok || !e.node.IsValid() || e.node == t.Self {
			f.drop(dropSource)
			continue
		}
		to := f.link(dst)
		switch {
		case to == nil:
			f.drop(dropNoRoute)
		case to.cfg.NetworkID != e.net.ID || e.net.Ingress:
			f.drop(dropIsolation)
		default:
			f.meshToTask(g, o, to)
		}
	}
	if len(toHost) > 0 {
		f.inject(toHost)
		releaseAll(toHost)
	}
}

// meshToTask translates when it must and writes the parts as they lie in the cipher's buffers.
func (f *fabric) meshToTask(g *merger, o *merged, to *Link) {
	p := packet{hdr: o.hdr, ip: o.ip}
	f.translateBack(to, &p, &o.h)
	var parts [maxMerge][]byte
	to.writeParts(p.hdr, g.parts(o, parts[:0]), o.size)
}

// flatten copies a packet out of the cipher's buffers.
func (f *fabric) flatten(g *merger, o *merged) (packet, bool) {
	p, ok := newPacket(o.size)
	if !ok {
		f.drop(dropNoBuffer)
		return packet{}, false
	}
	p.hdr = o.hdr
	var parts [maxMerge][]byte
	n := 0
	for _, b := range g.parts(o, parts[:0]) {
		n += copy(p.ip[n:], b)
	}
	f.metrics.toHost.Add(uint64(n))
	return p, true
}
