package netstack

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"
)

// publishingNode is a whole Netstack with published ports on an address of this host, and an outside of its own.
func publishingNode(t testing.TB, self, publish string, out Outside) *wholeNode {
	t.Helper()
	n, err := New(Config{PublishAddr: netip.MustParseAddr(publish), Outside: out, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return &wholeNode{Netstack: n, self: addr(self)}
}

// A client of one node's published ports is served by a task of the other, over the real fabric and mesh port.
func TestPublishAcrossNodes(t *testing.T) {
	n1, n2 := publishingNode(t, node1, loopback, nil), publishingNode(t, node2, loopback2, nil)
	task := n2.task(t, TUN, "10.0.16.10")
	tcpPort, udpPort := freePort(t, "tcp"), freePort(t, "udp")
	tables := vipTables(on(10))
	for i := range tables.Networks {
		for j := range tables.Networks[i].Endpoints {
			if e := &tables.Networks[i].Endpoints[j]; e.Addr == addr("10.0.16.10") {
				e.Node = n2.self
			}
		}
	}
	serving := []PortBackend{{Addr: addr("10.0.16.10"), Node: n2.self}}
	tables.Ports = []Port{
		{Protocol: "tcp", Port: tcpPort, Target: 80, Backends: serving},
		{Protocol: "udp", Port: udpPort, Target: 53, Backends: serving},
	}
	echo(t, task, "10.0.16.10:80")
	udp, err := task.DialUDP(netip.MustParseAddrPort("10.0.16.10:53"), netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 65536)
		for {
			n, from, err := udp.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = udp.WriteTo(append([]byte("task client "), buf[:n]...), from)
		}
	}()
	t.Cleanup(func() { _ = udp.Close(); <-done })
	n1.set(tables)
	n2.set(tables)
	joinDevices(t, n1, n2)
	eventually(t, "the ports are open", func() bool {
		c, err := net.Dial("tcp", net.JoinHostPort(loopback, strconv.Itoa(int(tcpPort))))
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})

	msg := bytes.Repeat([]byte("0123456789"), 100000)
	c := dialPublished(t, tcpPort)
	go func() {
		_, _ = c.Write(msg)
		_ = c.CloseWrite()
	}()
	if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, msg) {
		t.Errorf("TCP: %d bytes of %d, %v", len(got), len(msg), err)
	}
	big := string(msg[:5000]) // four fragments on the mesh
	if _, _, rest := askUDP(t, dialUDPPort(t, loopback, udpPort), big); rest != big {
		t.Errorf("UDP: %d bytes of %d", len(rest), len(big))
	}
}

func TestEgressOfWholeNode(t *testing.T) {
	out := newFakeOutside(t)
	n := publishingNode(t, node1, loopback, out)
	n.set(vipTables(on(3)))
	task := n.task(t, TUN, "10.0.16.3")
	eventually(t, "the outside answers", func() bool { return say(task, "203.0.113.9:80", []byte("hello")) == nil })
	c, err := task.DialUDP(netip.MustParseAddrPort("10.0.16.3:4000"), netip.MustParseAddrPort("203.0.113.9:9"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, 16)
	if _, err := c.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	if k, err := c.Read(buf); err != nil || string(buf[:k]) != "ping" {
		t.Errorf("UDP: %q, %v", buf[:k], err)
	}
}

// BenchmarkKernelPublished is one TCP connection of a client of the host through a published port to a task with a real device.
func BenchmarkKernelPublished(b *testing.B) {
	n := publishingNode(b, node1, loopback, nil)
	k := newKernelTask(b, TUN, addr("10.0.16.3"))
	port := freePort(b, "tcp")
	tables := vipTables(on(3))
	tables.Ports = []Port{{Protocol: "tcp", Port: port, Target: 80, Backends: []PortBackend{{Addr: addr("10.0.16.3")}}}}
	if _, err := n.Attach(LinkConfig{TaskID: "t", NetworkID: "a", Addrs: []netip.Addr{addr("10.0.16.3")}, Kind: TUN, File: k.file}); err != nil {
		b.Fatal(err)
	}
	l := k.listen(b, "10.0.16.3:80")
	served := make(chan struct{})
	go func() {
		defer close(served)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.Copy(c, c)
	}()
	n.set(tables)
	eventually(b, "the port is open", func() bool {
		r := n.Netstack.host.live.Load()
		if r == nil {
			return false
		}
		r.publish.mu.Lock()
		defer r.publish.mu.Unlock()
		p := r.publish.ports[portKey{"tcp", port}]
		return p != nil && p.open
	})
	c := dialPublished(b, port)
	_ = c.SetDeadline(time.Time{})
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, _ = io.CopyN(c, zeroReader{}, 1<<60)
	}()
	buf := make([]byte, 1<<20)
	b.SetBytes(int64(len(buf)))
	for b.Loop() {
		if _, err := io.ReadFull(c, buf); err != nil {
			b.Fatal(err)
		}
	}
	_ = c.Close()
	<-sent
	<-served
}
