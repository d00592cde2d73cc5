package netstack

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/meshswarm/meshswarm/netstack/netstacktest"
)

const (
	node1 = "100.127.0.1"
	node2 = "100.127.0.2"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// twoNetworks is: network a with tasks 2 and 3 on node 1, 4 on node 2, and in IPv6 alike; network b with task 2 on
// node 1; an internal one; the ingress network.
func twoNetworks() *Tables {
	a := Network{ID: "a", Subnets: []netip.Prefix{netip.MustParsePrefix("10.0.16.0/24"), netip.MustParsePrefix("fd00:16::/64")},
		Gateways: []netip.Addr{addr("10.0.16.1"), addr("fd00:16::1")}}
	for i, n := range map[int]string{2: node1, 3: node1, 4: node2} {
		a.Endpoints = append(a.Endpoints, Endpoint{addr(fmt.Sprintf("10.0.16.%d", i)), addr(n)}, Endpoint{addr(fmt.Sprintf("fd00:16::%d", i)), addr(n)})
	}
	b := Network{ID: "b", Subnets: []netip.Prefix{netip.MustParsePrefix("10.0.17.0/24")}, Gateways: []netip.Addr{addr("10.0.17.1")},
		Endpoints: []Endpoint{{addr("10.0.17.2"), addr(node1)}},
		VIPs:      []VIP{{Addr: addr("10.0.17.50"), Backends: []Backend{{Addr: addr("10.0.17.2")}}}}}
	in := Network{ID: "in", Internal: true, Subnets: []netip.Prefix{netip.MustParsePrefix("10.0.18.0/24")}, Gateways: []netip.Addr{addr("10.0.18.1")},
		Endpoints: []Endpoint{{addr("10.0.18.2"), addr(node1)}}}
	ing := Network{ID: "ing", Ingress: true, Subnets: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/20")}, Gateways: []netip.Addr{addr("10.0.0.1")},
		Endpoints: []Endpoint{{addr("10.0.0.2"), addr(node1)}, {addr("10.0.0.3"), addr(node1)}, {addr("10.0.0.4"), addr(node2)}},
		VIPs:      []VIP{{Addr: addr("10.0.0.50"), Backends: []Backend{{Addr: addr("10.0.0.3")}}}}}
	return &Tables{Networks: []Network{a, b, in, ing}}
}

func TestRoutes(t *testing.T) {
	n1, n2 := newFabricNode(t, node1), newFabricNode(t, node2)
	n1.set(twoNetworks())
	n2.set(twoNetworks())
	join(t, n1, n2)
	a2 := n1.task("a2", "a", TUN, nil, "10.0.16.2", "fd00:16::2")
	a3 := n1.task("a3", "a", Packet, nil, "10.0.16.3", "fd00:16::3")
	a4 := n2.task("a4", "a", Packet, nil, "10.0.16.4", "fd00:16::4")
	n1.task("b2", "b", TUN, nil, "10.0.17.2")

	for _, tc := range []struct {
		name     string
		from, to *testTaskLink
		pkt      []byte
	}{
		{"same node", a2, a3, datagram("10.0.16.2:1", "10.0.16.3:2", []byte("hello"))},
		{"same node, IPv6", a3, a2, datagram("[fd00:16::3]:1", "[fd00:16::2]:2", []byte("hello"))},
		{"other node", a2, a4, segment("10.0.16.2:1", "10.0.16.4:2", 1, 0, tcpSYN, nil)},
		{"other node, IPv6", a4, a2, segment("[fd00:16::4]:1", "[fd00:16::2]:2", 1, 0, tcpSYN, nil)},
		{"ping", a2, a3, ping("10.0.16.2", "10.0.16.3")},
		{"ping of the other node", a4, a2, ping("10.0.16.4", "10.0.16.2")},
		{"ping of the other node, IPv6", a2, a4, ping("fd00:16::2", "fd00:16::4")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.from.send(tc.pkt)
			if _, got := tc.to.recv(); !bytes.Equal(got, tc.pkt) {
				t.Errorf("got %x\nwant %x", got, tc.pkt)
			}
		})
	}
}

