package netstack

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
)

const (
	vip4 = "10.0.16.100"
	vip6 = "fd00:16::100"
)

// vipTables is network a with the client 2 on node 1 and the VIPs over the given backends; those above 9 live on node 2.
func vipTables(backends ...Backend) *Tables {
	t := twoNetworks()
	a := &t.Networks[0]
	v4, v6 := VIP{Addr: addr(vip4), Service: "web"}, VIP{Addr: addr(vip6), Service: "web"}
	for _, b := range backends {
		v4.Backends = append(v4.Backends, b)
		six := netip.MustParseAddr(fmt.Sprintf("fd00:16::%d", b.Addr.As4()[3]))
		v6.Backends = append(v6.Backends, Backend{Addr: six, Draining: b.Draining})
		if n := b.Addr.As4()[3]; n > 9 {
			a.Endpoints = append(a.Endpoints, Endpoint{b.Addr, addr(node2)}, Endpoint{six, addr(node2)})
		}
	}
	a.VIPs = []VIP{v4, v6}
	return t
}

func on(last int) Backend { return Backend{Addr: netip.AddrFrom4([4]byte{10, 0, 16, byte(last)})} }

func draining(last int) Backend {
	b := on(last)
	b.Draining = true
	return b
}

// at makes address:port of the task with the last number, in the family of vip.
func at(vip string, last, port int) string {
	if addr(vip).Is6() {
		return fmt.Sprintf("[fd00:16::%d]:%d", last, port)
	}
	return fmt.Sprintf("10.0.16.%d:%d", last, port)
}

func atVIP(vip string, port int) string { return netip.AddrPortFrom(addr(vip), uint16(port)).String() }

func TestVIPTranslatesBothWays(t *testing.T) {
	for _, tc := range []struct {
		name string
		vip  string
		last int
	}{
		{"same node", vip4, 3}, {"same node, IPv6", vip6, 3}, {"other node", vip4, 10}, {"other node, IPv6", vip6, 10},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n1, n2 := newFabricNode(t, node1), newFabricNode(t, node2)
			join(t, n1, n2)
			client := n1.task("c", "a", TUN, nil, "10.0.16.2", "fd00:16::2")
			server := n1.task("s3", "a", Packet, nil, "10.0.16.3", "fd00:16::3")
			if tc.last == 10 {
				server = n2.task("s10", "a", TUN, nil, "10.0.16.10", "fd00:16::10")
			}
			n1.set(vipTables(on(tc.last)))
			n2.set(vipTables(on(tc.last)))
			c, v, s := at(tc.vip, 2, 4000+tc.last), atVIP(tc.vip, 80), at(tc.vip, tc.last, 80)
			for _, ask := range [][]byte{
				segment(c, v, 100, 0, tcpSYN, nil), segment(c, v, 101, 501, tcpACK, []byte("GET /")), datagram(c, v, []byte("odd")),
			} {
				for _, part := range []bool{false, true} {
					pkt := append([]byte(nil), ask...)
					if part {
						client.sendHdr(partial(pkt), pkt)
					} else {
						client.send(pkt)
					}
					_, got := server.recv()
					wantTuple(t, got, c, s)
					_, h, _ := parse(got)
					answer := segment(s, c, 500, 101, tcpSYN|tcpACK, []byte("x"))
					if h.proto == protoUDP {
						answer = datagram(s, c, []byte("answer"))
					}
					if part {
						server.sendHdr(partial(answer), answer)
					} else {
						server.send(answer)
					}
					_, got = client.recv()
					wantTuple(t, got, v, c)
				}
			}
			// A datagram without a checksum keeps none (IPv4).
			if addr(tc.vip).Is4() {
				pkt := datagram(c, v, []byte("no checksum"))
				pkt[26], pkt[27] = 0, 0
				client.send(pkt)
				if _, got := server.recv(); got[26] != 0 || got[27] != 0 {
					t.Error("a checksum appeared")
				}
			}
		})
	}
}

func TestVIPSpreadsFlowsAndKeepsThem(t *testing.T) {
	n1 := newFabricNode(t, node1)
	n1.set(vipTables(on(3), on(4), on(5)))
	client := n1.task("c", "a", TUN, nil, "10.0.16.2")
	servers := map[string]*testTaskLink{}
	for _, last := range []int{3, 4, 5} {
		servers[fmt.Sprint(last)] = n1.task(fmt.Sprint("s", last), "a", TUN, nil, fmt.Sprintf("10.0.16.%d", last))
	}
	const flows = 60
	for i := range flows {
		for range 2 {
			client.send(segment(at(vip4, 2, 30000+i), atVIP(vip4, 80), 1, 0, tcpSYN, nil))
		}
	}
	if n := n1.flows.count.Load(); n > flows {
		t.Errorf("%d flows, want %d", n, flows)
	}
	total := 0
	for name, s := range servers {
		seen := map[string]int{}
		for {
			_, ip, err := s.Receive(200e6)
			if err != nil {
				break
			}
			src, _ := tuple(t, ip)
			seen[src]++
		}
		for src, c := range seen {
			if c != 2 {
				t.Errorf("server %s got %d packets of %s, want both", name, c, src)
			}
		}
		if len(seen) < flows/6 {
			t.Errorf("server %s got %d of %d flows", name, len(seen), flows)
		}
		total += len(seen)
	}
	if total != flows {
		t.Errorf("%d flows arrived, want %d", total, flows)
	}
}

