package agent

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ownAddr is the address that this machine uses towards others: that of the default route, or the only one it has.
func ownAddr() (netip.Addr, error) {
	// Connecting a datagram socket sends nothing; it asks the kernel which source address it would take.
	if c, err := net.Dial("udp4", "192.0.2.1:9"); err == nil {
		defer c.Close()
		if ap, ok := c.LocalAddr().(*net.UDPAddr); ok {
			return ap.AddrPort().Addr().Unmap(), nil
		}
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Addr{}, fmt.Errorf("list this machine's addresses: %w", err)
	}
	var own []netip.Addr
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && !p.Addr().IsLoopback() {
			own = append(own, p.Addr())
		}
	}
	switch len(own) {
	case 0:
		return netip.AddrFrom4([4]byte{127, 0, 0, 1}), nil // a machine on its own
	case 1:
		return own[0], nil
	}
	return netip.Addr{}, fmt.Errorf("this machine has several addresses (%s) and no default route: choose one with --advertise-addr", join(own))
}

func join(addrs []netip.Addr) string {
	var b strings.Builder
	for i, a := range addrs {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(a.String())
	}
	return b.String()
}

// hostPrefixes are the networks that this machine routes itself. Overlays stay out of them, so that a task never loses
// the way to a real neighbour. The default route and loopback do not count.
func hostPrefixes() ([]netip.Prefix, error) {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list this machine's routes: %w", err)
	}
	var out []netip.Prefix
	for _, r := range routes {
		if r.Dst == nil {
			continue
		}
		addr, ok := netip.AddrFromSlice(r.Dst.IP)
		ones, _ := r.Dst.Mask.Size()
		p := netip.PrefixFrom(addr.Unmap(), ones)
		if !ok || ones == 0 || !p.IsValid() || addr.IsLoopback() || addr.IsMulticast() || addr.IsLinkLocalUnicast() {
			continue
		}
		out = append(out, p.Masked())
	}
	slices.SortFunc(out, func(a, b netip.Prefix) int {
		return strings.Compare(a.String(), b.String())
	})
	return slices.Compact(out), nil
}

// minPort is the lowest port that this process may listen on.
func minPort() uint16 {
	if mayBindLow() {
		return 1
	}
	b, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")
	if err != nil {
		return 1024
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 16)
	if err != nil {
		return 1024
	}
	return uint16(max(n, 1))
}

// mayBindLow tells whether the process holds CAP_NET_BIND_SERVICE.
func mayBindLow() bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return false
	}
	return data[0].Effective&(1<<unix.CAP_NET_BIND_SERVICE) != 0
}
