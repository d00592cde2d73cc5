package netstack

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// fakeOutside sends every connection to one listener, refuses 203.0.113.66, and notes what was dialled.
type fakeOutside struct {
	tcp, udp string

	mu     sync.Mutex
	dialed []netip.AddrPort
}

func (o *fakeOutside) DialContext(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	o.mu.Lock()
	o.dialed = append(o.dialed, to)
	o.mu.Unlock()
	if to.Addr() == netip.MustParseAddr("203.0.113.66") {
		return nil, syscall.ECONNREFUSED
	}
	var d net.Dialer
	if network == "udp" {
		return d.DialContext(ctx, "udp", o.udp)
	}
	return d.DialContext(ctx, "tcp", o.tcp)
}

func (o *fakeOutside) count() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.dialed)
}

// newFakeOutside has an echo server for both protocols.
func newFakeOutside(t testing.TB) *fakeOutside {
	ln, err := net.Listen("tcp", loopback+":0")
	if err != nil {
		t.Fatal(err)
	}
	pc, err := net.ListenPacket("udp", loopback+":0")
	if err != nil {
		t.Fatal(err)
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
				_, _ = io.Copy(c, c)
			})
		}
	})
	wg.Go(func() {
		buf := make([]byte, 65536)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo(buf[:n], from)
		}
	})
	t.Cleanup(func() { _ = ln.Close(); _ = pc.Close(); wg.Wait() })
	return &fakeOutside{tcp: ln.Addr().String(), udp: pc.LocalAddr().String()}
}

// egressWorld is a node with a task in an ordinary network, one in an internal one, and the outside.
func egressWorld(t testing.TB) (n *testNode, open, closed *testTask, out *fakeOutside) {
	out = newFakeOutside(t)
	w := newTestWorld(t)
	n = w.node("100.127.0.1", func(c *Config) { c.Outside = out })
	open, closed = w.task(n, "10.1.0.10"), w.task(n, "10.2.0.10")
	n.set(egressTables())
	return n, open, closed, out
}

func egressTables() *Tables {
	return &Tables{Networks: []Network{
		{
			ID: "net1", Subnets: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/24")}, Gateways: []netip.Addr{netip.MustParseAddr("10.1.0.1")},
			Endpoints: []Endpoint{{Addr: netip.MustParseAddr("10.1.0.10")}},
		},
		{
			ID: "net2", Internal: true, Subnets: []netip.Prefix{netip.MustParsePrefix("10.2.0.0/24")}, Gateways: []netip.Addr{netip.MustParseAddr("10.2.0.1")},
			Endpoints: []Endpoint{{Addr: netip.MustParseAddr("10.2.0.10")}},
		},
	}}
}

func (t *testTask) dial(ctx context.Context, to string) (*stackConn, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return t.dialTCP(ctx, netip.AddrPortFrom(t.addr, 0), netip.MustParseAddrPort(to))
}

func TestEgressTCP(t *testing.T) {
	n, open, closed, out := egressWorld(t)
	c, err := open.dial(t.Context(), "203.0.113.9:80")
	if err != nil {
		t.Fatal(err)
	}
	const size = 3 << 20
	go func() {
		_, _ = io.CopyN(c, zeroReader{}, size)
		_ = c.CloseWrite()
	}()
	_ = c.SetReadDeadline(time.Now().Add(15 * time.Second))
	if got, err := io.Copy(io.Discard, c); got != size || err != nil {
		t.Errorf("got %d bytes of %d, %v", got, size, err)
	}
	_ = c.Close()

	dialed := out.count()
	for name, tt := range map[string]struct {
		task *testTask
		to   string
	}{
		"unspecified":        {open, "0.0.0.0:80"},
		"link-local":         {open, "169.254.169.254:80"},
		"other network":      {open, "10.2.0.10:80"},
		"its gateway":        {open, "10.1.0.1:80"},
		"mesh":               {open, "100.127.0.1:80"},
		"from internal":      {closed, "203.0.113.9:80"},
		"gateway's unserved": {closed, "10.2.0.1:80"},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := tt.task.dial(t.Context(), tt.to)
			if !errors.Is(err, errRefused) {
				t.Errorf("got %v, want refused", err)
			}
			if err == nil {
				c.abort()
			}
		})
	}
	if out.count() != dialed {
		t.Errorf("dialled %v", out.dialed[dialed:])
	}
	t.Run("refused outside", func(t *testing.T) {
		if _, err := open.dial(t.Context(), "203.0.113.66:80"); !errors.Is(err, errRefused) {
			t.Errorf("got %v, want refused", err)
		}
	})
	eventually(t, "nothing is half open", func() bool { return n.host.live.Load().egress.halfOpen.gate.count() == 0 })
}