func TestPartialChecksumIsFinishedForThePeerOnly(t *testing.T) {
	n1, n2 := newFabricNode(t, node1), newFabricNode(t, node2)
	n1.set(twoNetworks())
	n2.set(twoNetworks())
	join(t, n1, n2)
	a2 := n1.task("a2", "a", Packet, nil, "10.0.16.2")
	a3 := n1.task("a3", "a", Packet, nil, "10.0.16.3")
	a4 := n2.task("a4", "a", TUN, nil, "10.0.16.4")
	for _, dst := range []string{"10.0.16.3:2", "10.0.16.4:2"} {
		for _, pkt := range [][]byte{datagram("10.0.16.2:1", dst, []byte("odd")), segment("10.0.16.2:1", dst, 7, 8, tcpACK, []byte("x"))} {
			a2.sendHdr(partial(pkt), pkt)
			to := a3
			if dst == "10.0.16.4:2" {
				to = a4
			}
			v, got := to.recv()
			if v.needsCsum() != (to == a3) {
				t.Errorf("%s: partial checksum is %v", dst, v.needsCsum())
			}
			wantTuple(t, got, "10.0.16.2:1", dst)
		}
	}
}

func TestDrops(t *testing.T) {
	n1 := newFabricNode(t, node1)
	n1.set(twoNetworks())
	a2 := n1.task("a2", "a", TUN, nil, "10.0.16.2", "fd00:16::2")
	a3 := n1.task("a3", "a", TUN, nil, "10.0.16.3", "fd00:16::3")
	b2 := n1.task("b2", "b", TUN, nil, "10.0.17.2")
	in2 := n1.task("in2", "in", TUN, nil, "10.0.18.2")
	i2 := n1.task("i2", "ing", TUN, nil, "10.0.0.2")
	i3 := n1.task("i3", "ing", TUN, nil, "10.0.0.3")
	lost := n1.task("lost", "not in the tables", TUN, nil, "10.9.9.9")
	udp := func(src, dst string) []byte { return datagram(src+":1", dst+":53", []byte("x")) }
	udp6 := func(src, dst string) []byte { return datagram("["+src+"]:1", "["+dst+"]:53", []byte("x")) }
	bad := udp("10.0.16.2", "10.0.16.3")
	bad[0] = 0x4f

	for _, tc := range []struct {
		name   string
		from   *testTaskLink
		pkt    []byte
		reason dropReason
	}{
		{"source of a neighbour", a2, udp("10.0.16.3", "10.0.16.2"), dropSource},
		{"source of a VIP", a2, udp("10.0.17.50", "10.0.16.3"), dropSource},
		{"source loopback", a2, udp("127.0.0.1", "10.0.16.3"), dropSource},
		{"source of a neighbour, IPv6", a2, udp6("fd00:16::3", "fd00:16::2"), dropSource},
		{"source link-local", a2, udp6("fe80::1", "fd00:16::3"), dropSource},
		{"own address in another network", a2, udp("10.0.17.2", "10.0.17.1"), dropSource},
		{"task of another network", a2, udp("10.0.16.2", "10.0.17.2"), dropIsolation},
		{"VIP of another network", a2, udp("10.0.16.2", "10.0.17.50"), dropIsolation},
		{"gateway of another network", a2, udp("10.0.16.2", "10.0.17.1"), dropIsolation},
		{"ping of another network's gateway", a2, ping("10.0.16.2", "10.0.17.1"), dropIsolation},
		{"free address of another network", a2, udp("10.0.16.2", "10.0.17.99"), dropIsolation},
		{"ingress task from an overlay", a2, udp("10.0.16.2", "10.0.0.2"), dropIsolation},
		{"mesh address", a2, udp("10.0.16.2", node2), dropIsolation},
		{"own mesh address", a2, udp("10.0.16.2", node1), dropIsolation},
		{"free address", a2, udp("10.0.16.2", "10.0.16.99"), dropNoRoute},
		{"ingress to ingress", i2, udp("10.0.0.2", "10.0.0.3"), dropIsolation},
		{"ingress to ingress, other node", i2, udp("10.0.0.2", "10.0.0.4"), dropIsolation},
		{"ingress to the VIP of another service", i2, udp("10.0.0.2", "10.0.0.50"), dropIsolation},
		{"ping of the VIP of another service", i2, ping("10.0.0.2", "10.0.0.50"), dropIsolation},
		{"internal to the outside", in2, udp("10.0.18.2", "192.0.2.1"), dropInternal},
		{"loopback", a2, udp("10.0.16.2", "127.0.0.1"), dropNotRoutable},
		{"loopback, IPv6", a2, udp6("fd00:16::2", "::1"), dropNotRoutable},
		{"unspecified", a2, udp("10.0.16.2", "0.0.0.0"), dropNotRoutable},
		{"multicast", a2, udp("10.0.16.2", "224.0.0.1"), dropNotRoutable},
		{"broadcast", a2, udp("10.0.16.2", "255.255.255.255"), dropNotRoutable},
		{"metadata service", a2, udp("10.0.16.2", "169.254.169.254"), dropNotRoutable},
		{"router solicitation", a2, udp6("fd00:16::2", "ff02::2"), dropNotRoutable},
		{"mapped loopback", a2, udp6("fd00:16::2", "::ffff:127.0.0.1"), dropNotRoutable},
		{"malformed", a2, bad, dropMalformed},
		{"network unknown", lost, udp("10.9.9.9", "192.0.2.1"), dropNoNetwork},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := n1.metrics.drops[tc.reason].Load()
			tc.from.send(tc.pkt)
			n1.wantDrop(tc.reason, before)
		})
	}
	for _, k := range []*testTaskLink{a2, a3, b2, in2, i2, i3} {
		k.never()
	}
	if len(n1.got) != 0 {
		t.Errorf("the stack got %x", <-n1.got)
	}
}

