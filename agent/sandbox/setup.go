package sandbox

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Policy routing: device i has table tableBase+i, looked up for its own source addresses at priority rulePriority.
const (
	tableBase    = 100
	rulePriority = 1000
)

// device is one interface that was set up: the descriptor is a plain number because it must survive exec.
type device struct {
	DeviceSpec
	kind Kind
	fd   int
	mac  net.HardwareAddr
}

// setup builds the namespace's network.
type setup struct {
	devices        []device
	dnsUDP, dnsTCP int
	warnings       []string
	packets        *packetNamespace
	noRules        bool
}

func (s *setup) run(spec Spec) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find loopback: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set loopback up: %w", err)
	}
	defer s.closePackets()
	kind := spec.Kind
	for i, d := range spec.Devices {
		dev, err := s.open(d, &kind)
		if err != nil {
			return fmt.Errorf("device %s: %w", d.Name, err)
		}
		s.devices = append(s.devices, dev)
		if err := s.configure(dev, tableBase+i); err != nil {
			return fmt.Errorf("device %s: %w", d.Name, err)
		}
	}
	s.dnsUDP, s.dnsTCP, err = openDNS()
	return err
}

// open creates the device. The first device decides the kind where the spec leaves it open.
func (s *setup) open(d DeviceSpec, kind *Kind) (device, error) {
	if *kind != KindPacket {
		fd, err := openTUN(d.Name)
		if err == nil {
			*kind = KindTUN
			return device{DeviceSpec: d, kind: KindTUN, fd: fd}, nil
		}
		if *kind == KindTUN {
			return device{}, err
		}
		s.warn("no TUN here (%v): veth pairs instead", err)
		*kind = KindPacket
	}
	if s.packets == nil {
		ns, err := newPacketNamespace()
		if err != nil {
			return device{}, err
		}
		s.packets = ns
	}
	fd, mac, err := s.packets.open(d)
	if err != nil {
		return device{}, err
	}
	return device{DeviceSpec: d, kind: KindPacket, fd: fd, mac: mac}, nil
}

func (s *setup) closePackets() {
	if s.packets != nil {
		s.packets.close()
	}
}

// configure gives the task's side of a device its MTU, addresses and routes.
func (s *setup) configure(d device, table int) error {
	link, err := netlink.LinkByName(d.Name)
	if err != nil {
		return fmt.Errorf("find it: %w", err)
	}
	quietIPv6(link)
	if err := netlink.LinkSetMTU(link, d.MTU); err != nil {
		return fmt.Errorf("set MTU %d: %w", d.MTU, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	for _, a := range d.Addrs {
		addr := &netlink.Addr{IPNet: ipNet(a)}
		if a.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("add address %s: %w", a, err)
		}
	}
	index := link.Attrs().Index
	for _, g := range d.Gateways {
		if d.Default {
			if err := netlink.RouteAdd(&netlink.Route{LinkIndex: index, Dst: everywhere(g), Gw: g.AsSlice(), Flags: int(netlink.FLAG_ONLINK)}); err != nil {
				return fmt.Errorf("add default route via %s: %w", g, err)
			}
		}
	}
	return s.policy(d, index, table)
}

// policy makes packets that carry one of the device's addresses leave by that device, whatever the default route says:
// answers to published ports have to go back where they came from.
func (s *setup) policy(d device, index, table int) error {
	if s.noRules {
		return nil
	}
	for _, a := range d.Addrs {
		rule := netlink.NewRule()
		rule.Family = family(a.Addr())
		rule.Src = ipNet(netip.PrefixFrom(a.Addr(), a.Addr().BitLen()))
		rule.Table, rule.Priority = table, rulePriority+table
		if err := netlink.RuleAdd(rule); err != nil {
			if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT) {
				s.noRules = true
				s.warn("this kernel has no policy routing: answers leave by the default route")
				return nil
			}
			return fmt.Errorf("add rule for %s: %w", a.Addr(), err)
		}
		route := &netlink.Route{LinkIndex: index, Table: table, Dst: ipNet(a.Masked()), Src: a.Addr().AsSlice(), Scope: netlink.SCOPE_LINK}
		if err := netlink.RouteReplace(route); err != nil {
			return fmt.Errorf("add route to %s in table %d: %w", a.Masked(), table, err)
		}
	}
	for _, g := range d.Gateways {
		route := &netlink.Route{LinkIndex: index, Table: table, Dst: everywhere(g), Gw: g.AsSlice(), Flags: int(netlink.FLAG_ONLINK)}
		if err := netlink.RouteReplace(route); err != nil {
			return fmt.Errorf("add default route via %s in table %d: %w", g, table, err)
		}
	}
	return nil
}

func (s *setup) warn(format string, args ...any) {
	if len(s.warnings) < maxWarnings {
		s.warnings = append(s.warnings, fmt.Sprintf(format, args...))
	}
}

// files lists the descriptors in the order in which they are handed over.
func (s *setup) files() []int {
	out := []int{s.dnsUDP, s.dnsTCP}
	for _, d := range s.devices {
		out = append(out, d.fd)
	}
	return out
}

func (s *setup) reply() reply {
	r := reply{Version: protocolVersion, Warnings: s.warnings}
	for _, d := range s.devices {
		dr := deviceReply{DeviceSpec: d.DeviceSpec, Kind: d.kind}
		if d.mac != nil {
			dr.MAC = d.mac.String()
		}
		r.Devices = append(r.Devices, dr)
	}
	return r
}

// quietIPv6 keeps the kernel from inventing link-local addresses. Where IPv6 is off that is refused, and not needed.
func quietIPv6(link netlink.Link) {
	_ = netlink.LinkSetIP6AddrGenMode(link, int(nl6GenNone))
}

const nl6GenNone = 1 // IN6_ADDR_GEN_MODE_NONE, linux/if_link.h

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func everywhere(a netip.Addr) *net.IPNet {
	zero := netip.IPv4Unspecified()
	if a.Is6() {
		zero = netip.IPv6Unspecified()
	}
	return ipNet(netip.PrefixFrom(zero, 0))
}

func family(a netip.Addr) int {
	if a.Is6() {
		return netlink.FAMILY_V6
	}
	return netlink.FAMILY_V4
}