func TestHairpin(t *testing.T) {
	for _, v := range []string{vip4, vip6} {
		n1 := newFabricNode(t, node1)
		n1.set(vipTables(on(2)))
		task := n1.task("c", "a", TUN, nil, "10.0.16.2", "fd00:16::2")
		client, vip, self := at(v, 2, 4000), atVIP(v, 80), at(v, 2, 80)
		masked := atVIP(v, 4000)
		for range 2 {
			task.send(segment(client, vip, 1, 0, tcpSYN, nil))
			_, got := task.recv()
			wantTuple(t, got, masked, self)
			answer := segment(self, masked, 9, 2, tcpSYN|tcpACK, nil)
			task.sendHdr(partial(answer), answer)
			_, got = task.recv()
			wantTuple(t, got, vip, client)
		}
		// The server part tells an error about the client's packet.
		task.send(icmpError(self, masked, segment(masked, self, 1, 0, tcpSYN, nil)))
		_, got := task.recv()
		wantQuoted(t, got, addr(v), addr(v).String(), client, vip)
	}
}

// icmpError makes a port-unreachable from the host of src to that of dst about quote.
func icmpError(src, dst string, quote []byte) []byte {
	s, d := netip.MustParseAddrPort(src).Addr(), netip.MustParseAddrPort(dst).Addr()
	hlen, proto := ipv4Len, uint8(protoICMP)
	if s.Is6() {
		hlen, proto = ipv6Len, protoICMPv6
	}
	ip := make([]byte, hlen+icmpLen+len(quote))
	putIP(ip, s.Is6(), proto, s.AsSlice(), d.AsSlice())
	ip[hlen], ip[hlen+1] = unreachPort.codes(s.Is6())
	copy(ip[hlen+icmpLen:], quote)
	setICMPCsum(ip, s.Is6(), hlen)
	return ip
}

func wantQuoted(t *testing.T, b []byte, from netip.Addr, outer, src, dst string) {
	t.Helper()
	if got := ipSrc(b).String(); got != outer {
		t.Errorf("error comes from %s, want %s", got, outer)
	}
	_, h, _ := parse(b)
	quote := b[h.l4+icmpLen:]
	wantTuple(t, quote, src, dst)
	wantSound(t, vnetHdr{}, quote)
}

func TestICMPErrorsAreTranslated(t *testing.T) {
	n1, n2 := newFabricNode(t, node1), newFabricNode(t, node2)
	join(t, n1, n2)
	client := n1.task("c", "a", TUN, nil, "10.0.16.2", "fd00:16::2")
	servers := map[int]*testTaskLink{
		3:  n1.task("s3", "a", TUN, nil, "10.0.16.3", "fd00:16::3"),
		10: n2.task("s10", "a", TUN, nil, "10.0.16.10", "fd00:16::10"),
	}
	for last, server := range servers {
		n1.set(vipTables(on(last)))
		n2.set(vipTables(on(last)))
		for _, v := range []string{vip4, vip6} {
			c, vip, s := at(v, 2, 4000), atVIP(v, 53), at(v, last, 53)
			client.send(datagram(c, vip, []byte("question")))
			_, arrived := server.recv()
			wantTuple(t, arrived, c, s)
			// The backend's kernel: nobody listens.
			server.send(icmpError(s, c, arrived))
			_, got := client.recv()
			wantQuoted(t, got, addr(v), v, c, vip)
			// The client's kernel: the socket is closed, when an answer comes.
			server.send(datagram(s, c, []byte("answer")))
			_, answer := client.recv()
			client.send(icmpError(c, vip, answer))
			_, got = server.recv()
			wantQuoted(t, got, addr(v), netip.MustParseAddrPort(c).Addr().String(), s, c)
		}
	}
}

