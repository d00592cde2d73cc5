package netstack

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshswarm/meshswarm/netstack/netstacktest"
)

// fabricNode is a fabric under test with a recording stack.
type fabricNode struct {
	*fabric
	t    testing.TB
	self netip.Addr
	tabs atomic.Pointer[tables]
	got  chan []byte // what the stack was given
}

func (n *fabricNode) inject(pkts []packet) {
	for i := range pkts {
		finishCsum(&pkts[i])
		n.got <- append([]byte(nil), pkts[i].ip...)
	}
}

func newFabricNode(t testing.TB, self string) *fabricNode {
	t.Helper()
	n := &fabricNode{t: t, self: netip.MustParseAddr(self), got: make(chan []byte, 1024)}
	n.tabs.Store(compile(&Tables{}))
	n.fabric = newFabric(Config{MTU: DefaultMTU, Logger: slog.New(slog.DiscardHandler)}, n.tabs.Load)
	n.host = n
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = n.run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return n
}

func (n *fabricNode) set(t *Tables) {
	c := *t
	c.Self, c.MeshSubnet = n.self, netip.MustParsePrefix("100.127.0.0/16")
	next := compile(&c)
	old := n.tabs.Swap(next)
	n.changed(old, next)
}

// testTaskLink is a task of one address per family.
type testTaskLink struct {
	*netstacktest.Device
	t     testing.TB
	link  *Link
	addrs []netip.Addr
}

func (n *fabricNode) task(id, network string, kind Kind, flows []FlowKey, addrs ...string) *testTaskLink {
	n.t.Helper()
	k := &testTaskLink{t: n.t}
	for _, a := range addrs {
		k.addrs = append(k.addrs, netip.MustParseAddr(a))
	}
	cfg := LinkConfig{TaskID: id, NetworkID: network, Addrs: k.addrs, Kind: kind, Flows: flows}
	var err error
	if kind == TUN {
		cfg.File, k.Device, err = netstacktest.NewTUN()
	} else {
		cfg.MAC = net.HardwareAddr{2, 0, 0, 0, 0, 1}
		cfg.File, k.Device, err = netstacktest.NewPacket(cfg.MAC)
	}
	if err == nil {
		k.link, err = n.attach(cfg)
	}
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { k.Device.Close() })
	return k
}

func (k *testTaskLink) send(ip []byte) {
	k.t.Helper()
	k.sendHdr(netstacktest.Header{}, ip)
}

func (k *testTaskLink) sendHdr(h netstacktest.Header, ip []byte) {
	k.t.Helper()
	if err := k.Send(h, ip); err != nil {
		k.t.Fatal(err)
	}
}

// recv returns the next packet, which must be sound: its checksums are verified.
func (k *testTaskLink) recv() (vnetHdr, []byte) {
	k.t.Helper()
	h, ip, err := k.Receive(5 * time.Second)
	if err != nil {
		k.t.Fatalf("receive: %v", err)
	}
	v := vnetHdr{flags: h.Flags, gsoType: h.GSOType, hdrLen: h.HdrLen, gsoSize: h.GSOSize, csumStart: h.CsumStart, csumOffset: h.CsumOffset}
	wantSound(k.t, v, ip)
	return v, ip
}

func (k *testTaskLink) never() {
	k.t.Helper()
	if _, ip, err := k.Receive(100 * time.Millisecond); !errors.Is(err, netstacktest.ErrTimeout) {
		k.t.Fatalf("received %x (%v), want nothing", ip, err)
	}
}

// wantSound verifies lengths and checksums of a packet with its virtio header.
func wantSound(t testing.TB, v vnetHdr, b []byte) {
	t.Helper()
	ip, h, ok := parse(b)
	if !ok || len(ip) != len(b) || !h.checkVnet(&v, len(ip)) {
		t.Fatalf("malformed packet %+v %x", v, b[:min(len(b), 80)])
	}
	if !h.v6 && sum(ip[:h.l4], 0) != 0xffff && !h.later {
		t.Fatalf("wrong IP checksum: %x", ip[:h.l4])
	}
	at := h.csumAt()
	switch {
	case v.needsCsum():
		if got, want := binary.BigEndian.Uint16(ip[at:]), pseudoSum(ip, h.v6, h.proto, len(ip)-h.l4); got != want {
			t.Fatalf("partial checksum %04x, want %04x", got, want)
		}
	case h.frag:
	case h.proto == protoICMP:
		if sum(ip[h.l4:], 0) != 0xffff {
			t.Fatal("wrong ICMP checksum")
		}
	case at != 0 && !(h.proto == protoUDP && ip[at] == 0 && ip[at+1] == 0):
		if !csumValid(ip, h.v6, h.proto, h.l4) {
			t.Fatalf("wrong checksum of protocol %d", h.proto)
		}
	}
}

// wire joins the mesh ports of fabrics: packets go to the node whose task or mesh address is the destination.
type wire struct {
	nodes []*fabricNode
	wg    sync.WaitGroup
}

func join(t testing.TB, nodes ...*fabricNode) {
	w := &wire{nodes: nodes}
	for _, n := range nodes {
		w.wg.Add(1)
		go w.pump(n)
	}
	t.Cleanup(func() {
		for _, n := range nodes {
			n.mesh.Close()
		}
		w.wg.Wait()
	})
}

