package netstack

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// loopback and loopback2 are the test's own addresses of the host, so that ports do not clash with those of anyone else on this machine.
var loopback, loopback2 = func() (string, string) {
	net := fmt.Sprintf("127.%d.%d.", 1+rand.IntN(250), 1+rand.IntN(250))
	return net + "1", net + "2"
}()

// testWorld joins the stacks of nodes with gVisor stacks that play tasks: what a node's stack sends goes to the task, or to the node, that has the
// address; what a task sends goes to the stack of its node. It stands for fabric, mesh and links.
type testWorld struct {
	t     testing.TB
	nodes map[netip.Addr]*testNode // by mesh address
	tasks map[netip.Addr]*testTask
}

type testNode struct {
	w      *testWorld
	self   netip.Addr
	host   *host
	tabs   atomic.Pointer[tables]
	in     chan []byte
	errors atomic.Pointer[map[string]string]
	stop   func()
}

// testTask is a task with a TCP/IP stack of its own.
type testTask struct {
	*ipStack
	addr netip.Addr
	in   chan []byte
}

func newTestWorld(t testing.TB) *testWorld {
	return &testWorld{t: t, nodes: make(map[netip.Addr]*testNode), tasks: make(map[netip.Addr]*testTask)}
}

func copyOf(p *packet) []byte {
	finishCsum(p)
	return append([]byte(nil), p.ip...)
}

// pump delivers what is sent to ch until the test ends.
func (w *testWorld) pump(ch chan []byte, deliver func([]byte)) {
	done, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-done:
				return
			case b := <-ch:
				deliver(b)
			}
		}
	}()
	w.t.Cleanup(func() { close(done); <-stopped })
}

func send(ch chan []byte, b []byte) {
	select {
	case ch <- b:
	default: // a full queue loses packets
	}
}

// node starts a node's stack.
func (w *testWorld) node(self string, change func(*Config)) *testNode {
	w.t.Helper()
	n := &testNode{w: w, self: netip.MustParseAddr(self), in: make(chan []byte, 4096)}
	n.tabs.Store(compile(&Tables{}))
	cfg := Config{
		MTU: DefaultMTU, Logger: slog.New(slog.DiscardHandler), PublishAddr: netip.MustParseAddr(loopback),
		PortsChanged: func(e map[string]string) { n.errors.Store(&e) },
	}
	if change != nil {
		change(&cfg)
	}
	h, err := newHostOn(cfg, n.route, n.tabs.Load)
	if err != nil {
		w.t.Fatal(err)
	}
	n.host = h
	w.nodes[n.self] = n
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- h.run(ctx) }()
	n.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				w.t.Errorf("run: %v", err)
			}
		case <-time.After(10 * time.Second):
			w.t.Error("run did not return")
		}
	})
	w.t.Cleanup(n.stop)
	eventually(w.t, "the stack runs", func() bool { return h.live.Load() != nil })
	w.pump(n.in, func(b []byte) { n.inject(b) })
	return n
}

func (n *testNode) inject(b []byte) {
	p, ok := newPacket(len(b))
	if !ok {
		return
	}
	copy(p.ip, b)
	pkts := []packet{p}
	n.host.inject(pkts)
	releaseAll(pkts)
}

// route is the fabric's fromHost.
func (n *testNode) route(pkts []packet) {
	for i := range pkts {
		dst := pkts[i].dst()
		if t := n.w.tasks[dst]; t != nil {
			send(t.in, copyOf(&pkts[i]))
		} else if peer := n.w.nodes[dst]; peer != nil {
			send(peer.in, copyOf(&pkts[i]))
		}
	}
}