func TestVIPWithoutBackends(t *testing.T) {
	n1 := newFabricNode(t, node1)
	n1.set(vipTables(draining(3)))
	client := n1.task("c", "a", TUN, nil, "10.0.16.2", "fd00:16::2")
	old := n1.task("s3", "a", TUN, nil, "10.0.16.3", "fd00:16::3")
	for _, v := range []string{vip4, vip6} {
		c, vip := at(v, 2, 4000), atVIP(v, 80)
		client.send(segment(c, vip, 100, 0, tcpSYN, nil))
		_, got := client.recv()
		wantTuple(t, got, vip, c)
		wantTCP(t, got, tcpRST|tcpACK, 0, 101)

		client.send(datagram(c, vip, []byte("x")))
		_, got = client.recv()
		_, h, _ := parse(got)
		typ, code := unreachPort.codes(h.v6)
		if got[h.l4] != typ || got[h.l4+1] != code || ipSrc(got) != addr(v) {
			t.Errorf("answer %x from %s", got[h.l4:h.l4+2], ipSrc(got))
		}
		wantTuple(t, got[h.l4+icmpLen:], c, vip)
	}
	old.never()
}

func wantTCP(t *testing.T, b []byte, flags uint8, seq, ack uint32) {
	t.Helper()
	_, h, _ := parse(b)
	s := b[h.l4:]
	if s[13] != flags || binary.BigEndian.Uint32(s[4:]) != seq || binary.BigEndian.Uint32(s[8:]) != ack {
		t.Errorf("flags %02x seq %d ack %d, want %02x %d %d", s[13], binary.BigEndian.Uint32(s[4:]), binary.BigEndian.Uint32(s[8:]), flags, seq, ack)
	}
}

func TestBackendDrainsThenDies(t *testing.T) {
	n1 := newFabricNode(t, node1)
	n1.set(vipTables(on(3)))
	client := n1.task("c", "a", TUN, nil, "10.0.16.2")
	s3, s4 := n1.task("s3", "a", TUN, nil, "10.0.16.3"), n1.task("s4", "a", TUN, nil, "10.0.16.4")
	c, v, s := at(vip4, 2, 4000), atVIP(vip4, 80), at(vip4, 3, 80)
	client.send(segment(c, v, 100, 0, tcpSYN, nil))
	s3.recv()
	s3.send(segment(s, c, 500, 101, tcpSYN|tcpACK, nil))
	client.recv()
	client.send(datagram(at(vip4, 2, 5000), atVIP(vip4, 53), []byte("x")))
	s3.recv()

	// Draining: the old flow goes on, a new one goes elsewhere.
	n1.set(vipTables(draining(3), on(4)))
	client.send(segment(c, v, 101, 501, tcpACK, []byte("GET /")))
	_, got := s3.recv()
	wantTuple(t, got, c, s)
	client.send(segment(at(vip4, 2, 4001), v, 1, 0, tcpSYN, nil))
	_, got = s4.recv()
	wantTuple(t, got, at(vip4, 2, 4001), at(vip4, 4, 80))
	s3.send(segment(s, c, 501, 106, tcpACK, []byte("half an answer")))
	client.recv()

	// Gone: the client is told at once, with the sequence number that it expects.
	n1.set(vipTables(on(4)))
	_, got = client.recv()
	wantTuple(t, got, v, c)
	wantTCP(t, got, tcpRST|tcpACK, 501+14, 106)
	// A client that did not believe it gets another one for each of its packets.
	client.send(segment(c, v, 106, 505, tcpACK, nil))
	_, got = client.recv()
	wantTCP(t, got, tcpRST, 505, 0)
	// The same port may connect anew.
	client.send(segment(c, v, 900, 0, tcpSYN, nil))
	_, got = s4.recv()
	wantTuple(t, got, c, at(vip4, 4, 80))
	// A UDP flow goes to another backend.
	client.send(datagram(at(vip4, 2, 5000), atVIP(vip4, 53), []byte("x")))
	_, got = s4.recv()
	wantTuple(t, got, at(vip4, 2, 5000), at(vip4, 4, 53))
	s3.never()
	client.never()
}

// A client that has not heard of its backend yet is not told that it is gone: its next SYN goes to another.
func TestBackendGoesBeforeItAnswers(t *testing.T) {
	n1 := newFabricNode(t, node1)
	n1.set(vipTables(on(3)))
	client := n1.task("c", "a", TUN, nil, "10.0.16.2")
	s3, s4 := n1.task("s3", "a", TUN, nil, "10.0.16.3"), n1.task("s4", "a", TUN, nil, "10.0.16.4")
	syn := segment(at(vip4, 2, 4000), atVIP(vip4, 80), 100, 0, tcpSYN, nil)
	client.send(syn)
	s3.recv()
	n1.set(vipTables(on(4)))
	client.never()
	client.send(syn)
	_, got := s4.recv()
	wantTuple(t, got, at(vip4, 2, 4000), at(vip4, 4, 80))
}

