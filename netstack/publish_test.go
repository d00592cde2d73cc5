package netstack

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

func dialPublished(t testing.TB, port uint16) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", net.JoinHostPort(loopback, fmt.Sprint(port)))
	if err != nil {
		t.Fatalf("dial published port: %v", err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(15 * time.Second))
	return c.(*net.TCPConn)
}

// who reads the first line of echoTCP: the task and the client that it sees.
func who(t testing.TB, c net.Conn) (task, client string) {
	t.Helper()
	line, err := bufio.NewReader(io.LimitReader(c, 64)).ReadString('\n')
	if err != nil {
		t.Fatalf("read greeting: %v (%q)", err, line)
	}
	task, client, _ = strings.Cut(strings.TrimSpace(line), " ")
	return task, client
}

// twoNodes is a world of two nodes with a task each (10.1.0.10, 10.1.0.11).
func twoNodes(t testing.TB) (w *testWorld, n1, n2 *testNode, t1, t2 *testTask) {
	w = newTestWorld(t)
	n1, n2 = w.node("100.127.0.1", nil), w.node("100.127.0.2", func(c *Config) { c.PublishAddr = netip.MustParseAddr(loopback2) })
	t1, t2 = w.task(n1, "10.1.0.10"), w.task(n2, "10.1.0.11")
	return w, n1, n2, t1, t2
}

// publish gives a port with the backends to all nodes of the world.
func (w *testWorld) publish(protocol string, port uint16, backends ...PortBackend) {
	for _, n := range w.nodes {
		n.set(&Tables{
			Networks: []Network{w.testNetwork(n.self)},
			Ports:    []Port{{Protocol: protocol, Port: port, Target: 80, Backends: append([]PortBackend(nil), backends...)}},
		})
	}
}

func backend(t *testTask, n *testNode) PortBackend { return PortBackend{Addr: t.addr, Node: n.self} }

func TestPublishTCP(t *testing.T) {
	w, n1, n2, t1, t2 := twoNodes(t)
	t1.echoTCP(t, 80)
	t2.echoTCP(t, 80)
	port := freePort(t, "tcp")
	w.publish("tcp", port, backend(t1, n1), backend(t2, n2))

	seen := map[string]int{}
	for range 20 {
		c := dialPublished(t, port)
		task, client := who(t, c)
		seen[task]++
		if !strings.HasPrefix(client, "10.1.0.1:") {
			t.Fatalf("a loopback client is seen as %s, want the gateway", client)
		}
		// The client's end must not end the answer.
		if _, err := c.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		_ = c.CloseWrite()
		if got, err := io.ReadAll(c); err != nil || string(got) != "hello" {
			t.Fatalf("echo: %q, %v", got, err)
		}
	}
	if seen["10.1.0.10"] != 10 || seen["10.1.0.11"] != 10 {
		t.Errorf("spread %v, want 10 each", seen)
	}
	eventually(t, "no connection is left", func() bool {
		r1, r2 := n1.host.live.Load(), n2.host.live.Load()
		return r1.publish.conns.count() == 0 && r2.publish.peer.halfOpen.count() == 0 && r1.publish.halfOpen.count() == 0
	})
}

func TestPublishLargeTransfer(t *testing.T) {
	w, n1, n2, t1, t2 := twoNodes(t)
	t1.echoTCP(t, 80)
	t2.echoTCP(t, 80)
	for name, b := range map[string]PortBackend{"local": backend(t1, n1), "remote": backend(t2, n2)} {
		t.Run(name, func(t *testing.T) {
			port := freePort(t, "tcp")
			w.publish("tcp", port, b)
			c := dialPublished(t, port)
			who(t, c)
			const size = 4 << 20
			go func() {
				_, _ = io.CopyN(c, zeroReader{}, size)
				_ = c.CloseWrite()
			}()
			if n, err := io.Copy(io.Discard, c); n < size || err != nil {
				t.Fatalf("got %d bytes, %v", n, err)
			}
		})
	}
}

type zeroReader struct{}

func (zeroReader) Read(b []byte) (int, error) { return len(b), nil }