// task starts a task's stack on a node. All tasks are made before traffic.
func (w *testWorld) task(n *testNode, addr string) *testTask {
	w.t.Helper()
	t := &testTask{addr: netip.MustParseAddr(addr), in: make(chan []byte, 4096)}
	link := &hostLink{mtu: DefaultMTU, out: func(pkts []packet) {
		for i := range pkts {
			send(n.in, copyOf(&pkts[i]))
		}
	}}
	ip, err := newIPStack(link)
	if err != nil {
		w.t.Fatal(err)
	}
	t.ipStack = ip
	_ = ip.SetPromiscuousMode(nicID, false)
	if err := ip.setAddrs(map[netip.Addr]struct{}{t.addr: {}}); err != nil {
		w.t.Fatal(err)
	}
	w.tasks[t.addr] = t
	w.t.Cleanup(ip.close)
	w.pump(t.in, link.deliver)
	return t
}

func (n *testNode) set(t *Tables) {
	t.Self, t.MeshSubnet = n.self, netip.MustParsePrefix("100.127.0.0/16")
	c := compile(t)
	n.tabs.Store(c)
	n.host.apply(c)
}

// testNetwork is 10.1.0.0/24 with the world's tasks.
func (w *testWorld) testNetwork(node netip.Addr) Network {
	net := Network{
		ID: "net1", Name: "front", Subnets: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/24")}, Gateways: []netip.Addr{netip.MustParseAddr("10.1.0.1")},
	}
	for a := range w.tasks {
		net.Endpoints = append(net.Endpoints, Endpoint{Addr: a, Node: node})
	}
	return net
}

// echoTCP answers each connection with who it comes from, a newline, and what it gets, until the client's end.
func (t *testTask) echoTCP(tb testing.TB, port uint16) {
	tb.Helper()
	ln, err := t.listenTCP(netip.AddrPortFrom(t.addr, port))
	if err != nil {
		tb.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(20 * time.Second))
				_, _ = fmt.Fprintf(c, "%s %s\n", t.addr, c.RemoteAddr())
				_, _ = io.Copy(c, c)
				_ = c.(*stackConn).CloseWrite()
			})
		}
	})
	tb.Cleanup(func() { _ = ln.Close(); t.abortAll(); wg.Wait() })
}

// echoUDP answers each datagram with the task's address, the client's, and the datagram.
func (t *testTask) echoUDP(tb testing.TB, port uint16) *stackPacketConn {
	tb.Helper()
	c, err := t.openUDP(netip.AddrPortFrom(t.addr, port), netip.AddrPort{})
	if err != nil {
		tb.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			chunk, n, from, err := c.next()
			if err != nil {
				return
			}
			_ = c.send(fmt.Appendf(nil, "%s %s %s", t.addr, from.Addr(), (*chunk)[:n]), from)
			chunks.Put(chunk)
		}
	})
	tb.Cleanup(func() { _ = c.Close(); wg.Wait() })
	return c
}

