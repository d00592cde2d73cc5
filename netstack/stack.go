package netstack

import (
	"fmt"
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

const (
	nicID = 1
	// maxTCPBuffer is what auto-tuning may grow a connection's buffer to: 6 MiB is Linux's tcp_rmem, and carries 1 Gbit/s over 50 ms.
	maxTCPBuffer = 8 << 20
	minTCPBuffer = 4 << 10
	tcpBuffer    = 256 << 10
	// timeWait is far below 2 MSL: no packet of ours survives two seconds between a stack and a task, and a busy published port would otherwise
	// hold tens of thousands of dead connections.
	timeWait = 2 * time.Second

	// A connection whose peer is gone is given up after keepaliveIdle + keepaliveCount * keepaliveInterval = 60 s, or when sent data stays
	// unacknowledged for userTimeout. gVisor's own default is two hours.
	keepaliveIdle     = 15 * time.Second
	keepaliveInterval = 15 * time.Second
	keepaliveCount    = 3
	userTimeout       = 60 * time.Second
)

// ipStack is the gVisor stack with one NIC, the fabric behind it. The NIC is promiscuous (a packet to any address may end here) and may spoof (a
// connection may start from any address), and the stack does not forward: promiscuous mode and forwarding do not go together in gVisor.
type ipStack struct {
	*stack.Stack
	link *hostLink

	mu  sync.Mutex
	own map[netip.Addr]struct{} // the addresses that the NIC has
}

// quietGVisor stops gVisor from telling of each odd packet of a task on the process's standard error; its log level is global.
var quietGVisor = sync.OnceFunc(func() { log.SetLevel(log.Warning) })

func newIPStack(link *hostLink) (*ipStack, error) {
	quietGVisor()
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})
	ip := &ipStack{Stack: s, link: link, own: make(map[netip.Addr]struct{})}
	if err := ip.configure(); err != nil {
		s.Destroy()
		return nil, err
	}
	return ip, nil
}

func (ip *ipStack) configure() error {
	if err := ip.configureTCP(); err != nil {
		return err
	}
	if err := ip.CreateNIC(nicID, ip.link); err != nil {
		return fmt.Errorf("create the stack's NIC: %s", err)
	}
	if err := ip.SetPromiscuousMode(nicID, true); err != nil {
		return fmt.Errorf("set promiscuous mode: %s", err)
	}
	if err := ip.SetSpoofing(nicID, true); err != nil {
		return fmt.Errorf("set spoofing: %s", err)
	}
	ip.SetRouteTable([]tcpip.Route{
		{Destination: header.IPv4EmptySubnet, NIC: nicID},
		{Destination: header.IPv6EmptySubnet, NIC: nicID},
	})
	return nil
}

func (ip *ipStack) configureTCP() error {
	sack := tcpip.TCPSACKEnabled(true)
	moderate := tcpip.TCPModerateReceiveBufferOption(true)
	send := tcpip.TCPSendBufferSizeRangeOption{Min: minTCPBuffer, Default: tcpBuffer, Max: maxTCPBuffer}
	recv := tcpip.TCPReceiveBufferSizeRangeOption{Min: minTCPBuffer, Default: tcpBuffer, Max: maxTCPBuffer}
	wait := tcpip.TCPTimeWaitTimeoutOption(timeWait)
	// RACK makes gVisor's sender take reordering for loss (gVisor issue 9778); SACK recovery is what it does well.
	recovery := tcpip.TCPRecovery(0)
	for _, opt := range []tcpip.SettableTransportProtocolOption{&sack, &moderate, &send, &recv, &wait, &recovery} {
		if err := ip.SetTransportProtocolOption(tcp.ProtocolNumber, opt); err != nil {
			return fmt.Errorf("set TCP option %T: %s", opt, err)
		}
	}
	return nil
}

// setAddrs makes want the addresses of the NIC. Connections and listeners on an address that goes away are the business of their owners.
func (ip *ipStack) setAddrs(want map[netip.Addr]struct{}) error {
	ip.mu.Lock()
	defer ip.mu.Unlock()
	for a := range ip.own {
		if _, ok := want[a]; ok {
			continue
		}
		if err := ip.RemoveAddress(nicID, tcpipAddr(a)); err != nil {
			return fmt.Errorf("remove address %s: %s", a, err)
		}
		delete(ip.own, a)
	}
	for a := range want {
		if _, ok := ip.own[a]; ok {
			continue
		}
		pa := tcpip.ProtocolAddress{Protocol: protocolOf(a), AddressWithPrefix: tcpipAddr(a).WithPrefix()}
		if err := ip.AddProtocolAddress(nicID, pa, stack.AddressProperties{}); err != nil {
			return fmt.Errorf("add address %s: %s", a, err)
		}
		ip.own[a] = struct{}{}
	}
	return nil
}

// has reports whether a is one of the stack's own addresses.
func (ip *ipStack) has(a netip.Addr) bool {
	ip.mu.Lock()
	defer ip.mu.Unlock()
	_, ok := ip.own[a]
	return ok
}

// abortAll resets all connections, and wakes who waits for them.
func (ip *ipStack) abortAll() {
	for _, ep := range ip.RegisteredEndpoints() {
		ep.Abort()
	}
}

// close ends all connections and waits for the stack's goroutines.
func (ip *ipStack) close() { ip.Destroy() }

func protocolOf(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return ipv4.ProtocolNumber
	}
	return ipv6.ProtocolNumber
}

func tcpipAddr(a netip.Addr) tcpip.Address { return tcpip.AddrFromSlice(a.AsSlice()) }

func fullAddr(ap netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nicID, Addr: tcpipAddr(ap.Addr()), Port: ap.Port()}
}

// netipAddr is the reverse of tcpipAddr; the address of a v4 packet is a v4 address.
func netipAddr(a tcpip.Address) netip.Addr {
	addr, _ := netip.AddrFromSlice(a.AsSlice())
	return addr
}
