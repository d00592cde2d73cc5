package netstack

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
)

// DNSConfig describes the DNS server of one task.
type DNSConfig struct {
	TaskID string
	// NetworkIDs are the task's networks: it gets the union of their names.
	NetworkIDs []string
	// UDP and TCP are the sockets at the task's 127.0.0.11:53. The server owns them from ServeDNS on, also when that fails.
	UDP net.PacketConn
	TCP net.Listener
	// Upstream are the servers for all other names (a task's --dns); none means the host's.
	Upstream []netip.AddrPort
	// Internal is true when nobody outside may be asked, for all networks of the task are internal.
	Internal bool
}

// ServeDNS answers the DNS questions of a task until the returned Closer is closed, which waits for the server's goroutines, or Run ends.
func (n *Netstack) ServeDNS(cfg DNSConfig) (io.Closer, error) { return n.host.serveDNS(cfg) }

// taskDNS is the DNS server of a task.
type taskDNS struct {
	*dnsServer
	h *host
}

func (h *host) serveDNS(cfg DNSConfig) (io.Closer, error) {
	s := &taskDNS{h: h, dnsServer: h.newDNSServer(cfg.NetworkIDs, cfg.Upstream, cfg.Internal)}
	// All questions are one task's, from whatever address of its loopback network it asks.
	s.forwards = newGate(maxTaskForwards, maxTaskForwards)
	s.log = s.log.With("task", cfg.TaskID)
	s.start(cfg.UDP, cfg.TCP)
	h.mu.Lock()
	ended := h.ended
	if !ended {
		h.dns[s] = struct{}{}
	}
	h.mu.Unlock()
	if ended {
		_ = s.dnsServer.Close()
		return nil, errors.New("serve DNS: the netstack has stopped")
	}
	return s, nil
}

// Close implements io.Closer.
func (s *taskDNS) Close() error {
	s.h.mu.Lock()
	delete(s.h.dns, s)
	s.h.mu.Unlock()
	return s.dnsServer.Close()
}

// newDNSServer makes a server for the names of the networks. internal adds to what the networks say themselves.
func (h *host) newDNSServer(networkIDs []string, upstream []netip.AddrPort, internal bool) *dnsServer {
	networks := func() []*Network {
		t := h.tables()
		nets := make([]*Network, 0, len(networkIDs))
		for _, id := range networkIDs {
			if n := t.networks[id]; n != nil {
				nets = append(nets, n.Network)
			}
		}
		return nets
	}
	servers := func() dnsUpstream {
		switch {
		case len(upstream) > 0:
			return dnsUpstream{servers: reachableServers(h.tables(), networkIDs, upstream, internal), overlay: true}
		case internal:
			return dnsUpstream{}
		}
		return dnsUpstream{servers: h.resolvers.list()}
	}
	return &dnsServer{
		view: dnsView{
			networks: networks,
			overlay:  func(p netip.Prefix) bool { return inOverlay(h.tables(), p) },
			upstream: servers,
			closed:   func() bool { return internal && len(servers().servers) == 0 },
		},
		forward: h.forwarder, forwards: newGate(maxTaskForwards, maxDNSForwards), metrics: h.metrics, log: h.log,
	}
}

// reachableServers leaves those that a task may ask: servers in its own networks always, others only when it is not internal.
func reachableServers(t *tables, networkIDs []string, servers []netip.AddrPort, internal bool) []netip.AddrPort {
	var ok []netip.AddrPort
	for _, s := range servers {
		n := t.networkOf(s.Addr())
		switch {
		case n == nil && !internal && !t.inMesh(s.Addr()):
			ok = append(ok, s)
		case n != nil && slices.Contains(networkIDs, n.ID):
			ok = append(ok, s)
		}
	}
	return ok
}

func inOverlay(t *tables, p netip.Prefix) bool {
	if inside(t.MeshSubnet, p) {
		return true
	}
	for i := range t.subnets {
		if inside(t.subnets[i].prefix, p) {
			return true
		}
	}
	return false
}

func inside(outer, p netip.Prefix) bool {
	return outer.IsValid() && outer.Bits() <= p.Bits() && outer.Contains(p.Addr())
}

// dialUpstream reaches name servers: those in an overlay network through the stack, all others as the host.
func (h *host) dialUpstream(ctx context.Context, network string, to netip.AddrPort, overlay bool) (net.Conn, error) {
	gateway := gatewayFor(h.tables(), to.Addr())
	if !overlay || !gateway.IsValid() {
		return h.outside.DialContext(ctx, network, to)
	}
	r := h.live.Load()
	if r == nil {
		return nil, errors.New("the stack is not running")
	}
	from := netip.AddrPortFrom(gateway, 0)
	if network == "tcp" {
		c, err := r.ip.dialTCP(ctx, from, to)
		if err != nil {
			return nil, err
		}
		return c, nil
	}
	c, err := r.ip.dialUDP(from, to)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// gatewayDNS are the servers at the networks' gateways, port 53, inside the stack.
type gatewayDNS struct {
	run     *hostRun
	servers map[netip.Addr]gatewayServer // used by apply and close only, which do not overlap
}

type gatewayServer struct {
	network  string
	internal bool
	*dnsServer
}

func newGatewayDNS(r *hostRun) *gatewayDNS {
	return &gatewayDNS{run: r, servers: make(map[netip.Addr]gatewayServer)}
}

func (g *gatewayDNS) apply(t *tables) {
	for a, s := range g.servers {
		if n := t.gateways[a]; n == nil || n.ID != s.network || n.Internal != s.internal {
			delete(g.servers, a)
			_ = s.Close()
		}
	}
	for a, n := range t.gateways {
		if _, ok := g.servers[a]; ok {
			continue
		}
		if s, err := g.serve(a, n); err != nil {
			g.run.h.log.Error("serve DNS at the gateway", "network", n.ID, "addr", a, "err", err)
		} else {
			g.servers[a] = s
		}
	}
}

func (g *gatewayDNS) serve(a netip.Addr, n *network) (gatewayServer, error) {
	at := netip.AddrPortFrom(a, dnsPort)
	udp, err := g.run.ip.openUDP(at, netip.AddrPort{})
	if err != nil {
		return gatewayServer{}, err
	}
	tcp, err := g.run.ip.listenTCP(at)
	if err != nil {
		_ = udp.Close()
		return gatewayServer{}, err
	}
	s := g.run.h.newDNSServer([]string{n.ID}, nil, n.Internal)
	s.log = s.log.With("network", n.ID)
	s.start(udp, tcp)
	return gatewayServer{network: n.ID, internal: n.Internal, dnsServer: s}, nil
}

func (g *gatewayDNS) close() {
	for _, s := range g.servers {
		_ = s.Close()
	}
}