func TestPublishClientAddress(t *testing.T) {
	w, n1, n2, t1, t2 := twoNodes(t)
	t1.echoTCP(t, 80)
	t2.echoTCP(t, 80)
	w.publish("tcp", freePort(t, "tcp"), backend(t1, n1), backend(t2, n2))
	tests := []struct {
		name, client, want string
	}{
		{"real", "203.0.113.7:5555", "203.0.113.7:5555"},
		{"mapped", "[::ffff:203.0.113.8]:5555", "203.0.113.8:5555"},
		{"loopback", "127.0.0.1:5555", "10.1.0.1:"},
		{"overlapping", "10.1.0.77:5555", "10.1.0.1:"},
		{"mesh", "100.127.0.9:5555", "10.1.0.1:"},
		{"other family", "[2001:db8::1]:5555", "10.1.0.1:"},
		{"link-local", "[fe80::1%eth0]:5555", "10.1.0.1:"},
	}
	for _, tt := range tests {
		for _, b := range []PortBackend{{Addr: t1.addr}, backend(t2, n2)} {
			t.Run(tt.name+" "+placeOf(b), func(t *testing.T) {
				p := n1.host.live.Load().publish
				c, err := p.dial(t.Context(), b, netip.MustParseAddrPort(tt.client), netip.AddrPortFrom(b.Addr, 80))
				if err != nil {
					t.Fatal(err)
				}
				defer c.abort()
				if _, client := who(t, c); !strings.HasPrefix(client, tt.want) {
					t.Errorf("the task sees %s, want %s", client, tt.want)
				}
			})
		}
	}
}

// A second connection from the same address and port to the same task gets another source port, not an error.
func TestPublishSourcePortCollision(t *testing.T) {
	w, n1, _, t1, _ := twoNodes(t)
	t1.echoTCP(t, 80)
	w.publish("tcp", freePort(t, "tcp"), backend(t1, n1))
	p := n1.host.live.Load().publish
	client := netip.MustParseAddrPort("203.0.113.7:5555")
	for range 3 {
		c, err := p.dialTask(t.Context(), client, netip.AddrPortFrom(t1.addr, 80))
		if err != nil {
			t.Fatal(err)
		}
		defer c.abort()
		if _, seen := who(t, c); !strings.HasPrefix(seen, "203.0.113.7:") {
			t.Errorf("seen as %s", seen)
		}
	}
}

func wantReset(t *testing.T, c net.Conn) {
	t.Helper()
	if _, err := io.Copy(io.Discard, c); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("connection ended with %v, want a reset", err)
	}
}

// wantNoBackend dials a port that listens but has no backend that accepts: the client is reset, perhaps before its connect returns.
func wantNoBackend(t *testing.T, port uint16) {
	t.Helper()
	c, err := net.Dial("tcp", net.JoinHostPort(loopback, fmt.Sprint(port)))
	if errors.Is(err, syscall.ECONNRESET) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(15 * time.Second))
	wantReset(t, c)
}

func wantRefused(t *testing.T, port uint16) {
	t.Helper()
	c, err := net.Dial("tcp", net.JoinHostPort(loopback, fmt.Sprint(port)))
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial: %v, want refused", err)
	}
	if err == nil {
		_ = c.Close()
	}
}

func TestPublishBackendLeaves(t *testing.T) {
	for _, place := range []string{"local", "remote"} {
		t.Run(place, func(t *testing.T) {
			w, n1, n2, t1, t2 := twoNodes(t)
			t1.echoTCP(t, 80)
			t2.echoTCP(t, 80)
			port := freePort(t, "tcp")
			b := backend(t1, n1)
			if place == "remote" {
				b = backend(t2, n2)
			}
			w.publish("tcp", port, b)
			c := dialPublished(t, port)
			who(t, c)

			b.Draining = true
			w.publish("tcp", port, b)
			wantRefused(t, port)
			if _, err := c.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
				t.Fatalf("the connection of a draining backend: %v", err)
			}

			w.publish("tcp", port)
			wantReset(t, c)
			wantRefused(t, port)
		})
	}
}

func TestPublishRefusingBackends(t *testing.T) {
	w, n1, n2, t1, t2 := twoNodes(t)
	t2.echoTCP(t, 80) // nobody listens in t1
	port := freePort(t, "tcp")
	w.publish("tcp", port, backend(t1, n1), backend(t2, n2))
	for range 6 {
		if task, _ := who(t, dialPublished(t, port)); task != "10.1.0.11" {
			t.Fatalf("served by %s", task)
		}
	}
	w.publish("tcp", port, backend(t1, n1))
	wantNoBackend(t, port)
	w.publish("tcp", port, PortBackend{Addr: t1.addr, Node: n2.self}) // not a task of that node
	wantNoBackend(t, port)
}

// A node that is dead costs the first client a second and then no one.
func TestPublishDeadNode(t *testing.T) {
	w, n1, _, t1, t2 := twoNodes(t)
	t1.echoTCP(t, 80)
	port := freePort(t, "tcp")
	dead := PortBackend{Addr: t2.addr, Node: netip.MustParseAddr("100.127.0.99")}
	w.publish("tcp", port, backend(t1, n1), dead)
	start := time.Now()
	for range 8 {
		if task, _ := who(t, dialPublished(t, port)); task != "10.1.0.10" {
			t.Fatalf("served by %s", task)
		}
	}
	if d := time.Since(start); d > 3*time.Second {
		t.Errorf("eight clients took %s", d)
	}
}