func TestMeshDrops(t *testing.T) {
	n1 := newFabricNode(t, node1)
	n1.set(twoNetworks())
	a2 := n1.task("a2", "a", TUN, nil, "10.0.16.2")
	b2 := n1.task("b2", "b", TUN, nil, "10.0.17.2")
	i2 := n1.task("i2", "ing", TUN, nil, "10.0.0.2")
	udp := func(src, dst string) []byte { return datagram(src+":1", dst+":53", []byte("x")) }
	for _, tc := range []struct {
		name   string
		pkt    []byte
		reason dropReason
	}{
		{"source on this node", udp("10.0.16.3", "10.0.16.2"), dropSource},
		{"source is the receiver", udp("10.0.16.2", "10.0.16.2"), dropSource},
		{"source nobody has", udp("192.0.2.1", "10.0.16.2"), dropSource},
		{"source loopback", udp("127.0.0.1", "10.0.16.2"), dropSource},
		{"source multicast", udp("224.0.0.1", "10.0.16.2"), dropSource},
		{"source VIP", udp("10.0.17.50", "10.0.17.2"), dropSource},
		{"other network", udp("10.0.16.4", "10.0.17.2"), dropIsolation},
		{"ingress", udp("10.0.0.4", "10.0.0.2"), dropIsolation},
		{"task is not here", udp("10.0.16.4", "10.0.16.9"), dropNoRoute},
		{"outside", udp("10.0.16.4", "192.0.2.1"), dropNoRoute},
		{"own mesh address from a task", udp("10.0.16.4", node1), dropSource},
		{"own mesh address from itself", udp(node1, node1), dropSource},
		{"malformed", []byte{0x45, 0}, dropMalformed},
		{"empty", nil, dropMalformed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := n1.metrics.drops[tc.reason].Load()
			_, _ = n1.mesh.Write([][]byte{append(make([]byte, 16), tc.pkt...)}, 16)
			n1.wantDrop(tc.reason, before)
		})
	}
	for _, k := range []*testTaskLink{a2, b2, i2} {
		k.never()
	}
	pkt := udp(node2, node1)
	_, _ = n1.mesh.Write([][]byte{append(make([]byte, 16), pkt...)}, 16)
	if got := <-n1.got; !bytes.Equal(got, pkt) {
		t.Errorf("the stack got %x, want %x", got, pkt)
	}
}