// freePort is a port that nobody uses.
func freePort(t testing.TB, network string) uint16 {
	t.Helper()
	if network == "udp" {
		c, err := net.ListenPacket("udp", loopback+":0")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return uint16(c.LocalAddr().(*net.UDPAddr).Port)
	}
	l, err := net.Listen("tcp", loopback+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

// eventually polls until ok, for ten seconds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func TestHostRefusesBadPublishAddr(t *testing.T) {
	_, err := newHostOn(Config{PublishAddr: netip.MustParseAddr("224.0.0.1"), Logger: slog.New(slog.DiscardHandler)}, nil, nil)
	if err == nil {
		t.Fatal("a multicast address to publish on was taken")
	}
}

func TestHostStopsWhileFlowsRun(t *testing.T) {
	w := newTestWorld(t)
	n := w.node("100.127.0.1", nil)
	task := w.task(n, "10.1.0.10")
	task.echoTCP(t, 80)
	port := freePort(t, "tcp")
	n.set(&Tables{
		Networks: []Network{w.testNetwork(n.self)},
		Ports:    []Port{{Protocol: "tcp", Port: port, Target: 80, Backends: []PortBackend{{Addr: task.addr}}}},
	})
	c := dialPublished(t, port)
	n.stop()
	if _, err := io.Copy(io.Discard, c); err == nil {
		t.Error("the client's connection ended cleanly; want a reset")
	}
}

// Super-packets go both ways whole, except one of datagrams, which the stack could not tell from a large datagram.
func TestHostSuperPackets(t *testing.T) {
	w := newTestWorld(t)
	n := w.node("100.127.0.1", nil)
	n.set(&Tables{Networks: []Network{w.testNetwork(n.self)}})
	sock, err := n.host.live.Load().ip.openUDP(netip.MustParseAddrPort("10.1.0.1:7777"), netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	defer sock.Close()
	payload := make([]byte, 2500)
	ip := append(ipHeader(netip.MustParseAddr("10.1.0.10"), netip.MustParseAddr("10.1.0.1"), protoUDP, udpLen+len(payload)),
		append([]byte{0x11, 0x11, 0x1e, 0x61, byte((udpLen + len(payload)) >> 8), byte(udpLen + len(payload)), 0, 0}, payload...)...)
	p, ok := newPacket(len(ip))
	if !ok {
		t.Fatal("no buffer")
	}
	copy(p.ip, ip)
	p.hdr = vnetHdr{flags: vnetNeedsCsum, gsoType: gsoUDPL4, gsoSize: 1000, csumStart: ipv4Len, csumOffset: 6}
	pkts := []packet{p}
	n.host.inject(pkts)
	releaseAll(pkts)
	for _, want := range []int{1000, 1000, 500} {
		chunk, k, _, err := sock.next()
		if err != nil || k != want {
			t.Fatalf("datagram of %d bytes, %v; want %d", k, err, want)
		}
		chunks.Put(chunk)
	}
}

func TestHostSendsSuperPackets(t *testing.T) {
	var largest atomic.Int32
	w := newTestWorld(t)
	n := w.node("100.127.0.1", nil)
	task := w.task(n, "10.1.0.10")
	task.echoTCP(t, 80)
	route := n.host.live.Load().ip.link.out
	n.host.live.Load().ip.link.out = func(pkts []packet) {
		for i := range pkts {
			if pkts[i].hdr.gso() == gsoTCPv4 && pkts[i].hdr.csumStart == ipv4Len && pkts[i].hdr.csumOffset == 16 {
				largest.Store(max(largest.Load(), int32(len(pkts[i].ip))))
			}
		}
		route(pkts)
	}
	n.set(&Tables{Networks: []Network{w.testNetwork(n.self)}})
	c, err := n.host.live.Load().ip.dialTCP(t.Context(), netip.MustParseAddrPort("10.1.0.1:0"), netip.AddrPortFrom(task.addr, 80))
	if err != nil {
		t.Fatal(err)
	}
	defer c.abort()
	go func() { _, _ = io.CopyN(c, zeroReader{}, 2<<20) }()
	if _, err := io.CopyN(io.Discard, c, 2<<20); err != nil {
		t.Fatal(err)
	}
	if n := largest.Load(); n < 16<<10 {
		t.Errorf("the largest super-packet had %d bytes", n)
	}
}

// G5 of the failure classes: a peer that is gone must not hold a connection for longer than a minute.
func TestKeepaliveOfStackConnections(t *testing.T) {
	w, n1, _, t1, _ := twoNodes(t)
	t1.echoTCP(t, 80)
	w.publish("tcp", freePort(t, "tcp"), backend(t1, n1))
	c, err := n1.host.live.Load().publish.dialTask(t.Context(), netip.AddrPort{}, netip.AddrPortFrom(t1.addr, 80))
	if err != nil {
		t.Fatal(err)
	}
	defer c.abort()
	var idle tcpip.KeepaliveIdleOption
	var interval tcpip.KeepaliveIntervalOption
	_ = c.ep.GetSockOpt(&idle)
	_ = c.ep.GetSockOpt(&interval)
	count, _ := c.ep.GetSockOptInt(tcpip.KeepaliveCountOption)
	if d := time.Duration(idle) + time.Duration(count)*time.Duration(interval); d > time.Minute || !c.ep.SocketOptions().GetKeepAlive() {
		t.Errorf("a dead peer is noticed after %s", d)
	}
}
