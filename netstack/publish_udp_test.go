package netstack

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// askUDP sends until an answer comes, and returns the task, the client that it sees, and the rest.
func askUDP(t *testing.T, c net.Conn, msg string) (task, client, rest string) {
	t.Helper()
	buf := make([]byte, 65536)
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		if _, err := c.Write([]byte(msg)); err != nil {
			continue // refused by the kernel for the last one
		}
		_ = c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		if n, err := c.Read(buf); err == nil {
			f := strings.SplitN(string(buf[:n]), " ", 3)
			return f[0], f[1], f[2]
		}
	}
	t.Fatal("no answer within 10 s")
	return
}

func dialUDPPort(t *testing.T, addr string, port uint16) net.Conn {
	t.Helper()
	c, err := net.Dial("udp", net.JoinHostPort(addr, fmt.Sprint(port)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestPublishUDP(t *testing.T) {
	w, n1, n2, t1, t2 := twoNodes(t)
	t1.echoUDP(t, 80)
	t2.echoUDP(t, 80)
	port := freePort(t, "udp")
	w.publish("udp", port, backend(t1, n1), backend(t2, n2))
	seen := map[string]int{}
	for i := range 6 {
		c := dialUDPPort(t, loopback, port)
		msg := strings.Repeat("x", 10+i*700) // more than one MTU, too
		task, client, rest := askUDP(t, c, msg)
		if client != "10.1.0.1" || rest != msg {
			t.Errorf("the task sees %s and %d bytes of %d", client, len(rest), len(msg))
		}
		if again, _, _ := askUDP(t, c, "again"); again != task {
			t.Errorf("one flow went to %s and %s", task, again)
		}
		seen[task]++
	}
	if seen["10.1.0.10"] != 3 || seen["10.1.0.11"] != 3 {
		t.Errorf("spread %v, want 3 each", seen)
	}
}

func TestPublishUDPBackendLeaves(t *testing.T) {
	w, n1, n2, t1, t2 := twoNodes(t)
	t1.echoUDP(t, 80)
	t2.echoUDP(t, 80)
	port := freePort(t, "udp")
	w.publish("udp", port, backend(t2, n2))
	c := dialUDPPort(t, loopback, port)
	if task, _, _ := askUDP(t, c, "a"); task != "10.1.0.11" {
		t.Fatalf("served by %s", task)
	}
	draining := backend(t2, n2)
	draining.Draining = true
	w.publish("udp", port, draining)
	if task, _, _ := askUDP(t, c, "a"); task != "10.1.0.11" {
		t.Fatalf("served by %s while its backend drains", task)
	}
	w.publish("udp", port, backend(t1, n1))
	if task, _, _ := askUDP(t, c, "b"); task != "10.1.0.10" {
		t.Errorf("served by %s after its backend left", task)
	}
	if n := len(n2.host.live.Load().publish.peer.udp.flows); n != 0 {
		t.Errorf("the other node still has %d flows", n)
	}
}

// A backend without the socket is noticed, on this node and on another.
func TestPublishUDPRefusing(t *testing.T) {
	w, n1, n2, t1, t2 := twoNodes(t)
	t3 := w.task(n2, "10.1.0.12")
	t3.echoUDP(t, 80)
	port := freePort(t, "udp")
	w.publish("udp", port, backend(t1, n1), backend(t2, n2), backend(t3, n2))
	for range 3 {
		if task, _, _ := askUDP(t, dialUDPPort(t, loopback, port), "x"); task != "10.1.0.12" {
			t.Errorf("served by %s", task)
		}
	}
}

// With a socket on all addresses the reply comes from the address that the client spoke to; its connected socket takes no other.
func TestPublishUDPReplyAddress(t *testing.T) {
	w := newTestWorld(t)
	n := w.node("100.127.0.1", func(c *Config) { c.PublishAddr = netip.Addr{} })
	task := w.task(n, "10.1.0.10")
	task.echoUDP(t, 80)
	port := freePort(t, "udp")
	w.publish("udp", port, backend(task, n))
	for _, addr := range []string{loopback, loopback2} {
		if got, _, _ := askUDP(t, dialUDPPort(t, addr, port), "x"); got != "10.1.0.10" {
			t.Errorf("served by %s", got)
		}
	}
}

func TestUDPFlowsExpire(t *testing.T) {
	w, n1, n2, _, t2 := twoNodes(t)
	t2.echoUDP(t, 80)
	port := freePort(t, "udp")
	w.publish("udp", port, backend(t2, n2))
	askUDP(t, dialUDPPort(t, loopback, port), "x")
	p1, p2 := n1.host.live.Load().publish, n2.host.live.Load().publish
	later := time.Now().Add(udpIdle + time.Second)
	p1.udp.expire(later)
	p2.peer.udp.expire(later)
	if len(p1.udp.byID) != 0 || len(p2.peer.udp.flows) != 0 || p1.udp.gate.count() != 0 || p2.peer.udp.gate.count() != 0 {
		t.Error("idle flows live on")
	}
}

func FuzzPeerDatagram(f *testing.F) {
	f.Add(peerDatagram{udpToTask, 7, netip.MustParseAddrPort("10.1.0.10:53"), netip.MustParseAddrPort("[2001:db8::1]:9")}.append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, payload, ok := parsePeerDatagram(b)
		if !ok {
			return
		}
		again, rest, ok := parsePeerDatagram(append(d.append(nil), payload...))
		if !ok || again != d || string(rest) != string(payload) {
			t.Errorf("%+v became %+v", d, again)
		}
	})
}
