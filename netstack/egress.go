package netstack

import (
	"context"
	"net"
	"net/netip"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// Outside is the world outside of the overlay networks as the host's own processes reach it.
type Outside interface {
	// DialContext connects to an address; network is "tcp" or "udp". A *net.TCPConn and a *net.UDPConn are served best.
	DialContext(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error)
}

// hostOutside is the Outside of sockets of this process.
type hostOutside struct{}

func (hostOutside) DialContext(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	d := net.Dialer{KeepAliveConfig: hostKeepalive, Control: func(network, _ string, c syscall.RawConn) error {
		return controlUserTimeout(network, c)
	}}
	return d.DialContext(ctx, network, to.String())
}

const (
	// The half-open connections of one task and of all. tcp.Forwarder has neither SYN cookies nor a bound for each source.
	maxTaskHalfOpen = 256
	maxHalfOpen     = 2048
	// The connections of one task and of all; each takes a descriptor of this process.
	maxTaskConns   = 4096
	maxEgressConns = 16384
	// The UDP flows of one task and of all.
	maxTaskUDPFlows = 512
	maxUDPFlows     = 8192
	// egressDialTimeout is how long the outside may take to accept. The task's SYNs are not answered meanwhile.
	egressDialTimeout = 30 * time.Second
)

// egress carries what tasks send to the outside: gVisor ends the task's connection, an ordinary socket of this process continues it.
type egress struct {
	ip      *ipStack
	tables  func() *tables
	outside Outside
	run     *hostRun

	tcp      *tcp.Forwarder
	udp      *udp.Forwarder
	halfOpen *halfOpen
	conns    *gate
	udpFlows *gate
	pings    *pinger
	flows    flowSet[netip.Addr] // by task
}

func newEgress(run *hostRun) *egress {
	e := &egress{
		ip: run.ip, tables: run.h.tables, outside: run.h.outside, run: run,
		halfOpen: newHalfOpen(maxTaskHalfOpen, maxHalfOpen),
		conns:    newGate(maxTaskConns, maxEgressConns),
		udpFlows: newGate(maxTaskUDPFlows, maxUDPFlows),
	}
	e.tcp = tcp.NewForwarder(run.ip.Stack, 0, maxHalfOpen, e.forwardTCP)
	e.udp = udp.NewForwarder(run.ip.Stack, e.forwardUDP)
	e.pings = newPinger(run)
	return e
}

// start takes over what no socket of the stack waits for. A handler that returns false leaves the packet to gVisor, which answers a TCP segment
// with a reset and a datagram with "port unreachable".
func (e *egress) start() {
	e.ip.SetTransportProtocolHandler(tcp.ProtocolNumber, e.handleTCP)
	e.ip.SetTransportProtocolHandler(udp.ProtocolNumber, e.handleUDP)
	e.ip.SetTransportProtocolHandler(icmp.ProtocolNumber4, e.handleICMP)
	e.ip.SetTransportProtocolHandler(icmp.ProtocolNumber6, e.handleICMP)
}

// apply cuts the connections of tasks that are no longer here, or whose network may no longer reach the outside.
func (e *egress) apply(t *tables) {
	e.flows.retain(func(task netip.Addr) bool {
		n := t.networkOf(task)
		if n == nil || n.Internal {
			return false
		}
		_, known := t.endpoints[task]
		return known
	})
}

func (e *egress) close() {
	e.flows.close()
	e.pings.close()
}

// permitted reports whether a packet from src to dst may leave, counting the refusal.
func (e *egress) permitted(src, dst netip.Addr, protocol string) bool {
	if mayLeave(e.tables(), src, dst) {
		return true
	}
	e.run.h.metrics.egress.WithLabelValues(protocol, "denied").Inc()
	return false
}

// mayLeave is the rule of egress: the source is in a network that is not internal, and the destination is a unicast address of the outside.
func mayLeave(t *tables, src, dst netip.Addr) bool {
	n := t.networkOf(src)
	if n == nil || n.Internal || t.inMesh(src) {
		return false
	}
	if _, gateway := t.gateways[src]; gateway {
		return false
	}
	return isOutside(t, dst)
}

// metadataIPv6 is the one well-known metadata address of clouds that is not link-local.
var metadataIPv6 = netip.MustParseAddr("fd00:ec2::254")

// Ranges that IsGlobalUnicast lets pass and a connect would take to the host itself ("this network", RFC 1122 section 3.2.1.3), or that carry
// another address inside: v4-compatible (RFC 4291 section 2.5.5.1), NAT64 (RFC 6052) and 6to4 (RFC 3056). The inner address must be allowed too.
var (
	thisNetwork  = netip.MustParsePrefix("0.0.0.0/8")
	v4Compatible = netip.MustParsePrefix("::/96")
	nat64        = netip.MustParsePrefix("64:ff9b::/96")
	sixToFour    = netip.MustParsePrefix("2002::/16")
)

// isOutside reports whether a is neither the host's own (loopback, unspecified), nor link-local, multicast or broadcast, nor of an overlay
// network or the mesh, in whatever notation.
func isOutside(t *tables, a netip.Addr) bool {
	if a.Is4In6() || a.Zone() != "" || !a.IsGlobalUnicast() || a == metadataIPv6 {
		return false
	}
	if t.inMesh(a) || t.networkOf(a) != nil {
		return false
	}
	if a.Is4() {
		return !thisNetwork.Contains(a)
	}
	b := a.As16()
	switch {
	case v4Compatible.Contains(a), nat64.Contains(a):
		return isOutside(t, netip.AddrFrom4([4]byte(b[12:])))
	case sixToFour.Contains(a):
		return isOutside(t, netip.AddrFrom4([4]byte(b[2:6])))
	}
	return true
}

func idAddrs(id stack.TransportEndpointID) (src, dst netip.AddrPort) {
	return netip.AddrPortFrom(netipAddr(id.RemoteAddress), id.RemotePort), netip.AddrPortFrom(netipAddr(id.LocalAddress), id.LocalPort)
}
