package mesh

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/tun"
	"golang.zx2c4.com/wireguard/tun/tuntest"

	"github.com/meshswarm/meshswarm/mesh/meshtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// node is a mesh under test with a device of channels.
type node struct {
	*Mesh
	key  Key
	tun  *tuntest.ChannelTUN
	addr netip.Addr
	log  *lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newNode(t *testing.T, n int, listen netip.AddrPort, b conn.Bind) *node {
	t.Helper()
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	nd := &node{key: key, tun: tuntest.NewChannelTUN(), addr: netip.AddrFrom4([4]byte{100, 127, 0, byte(n)}), log: &lockedBuffer{}}
	logger := slog.New(slog.NewTextHandler(nd.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	nd.Mesh, err = New(Config{Key: key, Listen: listen, Device: nd.tun.TUN(), Bind: b, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	return nd
}

func (n *node) run(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	select {
	case <-n.Ready():
	case err := <-done:
		done <- nil
		t.Fatalf("run: %v", err)
	case <-time.After(10 * time.Second):
		t.Fatal("not ready")
	}
}

func (n *node) peer(endpoint netip.AddrPort, more ...netip.Prefix) Peer {
	return Peer{Key: n.key.Public(), Endpoint: endpoint, AllowedIPs: append([]netip.Prefix{netip.PrefixFrom(n.addr, 32)}, more...)}
}

// udp4 makes an IPv4 packet that is good enough for WireGuard.
func udp4(src, dst netip.Addr, payload string) []byte {
	b := make([]byte, 28+len(payload))
	b[0], b[8], b[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	copy(b[28:], payload)
	return b
}

// expect sends pkt from a again and again until b has it.
func expect(t *testing.T, a, b *node, pkt []byte) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		a.tun.Outbound <- pkt
		select {
		case got := <-b.tun.Inbound:
			if bytes.Equal(got, pkt) {
				return
			}
		case <-time.After(100 * time.Millisecond):
		case <-deadline:
			t.Fatalf("packet did not arrive\n%s", a.log.String())
		}
	}
}

func never(t *testing.T, b *node) {
	t.Helper()
	select {
	case got := <-b.tun.Inbound:
		t.Fatalf("a packet arrived: %x", got)
	case <-time.After(300 * time.Millisecond):
	}
}

func drain(b *node) {
	for {
		select {
		case <-b.tun.Inbound:
		case <-time.After(150 * time.Millisecond):
			return
		}
	}
}

func TestMeshOverUDP(t *testing.T) {
	for _, tc := range []struct{ name, a, b string }{
		{"same port, different addresses", "127.0.0.1:0", "127.0.0.2:0"},
		{"IPv6", "[::1]:0", "[::1]:0"},
		{"all addresses", "0.0.0.0:0", "127.0.0.3:0"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := newNode(t, 1, netip.MustParseAddrPort(tc.a), nil)
			a.run(t)
			portA := a.port()
			listenB := netip.MustParseAddrPort(tc.b)
			if strings.HasPrefix(tc.name, "same port") {
				listenB = netip.AddrPortFrom(listenB.Addr(), portA)
			}
			b := newNode(t, 2, listenB, nil)
			b.run(t)
			addrA := netip.MustParseAddrPort(tc.a).Addr()
			if addrA.IsUnspecified() {
				addrA = netip.MustParseAddr("127.0.0.1")
			}
			must(t, a.SetPeers([]Peer{b.peer(netip.AddrPortFrom(listenB.Addr(), b.port()))}))
			must(t, b.SetPeers([]Peer{a.peer(netip.AddrPortFrom(addrA, portA))}))
			expect(t, a, b, udp4(a.addr, b.addr, "there"))
			expect(t, b, a, udp4(b.addr, a.addr, "and back"))
			st := a.Peers()
			if len(st) != 1 || st[0].Key != b.key.Public() || st[0].LastHandshake.IsZero() || st[0].TxBytes == 0 || st[0].RxBytes == 0 {
				t.Errorf("status: %+v", st)
			}
			for _, n := range []*node{a, b} {
				if l := n.log.String(); strings.Contains(l, n.key.hex()) || l == "" {
					t.Error("the log is empty or shows the private key")
				}
			}
		})
	}
}

// port returns the port that the mesh listens on.
func (n *node) port() uint16 {
	conf, err := n.dev.IpcGet()
	if err != nil {
		return 0
	}
	for line := range strings.Lines(conf) {
		var p uint16
		if _, err := fmt.Sscanf(line, "listen_port=%d", &p); err == nil {
			return p
		}
	}
	return 0
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// memoryNodes returns nodes on one in-memory network, each the peer of all others.
func memoryNodes(t *testing.T, count int) (*meshtest.Network, []*node, []*meshtest.Bind, []netip.AddrPort) {
	t.Helper()
	net := meshtest.NewNetwork()
	nodes, binds, addrs := make([]*node, count), make([]*meshtest.Bind, count), make([]netip.AddrPort, count)
	for i := range nodes {
		addrs[i] = netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), 51820)
		binds[i] = net.Bind(addrs[i])
		nodes[i] = newNode(t, i+1, addrs[i], binds[i])
		nodes[i].run(t)
	}
	for i, n := range nodes {
		var peers []Peer
		for j, o := range nodes {
			if j != i {
				peers = append(peers, o.peer(addrs[j]))
			}
		}
		must(t, n.SetPeers(peers))
	}
	return net, nodes, binds, addrs
}

func TestSourceOfAnotherNodeIsDropped(t *testing.T) {
	_, n, _, _ := memoryNodes(t, 3)
	expect(t, n[0], n[1], udp4(n[0].addr, n[1].addr, "hello"))
	drain(n[1])
	n[0].tun.Outbound <- udp4(n[2].addr, n[1].addr, "I am the third")
	n[0].tun.Outbound <- udp4(netip.MustParseAddr("127.0.0.1"), n[1].addr, "I am you")
	n[0].tun.Outbound <- udp4(n[1].addr, n[1].addr, "I am you, too")
	never(t, n[1])
}

func TestPeersAreChangedByDifference(t *testing.T) {
	net, n, _, addrs := memoryNodes(t, 2)
	expect(t, n[0], n[1], udp4(n[0].addr, n[1].addr, "hello"))
	before := n[0].Peers()[0].LastHandshake

	// A new address of a task on the peer, with the session kept.
	task := netip.MustParsePrefix("10.0.16.5/32")
	must(t, n[1].SetPeers([]Peer{n[0].peer(addrs[0], task)}))
	must(t, n[0].SetPeers([]Peer{n[1].peer(addrs[1])}))
	expect(t, n[0], n[1], udp4(task.Addr(), n[1].addr, "from the task"))
	if got := n[0].Peers()[0].LastHandshake; !got.Equal(before) {
		t.Errorf("handshake at %v, was %v: the session was not kept", got, before)
	}

	// The address is taken away again.
	must(t, n[1].SetPeers([]Peer{n[0].peer(addrs[0])}))
	drain(n[1])
	n[0].tun.Outbound <- udp4(task.Addr(), n[1].addr, "from the task")
	never(t, n[1])

	// The peer is taken away.
	must(t, n[1].SetPeers(nil))
	n[0].tun.Outbound <- udp4(n[0].addr, n[1].addr, "hello")
	never(t, n[1])
	if p := n[1].Peers(); len(p) != 0 {
		t.Errorf("peers: %+v", p)
	}
	net.Filter(nil)
}

func TestPeerMoves(t *testing.T) {
	net, n, binds, _ := memoryNodes(t, 2)
	expect(t, n[0], n[1], udp4(n[0].addr, n[1].addr, "hello"))
	moved := netip.MustParseAddrPort("198.51.100.9:4711")
	net.Move(binds[0], moved)
	expect(t, n[0], n[1], udp4(n[0].addr, n[1].addr, "from elsewhere"))
	expect(t, n[1], n[0], udp4(n[1].addr, n[0].addr, "found you"))
	if got := n[1].Peers()[0].Endpoint; got != moved {
		t.Errorf("endpoint %v, want %v", got, moved)
	}
}

func TestSetPeersRefuses(t *testing.T) {
	n := newNode(t, 1, netip.MustParseAddrPort("127.0.0.1:0"), nil)
	p := Peer{Key: PublicKey{1}}
	if err := n.SetPeers([]Peer{p, p}); err == nil {
		t.Error("two peers with one key were accepted")
	}
	if err := n.SetPeers([]Peer{{Key: n.key.Public()}}); err == nil {
		t.Error("the node was accepted as its own peer")
	}
	must(t, n.SetPeers([]Peer{p}))
}

func TestMetrics(t *testing.T) {
	r := prometheus.NewPedanticRegistry()
	_, err := New(Config{Key: Key{1}, Listen: netip.MustParseAddrPort("127.0.0.1:0"), Device: tuntest.NewChannelTUN().TUN(), Registry: r})
	must(t, err)
	if m, err := r.Gather(); err != nil || len(m) < 4 {
		t.Errorf("%d metrics, %v", len(m), err)
	}
}

func TestNewRefuses(t *testing.T) {
	dev, listen := tuntest.NewChannelTUN().TUN(), netip.MustParseAddrPort("127.0.0.1:0")
	for name, cfg := range map[string]Config{
		"no key": {Listen: listen, Device: dev}, "no device": {Key: Key{1}, Listen: listen}, "no address": {Key: Key{1}, Device: dev},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestListenAddressTaken(t *testing.T) {
	a := newNode(t, 1, netip.MustParseAddrPort("127.0.0.1:0"), nil)
	a.run(t)
	taken := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), a.port())
	b := newNode(t, 2, taken, nil)
	err := b.Run(context.Background())
	if err == nil || !strings.Contains(err.Error(), taken.String()) {
		t.Errorf("run: %v, want an error that names %s", err, taken)
	}
	if err := b.SetPeers(nil); !errors.Is(err, ErrClosed) {
		t.Errorf("SetPeers after Run: %v", err)
	}
}

func TestKeysDoNotShow(t *testing.T) {
	k, err := NewKey()
	must(t, err)
	for _, f := range []string{"%v", "%+v", "%#v", "%x", "%s", "%d"} {
		if s := fmt.Sprintf(f, Config{Key: k}); strings.Contains(s, k.hex()) || strings.Contains(s, fmt.Sprint([32]byte(k))) {
			t.Errorf("%s shows the key", f)
		}
	}
	p, err := ParsePublicKey(k.Public().String())
	if err != nil || p != k.Public() {
		t.Errorf("parse of a printed key: %v", err)
	}
	if _, err := ParsePublicKey("abc"); err == nil {
		t.Error("a short key was accepted")
	}
}

var _ tun.Device = (*guard)(nil)