func TestPublishHostMode(t *testing.T) {
	table := newPortTable(&Port{Host: true, Backends: []PortBackend{
		{Addr: netip.MustParseAddr("10.1.0.10"), Node: netip.MustParseAddr("100.127.0.1")},
		{Addr: netip.MustParseAddr("10.1.0.11"), Node: netip.MustParseAddr("100.127.0.2")},
		{Addr: netip.MustParseAddr("10.1.0.12")},
	}}, netip.MustParseAddr("100.127.0.1"))
	if len(table.serving) != 2 || table.serving[0].Node.IsValid() {
		t.Errorf("backends %v, want the two of this node", table.serving)
	}
}

func TestPublishPortTaken(t *testing.T) {
	w, n1, _, t1, _ := twoNodes(t)
	t1.echoTCP(t, 80)
	holder, err := net.Listen("tcp", loopback+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close()
	port := uint16(holder.Addr().(*net.TCPAddr).Port)
	n1.set(&Tables{Networks: []Network{w.testNetwork(n1.self)}, Ports: []Port{
		{Protocol: "tcp", Port: port, Target: 80, Backends: []PortBackend{{Addr: t1.addr}}},
	}})
	key := fmt.Sprintf("tcp/%d", port)
	comm, _ := os.ReadFile("/proc/self/comm")
	want := fmt.Sprintf("port %d: address already in use by %s (pid %d)", port, strings.TrimSpace(string(comm)), os.Getpid())
	eventually(t, "the port is reported", func() bool { return n1.errors.Load() != nil })
	if got := (*n1.errors.Load())[key]; got != want {
		t.Fatalf("reported %q, want %q", got, want)
	}
	_ = holder.Close()
	n1.host.live.Load().publish.openAll()
	eventually(t, "the port is no longer reported", func() bool { return len(*n1.errors.Load()) == 0 })
	who(t, dialPublished(t, port))
}

func TestExplainListen(t *testing.T) {
	err := explainListen(portKey{"tcp", 80}, netip.Addr{}, &net.OpError{Op: "listen", Err: syscall.EACCES})
	want := "port 80 needs privileges: publish 8080, or lower net.ipv4.ip_unprivileged_port_start"
	if err == nil || err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
}

// Who is not a node, asks for what is not published, or sends garbage gets nothing.
func TestPeerServerRefuses(t *testing.T) {
	w, n1, n2, t1, t2 := twoNodes(t)
	t1.echoTCP(t, 80)
	t1.echoTCP(t, 81)
	w.publish("tcp", freePort(t, "tcp"), backend(t1, n1))
	at := netip.AddrPortFrom(n1.self, peerPort)
	client := netip.MustParseAddrPort("203.0.113.7:5555")

	ask := func(t *testing.T, b []byte) (byte, error) {
		c, err := n2.host.live.Load().ip.dialTCP(t.Context(), netip.AddrPortFrom(n2.self, 0), at)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
		var answer [1]byte
		_, err = io.ReadFull(c, answer[:])
		return answer[0], err
	}
	t.Run("served", func(t *testing.T) {
		if a, err := ask(t, peerRequest{netip.AddrPortFrom(t1.addr, 80), client}.append(nil)); a != peerOK {
			t.Errorf("answer %d, %v", a, err)
		}
	})
	t.Run("other port of the task", func(t *testing.T) {
		if a, err := ask(t, peerRequest{netip.AddrPortFrom(t1.addr, 81), client}.append(nil)); a != peerUnknown {
			t.Errorf("answer %d, %v", a, err)
		}
	})
	t.Run("other version", func(t *testing.T) {
		b := peerRequest{netip.AddrPortFrom(t1.addr, 80), client}.append(nil)
		b[0] = 9
		if a, err := ask(t, b); err == nil {
			t.Errorf("answer %d", a)
		}
	})
	t.Run("a task asks", func(t *testing.T) {
		_ = t2
		s := n1.host.live.Load().publish.peer
		a, b := net.Pipe()
		defer a.Close()
		s.serve(otherConn{b}) // a pipe has no mesh address
		if _, err := a.Write([]byte{1}); err == nil {
			t.Error("taken")
		}
	})
}

func TestProcAddr(t *testing.T) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("the samples are of a little-endian machine")
	}
	for s, want := range map[string]string{
		"0100007F:1F90":                         "127.0.0.1:8080",
		"00000000000000000000000001000000:0050": "[::1]:80",
		"0000000000000000FFFF00000100007F:0050": "127.0.0.1:80",
	} {
		if got, err := procAddr(s); err != nil || got.String() != want {
			t.Errorf("%s: %s, %v", s, got, err)
		}
	}
	for _, s := range []string{"", ":", "zz:0050", "0100007F:", "0100007F:12345"} {
		if _, err := procAddr(s); err == nil {
			t.Errorf("%q was taken", s)
		}
	}
}