// With the host's own sockets, what listens on the host's loopback is out of reach.
func TestEgressNeverReachesLoopback(t *testing.T) {
	w := newTestWorld(t)
	n := w.node("100.127.0.1", nil)
	task := w.task(n, "10.1.0.10")
	n.set(egressTables())
	ln, err := net.Listen("tcp", loopback+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second) // gVisor drops what is for a loopback address and came from a link
	defer cancel()
	if c, err := task.dial(ctx, ln.Addr().String()); err == nil {
		c.abort()
		t.Error("the host's loopback answered")
	}
}

func TestEgressCutWhenTaskLeaves(t *testing.T) {
	n, open, _, _ := egressWorld(t)
	c, err := open.dial(t.Context(), "203.0.113.9:80")
	if err != nil {
		t.Fatal(err)
	}
	defer c.abort()
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	tables := egressTables()
	tables.Networks[0].Internal = true
	n.set(tables)
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("read: %v, want a reset", err)
	}
}

func TestEgressUDP(t *testing.T) {
	n, open, closed, out := egressWorld(t)
	ask := func(task *testTask, to string, patience time.Duration) (string, error) {
		c, err := task.dialUDP(netip.AddrPortFrom(task.addr, 0), netip.MustParseAddrPort(to))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		msg := bytes.Repeat([]byte("y"), 3000)
		if err := c.send(msg, netip.AddrPort{}); err != nil {
			return "", err
		}
		_ = c.SetReadDeadline(time.Now().Add(patience))
		buf := make([]byte, 4000)
		k, err := c.Read(buf)
		return string(buf[:k]), err
	}
	got, err := ask(open, "203.0.113.9:53", 10*time.Second)
	if err != nil || len(got) != 3000 {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	dialed := out.count()
	for _, to := range []string{"127.0.0.1:53", "10.2.0.10:53", "224.0.0.1:53"} {
		if got, err := ask(open, to, 300*time.Millisecond); err == nil {
			t.Errorf("%s answered %q", to, got)
		}
	}
	if got, err := ask(closed, "203.0.113.9:53", 300*time.Millisecond); err == nil {
		t.Errorf("an internal network's task got %q", got)
	}
	if out.count() != dialed {
		t.Errorf("dialled %v", out.dialed[dialed:])
	}
	n.stop()
	if c := n.host.live.Load(); c != nil {
		t.Error("still live")
	}
}

func TestIsOutside(t *testing.T) {
	tabs := compile(egressTables())
	tabs.MeshSubnet = netip.MustParsePrefix("100.127.0.0/16")
	tests := map[string]bool{
		"203.0.113.9":        true,
		"192.168.1.1":        true,
		"10.3.0.1":           true,
		"2001:db8::1":        true,
		"64:ff9b::cb00:7109": true,
		"127.0.0.1":          false,
		"127.8.9.10":         false,
		"0.0.0.0":            false,
		"0.1.2.3":            false,
		"255.255.255.255":    false,
		"224.0.0.251":        false,
		"169.254.169.254":    false,
		"10.1.0.77":          false,
		"10.2.0.1":           false,
		"100.127.3.4":        false,
		"::":                 false,
		"::1":                false,
		"::127.0.0.1":        false,
		"::ffff:127.0.0.1":   false,
		"::ffff:203.0.113.9": false,
		"fe80::1":            false,
		"ff02::1":            false,
		"fd00:ec2::254":      false,
		"64:ff9b::7f00:1":    false,
		"64:ff9b::a9fe:a9fe": false,
		"2002:7f00:1::1":     false,
		"2002:a9fe:a9fe::1":  false,
		"64:ff9b::a01:4d":    false,
		"2001:db8::1%eth0":   false,
	}
	for s, want := range tests {
		if got := isOutside(tabs, netip.MustParseAddr(s)); got != want {
			t.Errorf("isOutside(%s) = %v", s, got)
		}
	}
}

func FuzzIsOutside(f *testing.F) {
	for _, s := range []string{"127.0.0.1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "10.1.0.1"} {
		b, _ := netip.MustParseAddr(s).MarshalBinary()
		f.Add(b)
	}
	tabs := compile(egressTables())
	f.Fuzz(func(t *testing.T, b []byte) {
		a, ok := netip.AddrFromSlice(b)
		if !ok || !isOutside(tabs, a) {
			return
		}
		if u := a.Unmap(); u.IsLoopback() || u.IsUnspecified() || u.IsMulticast() || u.IsLinkLocalUnicast() || tabs.networkOf(u) != nil || a.Is4In6() {
			t.Errorf("%s is taken for the outside", a)
		}
	})
}

func TestHalfOpenCountsOnce(t *testing.T) {
	h := newHalfOpen(2, 3)
	id := func(src string, port uint16) stack.TransportEndpointID {
		return stack.TransportEndpointID{RemoteAddress: tcpipAddr(netip.MustParseAddr(src)), RemotePort: port}
	}
	steps := []struct {
		src            string
		port           uint16
		admitted, full bool
	}{
		{"10.1.0.10", 1, true, false},
		{"10.1.0.10", 1, false, false}, // the same SYN again
		{"10.1.0.10", 2, true, false},
		{"10.1.0.10", 3, false, true}, // its own bound
		{"10.1.0.11", 1, true, false},
		{"10.1.0.12", 1, false, true}, // the bound of all
	}
	for i, s := range steps {
		if a, f := h.enter(id(s.src, s.port)); a != s.admitted || f != s.full {
			t.Errorf("step %d: %v, %v", i, a, f)
		}
	}
	h.leave(id("10.1.0.10", 1))
	h.leave(id("10.1.0.10", 1))
	if n := h.gate.count(); n != 2 {
		t.Errorf("%d inside, want 2", n)
	}
}

// A task that opens connections to a silent place does not take the room of others.
func TestEgressFloodIsBounded(t *testing.T) {
	out := newFakeOutside(t)
	w := newTestWorld(t)
	silent := silentOutside{out}
	n := w.node("100.127.0.1", func(c *Config) { c.Outside = silent })
	flooder, other := w.task(n, "10.1.0.10"), w.task(n, "10.1.0.11")
	tables := egressTables()
	tables.Networks[0].Endpoints = append(tables.Networks[0].Endpoints, Endpoint{Addr: other.addr})
	n.set(tables)

	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range maxTaskHalfOpen + 64 {
		wg.Go(func() {
			if c, err := flooder.dialTCP(ctx, netip.AddrPortFrom(flooder.addr, 0), netip.MustParseAddrPort("203.0.113.1:80")); err == nil {
				c.abort()
			}
		})
	}
	gate := n.host.live.Load().egress.halfOpen.gate
	eventually(t, "the flooder is at its bound", func() bool { return gate.count() == maxTaskHalfOpen })
	c, err := other.dial(t.Context(), "203.0.113.9:80")
	if err != nil {
		t.Errorf("another task: %v", err)
	} else {
		c.abort()
	}
	cancel()
	wg.Wait()
}

// silentOutside never answers for 203.0.113.1.
type silentOutside struct{ *fakeOutside }

func (o silentOutside) DialContext(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	if to.Addr() == netip.MustParseAddr("203.0.113.1") {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return o.fakeOutside.DialContext(ctx, network, to)
}

// pingConn answers each echo request as the kernel's ICMP socket would: with an identifier of its own.
type pingConn struct {
	net.Conn
	replies chan []byte
	done    chan struct{}
	once    sync.Once
}

func (c *pingConn) Write(b []byte) (int, error) {
	r := append([]byte(nil), b...)
	r[0] = 0
	binary.BigEndian.PutUint16(r[4:], 0xdead)
	c.replies <- r
	return len(b), nil
}

func (c *pingConn) Read(b []byte) (int, error) {
	select {
	case r := <-c.replies:
		return copy(b, r), nil
	case <-c.done:
		return 0, net.ErrClosed
	}
}

func (c *pingConn) SetReadDeadline(time.Time) error { return nil }
func (c *pingConn) Close() error                    { c.once.Do(func() { close(c.done) }); return nil }

func TestEgressPing(t *testing.T) {
	got := make(chan []byte, 16)
	w := newTestWorld(t)
	n := w.node("100.127.0.1", nil)
	n.set(egressTables())
	n.host.live.Load().egress.pings.open = func(dst netip.Addr) (net.Conn, error) {
		if dst == netip.MustParseAddr("203.0.113.66") {
			return nil, syscall.EACCES
		}
		return &pingConn{replies: make(chan []byte, 16), done: make(chan struct{})}, nil
	}
	n.host.live.Load().h.out = func(pkts []packet) { got <- copyOf(&pkts[0]) }
	ping := func(src, dst string) {
		msg := []byte{icmpEchoRequest4, 0, 0, 0, 0x12, 0x34, 0, 1, 'a', 'b'}
		binary.BigEndian.PutUint16(msg[2:], ^sum(msg, 0))
		n.inject(append(ipHeader(netip.MustParseAddr(src), netip.MustParseAddr(dst), protoICMP, len(msg)), msg...))
	}
	recv := func() []byte {
		select {
		case b := <-got:
			return b
		case <-time.After(10 * time.Second):
			t.Fatal("no packet")
			return nil
		}
	}
	ping("10.1.0.10", "203.0.113.9")
	r := recv()
	if r[20] != 0 || binary.BigEndian.Uint16(r[24:]) != 0x1234 || string(r[28:]) != "ab" || ipSrc(r) != netip.MustParseAddr("203.0.113.9") ||
		ipDst(r) != netip.MustParseAddr("10.1.0.10") || sum(r[20:], 0) != 0xffff {
		t.Errorf("reply % x", r)
	}
	ping("10.1.0.10", "203.0.113.66")
	if r := recv(); r[20] != 3 || r[21] != 13 || sum(r[20:], 0) != 0xffff {
		t.Errorf("want administratively prohibited, got % x", r)
	}
	for _, p := range [][2]string{{"10.1.0.10", "127.0.0.1"}, {"10.2.0.10", "203.0.113.9"}, {"10.1.0.10", "10.2.0.10"}} {
		ping(p[0], p[1])
	}
	select {
	case b := <-got:
		t.Errorf("answered % x", b)
	case <-time.After(50 * time.Millisecond):
	}
}

// A task that never completes its handshake does not hold up the end.
func TestEgressStopsDuringHandshake(t *testing.T) {
	n, _, _, out := egressWorld(t)
	tcp := header.TCP(make([]byte, header.TCPMinimumSize))
	tcp.Encode(&header.TCPFields{SrcPort: 4000, DstPort: 80, SeqNum: 1, DataOffset: header.TCPMinimumSize, Flags: header.TCPFlagSyn, WindowSize: 65535})
	src, dst := netip.MustParseAddr("10.1.0.77"), netip.MustParseAddr("203.0.113.9") // no task: nobody answers the SYN-ACK
	n.inject(append(ipHeader(src, dst, protoTCP, len(tcp)), tcp...))
	eventually(t, "the outside was dialled", func() bool { return out.count() == 1 })
	n.stop() // fails the test when it takes too long
}
