package netstack

import (
	"net/netip"
	"sync"
	"sync/atomic"
)

// hostPort is the gVisor stack as the fabric sees it.
type hostPort interface {
	// inject hands packets to the stack that leave the overlay: egress,
	// gateways, the node's own mesh address, replies to clients of published
	// ports. It may be called by many goroutines at once, must not block for
	// long, and borrows the packets (see packet). Sources were checked;
	// super-packets and partial checksums are possible.
	inject(pkts []packet)
}

// A fabric moves packets between links, the mesh and the stack. A packet is
// carried by the goroutine that read it.
type fabric struct {
	cfg     Config
	mtu     int
	tables  func() *tables
	host    hostPort // set once, before the first packet
	mesh    *meshPort
	flows   *flowTable
	metrics *fabricMetrics

	// local finds the link of a local task's address. Copied on write, under mu.
	local atomic.Pointer[map[netip.Addr]*Link]

	mu       sync.Mutex
	attached map[*Link]struct{}
	start    func(*Link) // runs a link's reader; set by run
	ended    bool
}

func newFabric(cfg Config, tables func() *tables) *fabric {
	f := &fabric{cfg: cfg, mtu: cfg.MTU, tables: tables, flows: newFlowTable(), attached: make(map[*Link]struct{})}
	f.metrics = newFabricMetrics(f)
	f.mesh = newMeshPort(f)
	f.local.Store(&map[netip.Addr]*Link{})
	return f
}

func (f *fabric) drop(r dropReason) { f.metrics.drops[r].Add(1) }

// link returns the link of a local task's address, or nil.
func (f *fabric) link(a netip.Addr) *Link { return (*f.local.Load())[a] }

// fromLink routes a packet that a task sent. It borrows p.
func (f *fabric) fromLink(l *Link, p *packet) {
	f.metrics.fromLinks.Add(uint64(len(p.ip)))
	ip, h, ok := parse(p.ip)
	if !ok || !h.checkVnet(&p.hdr, len(ip)) {
		f.drop(dropMalformed)
		return
	}
	p.ip = ip
	if !l.owns(p.src()) {
		f.drop(dropSource)
		return
	}
	t := f.tables()
	net := l.network(t)
	if net == nil {
		f.drop(dropNoNetwork)
		return
	}
	dst := p.dst()
	if to := f.link(dst); to != nil {
		f.toTask(l, net, to, p, &h)
		return
	}
	if e, ok := t.endpoints[dst]; ok {
		f.toPeer(l, t, net, e, p, &h)
		return
	}
	if v, ok := t.vips[dst]; ok {
		if v.net != net || net.Ingress { // behind an ingress VIP are other services' tasks
			f.drop(dropIsolation)
			return
		}
		f.toVIP(l, t, v, p, &h)
		return
	}
	if g, ok := t.gateways[dst]; ok {
		if g != net {
			f.drop(dropIsolation)
		} else if !f.answerEcho(l, p, &h) {
			f.toHost(p)
		}
		return
	}
	f.toOutside(t, net, dst, p)
}

// toTask delivers to a task of this node, in the same network only. What comes
// from the backend of one of its flows is translated back.
func (f *fabric) toTask(from *Link, net *network, to *Link, p *packet, h *ipInfo) {
	if to.cfg.NetworkID != from.cfg.NetworkID || net.Ingress {
		f.drop(dropIsolation)
		return
	}
	f.translateBack(to, p, h)
	to.write(p)
}

// toPeer sends to a task of another node, in the same network only.
func (f *fabric) toPeer(l *Link, t *tables, net *network, e endpoint, p *packet, h *ipInfo) {
	switch {
	case e.net != net || net.Ingress:
		f.drop(dropIsolation)
	case !e.node.IsValid() || e.node == t.Self:
		f.drop(dropNoRoute) // its link is not attached yet, or no more
	case f.tooBig(p):
		f.answerTooBig(l, net, p, h)
	default:
		f.toMesh(p)
	}
}

// toOutside hands what leaves the overlay to the stack.
func (f *fabric) toOutside(t *tables, net *network, dst netip.Addr, p *packet) {
	switch in := t.networkOf(dst); {
	case in == net:
		f.drop(dropNoRoute)
	case in != nil || t.inMesh(dst):
		f.drop(dropIsolation)
	case !outside(dst):
		f.drop(dropNotRoutable)
	case net.Internal:
		f.drop(dropInternal)
	default:
		f.toHost(p)
	}
}

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// outside reports whether a can be the address of another machine: the stack's egress
// never sees anything else.
func outside(a netip.Addr) bool {
	return !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast() && !a.IsLinkLocalUnicast() && !a.Is4In6() && a != broadcast
}

func (f *fabric) toHost(p *packet) {
	f.metrics.toHost.Add(uint64(len(p.ip)))
	one := [1]packet{*p}
	f.inject(one[:])
	*p = one[0]
}

func (f *fabric) inject(pkts []packet) {
	if f.host != nil {
		f.host.inject(pkts)
	}
}

// toMesh queues a packet for the peers.
func (f *fabric) toMesh(p *packet) {
	if !f.mesh.queue.push(p) {
		f.drop(dropMeshFull)
	}
}

// fromHost routes packets of the stack by destination: to the link of a local
// task, or, for the mesh address of a peer, to the mesh. Everything else is
// dropped. The packets are borrowed (see packet). hdr must be right: a zero hdr
// means a finished checksum and no super-packet.
func (f *fabric) fromHost(pkts []packet) {
	t := f.tables()
	for i := range pkts {
		p := &pkts[i]
		f.metrics.fromHost.Add(uint64(len(p.ip)))
		if len(p.ip) < ipv4Len || p.ip[0]>>4 == 6 && len(p.ip) < ipv6Len {
			f.drop(dropMalformed)
			continue
		}
		dst := p.dst()
		if to := f.link(dst); to != nil {
			to.write(p)
		} else if t.inMesh(dst) && dst != t.Self {
			f.toMesh(p)
		} else {
			f.drop(dropNoRoute)
		}
	}
}