func TestTupleIsReusedQuickly(t *testing.T) {
	n1 := newFabricNode(t, node1)
	n1.set(vipTables(on(3)))
	client, s3 := n1.task("c", "a", TUN, nil, "10.0.16.2"), n1.task("s3", "a", TUN, nil, "10.0.16.3")
	c, v, s := at(vip4, 2, 4000), atVIP(vip4, 80), at(vip4, 3, 80)
	for i := range uint32(3) {
		client.send(segment(c, v, 100*i, 0, tcpSYN, nil))
		s3.recv()
		s3.send(segment(s, c, 500, 100*i+1, tcpFIN|tcpACK, nil))
		client.recv()
		client.send(segment(c, v, 100*i+1, 501, tcpFIN|tcpACK, nil))
		s3.recv()
	}
	if n := n1.flows.count.Load(); n != 1 {
		t.Errorf("%d flows", n)
	}
}

func TestFlowsSurviveAnAgent(t *testing.T) {
	backends := []Backend{on(3), on(4), on(5)}
	servers := func(n *fabricNode) map[netip.Addr]*testTaskLink {
		m := map[netip.Addr]*testTaskLink{}
		for _, b := range backends {
			m[b.Addr] = n.task("s"+b.Addr.String(), "a", TUN, nil, b.Addr.String())
		}
		return m
	}
	c, v := at(vip4, 2, 4000), atVIP(vip4, 80)
	key := func() *flowKey {
		k := keyOf(segment(c, v, 1, 0, tcpSYN, nil), &ipInfo{proto: protoTCP, sport: 4000, dport: 80})
		return &k
	}
	want, _ := pick(backends, key(), 0)
	answer := segment(netip.AddrPortFrom(want, 80).String(), c, 501, 101, tcpACK, []byte("pushed"))

	t.Run("the server speaks first", func(t *testing.T) {
		n := newFabricNode(t, node1)
		flows := []FlowKey{{Protocol: "tcp", Client: netip.MustParseAddrPort(c), VIP: netip.MustParseAddrPort(v)}}
		client := n.task("c", "a", TUN, flows, "10.0.16.2")
		s := servers(n)
		n.set(vipTables(backends...))
		s[want].send(answer)
		_, got := client.recv()
		wantTuple(t, got, v, c)
	})
	t.Run("the client speaks first", func(t *testing.T) {
		n := newFabricNode(t, node1)
		n.set(vipTables(backends...))
		client := n.task("c", "a", TUN, nil, "10.0.16.2")
		s := servers(n)
		client.send(segment(c, v, 101, 501, tcpACK, []byte("GET /")))
		s[want].recv()
		s[want].send(answer)
		_, got := client.recv()
		wantTuple(t, got, v, c)
	})
}

func TestFragmentsOfVIPFlows(t *testing.T) {
	n1 := newFabricNode(t, node1)
	n1.set(vipTables(on(3)))
	client, s3 := n1.task("c", "a", TUN, nil, "10.0.16.2"), n1.task("s3", "a", TUN, nil, "10.0.16.3")
	payload := bytes.Repeat([]byte("0123456789abcdef"), 150)
	check := func(from, to *testTaskLink, pkt []byte, src, dst string) {
		t.Helper()
		var back []byte
		for _, f := range fragments(pkt, 1200) {
			from.send(f)
			_, got := to.recv()
			if back == nil {
				back = append([]byte(nil), got...)
			} else {
				back = append(back, got[ipv4Len:]...)
			}
		}
		back[6], back[7] = 0x40, 0
		binary.BigEndian.PutUint16(back[2:], uint16(len(back)))
		setIPv4Csum(back)
		wantSound(t, vnetHdr{}, back)
		wantTuple(t, back, src, dst)
		if !bytes.Equal(back[ipv4Len+udpLen:], payload) {
			t.Error("payload changed")
		}
	}
	c, v, s := at(vip4, 2, 4000), atVIP(vip4, 53), at(vip4, 3, 53)
	check(client, s3, datagram(c, v, payload), c, s)
	check(s3, client, datagram(s, c, payload), v, c)
}

// fragments cuts an IPv4 packet.
func fragments(pkt []byte, size int) [][]byte {
	var out [][]byte
	data := pkt[ipv4Len:]
	for off := 0; off < len(data); off += size {
		end := min(off+size, len(data))
		f := append(append([]byte(nil), pkt[:ipv4Len]...), data[off:end]...)
		frag := uint16(off / 8)
		if end < len(data) {
			frag |= 0x2000
		}
		binary.BigEndian.PutUint16(f[2:], uint16(len(f)))
		binary.BigEndian.PutUint16(f[4:], 4711)
		binary.BigEndian.PutUint16(f[6:], frag)
		setIPv4Csum(f)
		out = append(out, f)
	}
	return out
}