func (w *wire) pump(from *fabricNode) {
	defer w.wg.Done()
	const offset = 16
	bufs, sizes := make([][]byte, meshBatch), make([]int, meshBatch)
	for i := range bufs {
		bufs[i] = make([]byte, maxIP)
	}
	for {
		n, err := from.mesh.Read(bufs, sizes, offset)
		if err != nil {
			return
		}
		for _, to := range w.nodes {
			var batch [][]byte
			for i := range n {
				ip := bufs[i][offset : offset+sizes[i]]
				if len(ip) > DefaultMTU {
					panic("packet larger than the mesh's MTU")
				}
				if w.owns(to, ipDst(ip)) {
					batch = append(batch, append(make([]byte, offset), ip...))
				}
			}
			if len(batch) > 0 {
				_, _ = to.mesh.Write(batch, offset)
			}
		}
	}
}

func (w *wire) owns(n *fabricNode, a netip.Addr) bool {
	if a == n.self {
		return true
	}
	e, ok := n.tabs.Load().endpoints[a]
	return ok && e.node == n.self
}

// segment makes a TCP segment with a finished checksum.
func segment(src, dst string, seq, ack uint32, flags uint8, payload []byte) []byte {
	s, d := netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst)
	hlen := ipv4Len
	if s.Addr().Is6() {
		hlen = ipv6Len
	}
	ip := make([]byte, hlen+tcpLen+len(payload))
	putIP(ip, s.Addr().Is6(), protoTCP, s.Addr().AsSlice(), d.Addr().AsSlice())
	t := ip[hlen:]
	binary.BigEndian.PutUint16(t, s.Port())
	binary.BigEndian.PutUint16(t[2:], d.Port())
	binary.BigEndian.PutUint32(t[4:], seq)
	binary.BigEndian.PutUint32(t[8:], ack)
	t[12], t[13], t[14] = 5<<4, flags, 0xff
	copy(t[tcpLen:], payload)
	binary.BigEndian.PutUint16(t[16:], ^sum(t, pseudoSum(ip, s.Addr().Is6(), protoTCP, len(t))))
	return ip
}

// datagram makes a UDP datagram with a finished checksum.
func datagram(src, dst string, payload []byte) []byte {
	s, d := netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst)
	hlen := ipv4Len
	if s.Addr().Is6() {
		hlen = ipv6Len
	}
	ip := make([]byte, hlen+udpLen+len(payload))
	putIP(ip, s.Addr().Is6(), protoUDP, s.Addr().AsSlice(), d.Addr().AsSlice())
	u := ip[hlen:]
	binary.BigEndian.PutUint16(u, s.Port())
	binary.BigEndian.PutUint16(u[2:], d.Port())
	binary.BigEndian.PutUint16(u[4:], uint16(len(u)))
	copy(u[udpLen:], payload)
	binary.BigEndian.PutUint16(u[6:], ^sum(u, pseudoSum(ip, s.Addr().Is6(), protoUDP, len(u))))
	return ip
}

// ping makes an ICMP echo request.
func ping(src, dst string) []byte {
	s, d := netip.MustParseAddr(src), netip.MustParseAddr(dst)
	hlen, proto, typ := ipv4Len, uint8(protoICMP), uint8(icmp4Echo)
	if s.Is6() {
		hlen, proto, typ = ipv6Len, protoICMPv6, icmp6Echo
	}
	ip := make([]byte, hlen+icmpLen+32)
	putIP(ip, s.Is6(), proto, s.AsSlice(), d.AsSlice())
	ip[hlen] = typ
	copy(ip[hlen+icmpLen:], "are you there?")
	setICMPCsum(ip, s.Is6(), hlen)
	return ip
}

// partial turns the finished checksum of ip into a partial one, as a task's kernel sends it.
func partial(ip []byte) netstacktest.Header {
	_, h, _ := parse(ip)
	at := h.csumAt()
	binary.BigEndian.PutUint16(ip[at:], pseudoSum(ip, h.v6, h.proto, len(ip)-h.l4))
	return netstacktest.Header{Flags: vnetNeedsCsum, CsumStart: uint16(h.l4), CsumOffset: uint16(at - h.l4)}
}

// tuple returns addresses and ports of a packet as text.
func tuple(t testing.TB, b []byte) (src, dst string) {
	t.Helper()
	_, h, ok := parse(b)
	if !ok {
		t.Fatalf("malformed: %x", b)
	}
	return netip.AddrPortFrom(ipSrc(b), h.sport).String(), netip.AddrPortFrom(ipDst(b), h.dport).String()
}

func wantTuple(t testing.TB, b []byte, src, dst string) {
	t.Helper()
	if s, d := tuple(t, b); s != src || d != dst {
		t.Fatalf("packet %s → %s, want %s → %s", s, d, src, dst)
	}
}

func (n *fabricNode) wantDrop(r dropReason, before uint64) {
	n.t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for n.metrics.drops[r].Load() == before {
		if time.Now().After(deadline) {
			n.t.Fatalf("no drop %q; all: %v", dropNames[r], n.drops())
		}
		time.Sleep(time.Millisecond)
	}
}

func (n *fabricNode) drops() map[string]uint64 {
	m := map[string]uint64{}
	for i := range n.metrics.drops {
		if c := n.metrics.drops[i].Load(); c > 0 {
			m[dropNames[i]] = c
		}
	}
	return m
}
