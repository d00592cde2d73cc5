package netstack

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// closedOutside refuses everything.
type closedOutside struct{}

func (closedOutside) DialContext(context.Context, string, netip.AddrPort) (net.Conn, error) {
	return nil, syscall.ECONNREFUSED
}

// FuzzInject gives the stack what a task may send. The first byte cuts the input in two packets, for fragments.
func FuzzInject(f *testing.F) {
	src, dst := netip.MustParseAddr("10.1.0.10"), netip.MustParseAddr("203.0.113.9")
	syn := header.TCP(make([]byte, header.TCPMinimumSize))
	syn.Encode(&header.TCPFields{SrcPort: 4000, DstPort: 80, DataOffset: header.TCPMinimumSize, Flags: header.TCPFlagSyn})
	udp := []byte{0, 9, 0, 53, 0, 8, 0, 0}
	ping := []byte{icmpEchoRequest4, 0, 0xf7, 0xff, 0, 0, 0, 0}
	for _, to := range []netip.Addr{dst, netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("100.127.0.1")} {
		f.Add(append([]byte{0}, append(ipHeader(src, to, protoTCP, len(syn)), syn...)...))
		f.Add(append([]byte{0}, append(ipHeader(src, to, protoUDP, len(udp)), udp...)...))
		f.Add(append([]byte{0}, append(ipHeader(src, to, protoICMP, len(ping)), ping...)...))
	}
	f.Add(append([]byte{0}, ipHeader(netip.MustParseAddr("fd00::1"), netip.MustParseAddr("2001:db8::1"), protoICMPv6, 0)...))
	frag := ipHeader(src, dst, protoUDP, len(udp))
	frag[6] = 0x20 // more fragments
	setIPv4Csum(frag)
	f.Add(append([]byte{byte(len(frag) + len(udp))}, append(append(frag, udp...), append(ipHeader(src, dst, protoUDP, 8), udp...)...)...))

	n := &testNode{self: netip.MustParseAddr("100.127.0.1")}
	n.tabs.Store(compile(&Tables{}))
	h, err := newHostOn(Config{MTU: DefaultMTU, Outside: closedOutside{}, Logger: slog.New(slog.DiscardHandler)}, func([]packet) {}, n.tabs.Load)
	if err != nil {
		f.Fatal(err)
	}
	n.host = h
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.run(ctx) }()
	f.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			f.Errorf("run: %v", err)
		}
	})
	eventually(f, "the stack runs", func() bool { return h.live.Load() != nil })
	h.live.Load().egress.pings.open = func(netip.Addr) (net.Conn, error) { return nil, syscall.EACCES }
	n.set(egressTables())
	f.Fuzz(func(_ *testing.T, b []byte) {
		if len(b) == 0 {
			return
		}
		cut := min(int(b[0]), len(b)-1)
		for _, ip := range [][]byte{b[1 : 1+cut], b[1+cut:]} {
			n.inject(ip)
		}
	})
}
