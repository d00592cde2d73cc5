package netstack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
)

// resolvConf is the host's resolver configuration.
const resolvConf = "/etc/resolv.conf"

// host is where connections end in this node: the gVisor stack and all that uses it (published ports, egress, DNS at the gateways), and the DNS
// servers at the tasks' 127.0.0.11. Safe for concurrent use.
//
// The stack, its goroutines and the listeners exist while run runs. DNS servers of tasks live from ServeDNS until they are closed or run ends.
type host struct {
	cfg       Config
	log       *slog.Logger
	out       func([]packet) // the fabric's fromHost
	tables    func() *tables
	outside   Outside
	metrics   *hostMetrics
	resolvers *hostResolvers
	forwarder *dnsForwarder

	live atomic.Pointer[hostRun]

	applyMu sync.Mutex // one apply at a time, and none while run begins or ends

	mu    sync.Mutex
	ended bool
	dns   map[*taskDNS]struct{}
}

func newHost(cfg Config, f *fabric, tables func() *tables) (*host, error) {
	return newHostOn(cfg, f.fromHost, tables)
}

func newHostOn(cfg Config, out func([]packet), tables func() *tables) (*host, error) {
	if cfg.PublishAddr.Zone() != "" || cfg.PublishAddr.IsMulticast() {
		return nil, fmt.Errorf("published ports cannot listen on %s: give a unicast address of this host", cfg.PublishAddr)
	}
	h := &host{
		cfg: cfg, log: cfg.Logger.With("component", "netstack"), out: out, tables: tables, outside: cfg.Outside,
		metrics: newHostMetrics(cfg.Registry), dns: make(map[*taskDNS]struct{}),
		resolvers: newHostResolvers(resolvConf, cfg.Resolvers),
	}
	if h.outside == nil {
		h.outside = hostOutside{}
	}
	h.forwarder = newDNSForwarder(h.dialUpstream)
	return h, nil
}

// run serves until ctx ends, and returns when all connections and goroutines have ended.
func (h *host) run(ctx context.Context) error {
	r, err := h.begin(ctx)
	if err != nil {
		return err
	}
	h.apply(h.tables())
	err = r.publish.serve(ctx)
	h.end(r)
	return err
}

func (h *host) begin(ctx context.Context) (*hostRun, error) {
	h.applyMu.Lock()
	defer h.applyMu.Unlock()
	r, err := newHostRun(ctx, h)
	if err != nil {
		return nil, err
	}
	if !h.live.CompareAndSwap(nil, r) {
		r.close()
		return nil, errors.New("the stack is running already")
	}
	return r, nil
}

func (h *host) end(r *hostRun) {
	h.applyMu.Lock()
	h.live.Store(nil)
	h.applyMu.Unlock()
	r.close()
	h.mu.Lock()
	h.ended = true
	servers := make([]*taskDNS, 0, len(h.dns))
	for s := range h.dns {
		servers = append(servers, s)
	}
	h.mu.Unlock()
	for _, s := range servers {
		_ = s.Close()
	}
}

// apply makes the stack's addresses, the published ports and the DNS servers at the gateways what the tables say, and ends the connections of
// what is not there any more.
func (h *host) apply(*tables) {
	h.applyMu.Lock()
	defer h.applyMu.Unlock()
	// Two calls may come in either order: the current tables are right for both.
	if r := h.live.Load(); r != nil {
		r.apply(h.tables())
	}
}

// inject implements hostPort.
func (h *host) inject(pkts []packet) {
	r := h.live.Load()
	if r == nil {
		return
	}
	for i := range pkts {
		if pkts[i].hdr.gso() != gsoUDPL4 {
			r.ip.link.deliver(pkts[i].ip)
			continue
		}
		// To the stack a super-packet of datagrams would be one large datagram.
		h.injectSplit(r, pkts[i].take())
	}
}

func (h *host) injectSplit(r *hostRun, p packet) {
	var s splitter
	if !s.begin(p, maxIP) {
		return
	}
	chunk := chunks.Get().(*[]byte)
	defer chunks.Put(chunk)
	for s.more() {
		n := s.next(*chunk)
		r.ip.link.deliver((*chunk)[:n])
	}
}

// hostRun is what exists while run runs.
type hostRun struct {
	h        *host
	ctx      context.Context // ends with run; for the dials of flows, which no caller waits for
	cancel   context.CancelFunc
	ip       *ipStack
	publish  *publisher
	egress   *egress
	gateways *gatewayDNS

	mu    sync.Mutex
	ended bool
	flows sync.WaitGroup
}

func newHostRun(ctx context.Context, h *host) (*hostRun, error) {
	ip, err := newIPStack(&hostLink{out: h.out, mtu: uint32(h.cfg.MTU)})
	if err != nil {
		return nil, fmt.Errorf("start the IP stack: %w", err)
	}
	r := &hostRun{h: h, ip: ip}
	r.ctx, r.cancel = context.WithCancel(ctx)
	r.gateways = newGatewayDNS(r)
	r.publish = newPublisher(r)
	r.egress = newEgress(r)
	r.egress.start()
	return r, nil
}

func (r *hostRun) apply(t *tables) {
	if err := r.ip.setAddrs(stackAddrs(t)); err != nil {
		r.h.log.Error("set the stack's addresses", "err", err)
	}
	r.gateways.apply(t)
	r.publish.apply(t)
	r.egress.apply(t)
}

// stackAddrs are the addresses at which the stack itself answers.
func stackAddrs(t *tables) map[netip.Addr]struct{} {
	own := make(map[netip.Addr]struct{}, len(t.gateways)+1)
	if t.Self.IsValid() {
		own[t.Self] = struct{}{}
	}
	for a := range t.gateways {
		own[a] = struct{}{}
	}
	return own
}

// close ends everything and waits for it.
func (r *hostRun) close() {
	r.cancel()
	r.mu.Lock()
	r.ended = true
	r.mu.Unlock()
	r.publish.close()
	r.egress.close()
	r.gateways.close()
	r.ip.abortAll() // those whose handshake is under way, too
	r.flows.Wait()
	r.ip.close()
}

// spawn runs fn in a goroutine that close waits for; it must end soon after ctx has and its flow was cut. False: too late.
func (r *hostRun) spawn(fn func()) bool {
	if !r.enter() {
		return false
	}
	go func() {
		defer r.leave()
		fn()
	}()
	return true
}

// enter makes close wait for a leave by a goroutine that is already running.
func (r *hostRun) enter() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return false
	}
	r.flows.Add(1)
	return true
}

func (r *hostRun) leave() { r.flows.Done() }

// gatewayFor is the gateway address, of a's family, of the network that a is in; the zero Addr when there is none.
func gatewayFor(t *tables, a netip.Addr) netip.Addr {
	n := t.networkOf(a)
	if n == nil {
		return netip.Addr{}
	}
	for _, g := range n.Gateways {
		if g.Is4() == a.Is4() {
			return g
		}
	}
	return netip.Addr{}
}