func TestHost(t *testing.T) {
	n1 := newFabricNode(t, node1)
	n1.set(twoNetworks())
	a2 := n1.task("a2", "a", TUN, nil, "10.0.16.2")
	i2 := n1.task("i2", "ing", TUN, nil, "10.0.0.2")

	for _, tc := range []struct {
		from *testTaskLink
		pkt  []byte
	}{
		{a2, datagram("10.0.16.2:1", "192.0.2.1:53", []byte("egress"))},
		{a2, datagram("10.0.16.2:1", "10.0.16.1:53", []byte("gateway"))},
		{i2, segment("10.0.0.2:80", "203.0.113.7:4711", 1, 2, tcpSYN|tcpACK, nil)},
	} {
		tc.from.send(tc.pkt)
		select {
		case got := <-n1.got:
			if !bytes.Equal(got, tc.pkt) {
				t.Errorf("the stack got %x, want %x", got, tc.pkt)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("the stack got nothing: %v", n1.drops())
		}
	}
	back := segment("203.0.113.7:4711", "10.0.0.2:80", 1, 2, tcpACK, []byte("GET"))
	p, _ := newPacket(len(back))
	copy(p.ip, back)
	pkts := []packet{p}
	n1.fromHost(pkts)
	releaseAll(pkts)
	if _, got := i2.recv(); !bytes.Equal(got, back) {
		t.Errorf("the task got %x, want %x", got, back)
	}
}

func TestEchoIsAnswered(t *testing.T) {
	n1 := newFabricNode(t, node1)
	n1.set(twoNetworks())
	a2 := n1.task("a2", "a", TUN, nil, "10.0.16.2", "fd00:16::2")
	b2 := n1.task("b2", "b", Packet, nil, "10.0.17.2")
	for _, tc := range []struct {
		task     *testTaskLink
		src, dst string
	}{
		{a2, "10.0.16.2", "10.0.16.1"},
		{a2, "fd00:16::2", "fd00:16::1"},
		{b2, "10.0.17.2", "10.0.17.50"},
	} {
		tc.task.send(ping(tc.src, tc.dst))
		_, got := tc.task.recv()
		if ipSrc(got) != addr(tc.dst) || ipDst(got) != addr(tc.src) {
			t.Errorf("answer from %s to %s", ipSrc(got), ipDst(got))
		}
		if !bytes.Contains(got, []byte("are you there?")) {
			t.Error("the answer lost its payload")
		}
	}
}

func TestTooBigForTheMesh(t *testing.T) {
	n1 := newFabricNode(t, node1)
	n1.set(twoNetworks())
	a2 := n1.task("a2", "a", TUN, nil, "10.0.16.2", "fd00:16::2")
	for _, tc := range []struct {
		pkt  []byte
		want []byte // type, code
	}{
		{datagram("10.0.16.2:1", "10.0.16.4:2", make([]byte, 1500)), []byte{3, 4}},
		{datagram("[fd00:16::2]:1", "[fd00:16::4]:2", make([]byte, 1500)), []byte{2, 0}},
	} {
		a2.send(tc.pkt)
		_, got := a2.recv()
		ip, h, _ := parse(got)
		m := ip[h.l4:]
		if !bytes.Equal(m[:2], tc.want) || int(m[6])<<8|int(m[7]) != DefaultMTU {
			t.Errorf("error %x, want type and code %x and the MTU", m[:8], tc.want)
		}
	}
}

func TestAttach(t *testing.T) {
	n1 := newFabricNode(t, node1)
	n1.set(twoNetworks())
	first := n1.task("a2", "a", TUN, nil, "10.0.16.2")
	f, dev, err := netstacktest.NewTUN()
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	if _, err := n1.attach(LinkConfig{TaskID: "other", NetworkID: "a", Addrs: []netip.Addr{addr("10.0.16.2")}, Kind: TUN, File: f}); !errors.Is(err, ErrAddressInUse) {
		t.Errorf("second task with the address: %v", err)
	}
	if _, err := n1.attach(LinkConfig{TaskID: "x", NetworkID: "a"}); err == nil {
		t.Error("a link without a file was attached")
	}
	again := n1.task("a2", "a", TUN, nil, "10.0.16.2")
	if _, _, err := first.Receive(5 * time.Second); err == nil || errors.Is(err, netstacktest.ErrTimeout) {
		t.Errorf("the earlier link is open: %v", err)
	}
	again.send(ping("10.0.16.2", "10.0.16.1"))
	again.recv()
	for range 2 {
		if err := again.link.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	if n1.link(addr("10.0.16.2")) != nil {
		t.Error("a closed link is routed to")
	}
}
