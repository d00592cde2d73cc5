package netstack

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/meshswarm/meshswarm/netstack/netstacktest"
)

// wholeNode is a Netstack of the public API.
type wholeNode struct {
	*Netstack
	self netip.Addr
}

func newWholeNode(t *testing.T, self string) *wholeNode {
	t.Helper()
	n, err := New(Config{Resolvers: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:1")}})
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

func (n *wholeNode) set(t *Tables) {
	c := *t
	c.Self, c.MeshSubnet = n.self, netip.MustParsePrefix("100.127.0.0/16")
	n.SetTables(&c)
}

// task attaches a task that speaks TCP/IP.
func (n *wholeNode) task(t *testing.T, kind Kind, addrs ...string) *netstacktest.Stack {
	t.Helper()
	cfg := LinkConfig{TaskID: addrs[0], NetworkID: "a", Kind: kind, MAC: []byte{2, 0, 0, 0, 0, 9}}
	for _, a := range addrs {
		cfg.Addrs = append(cfg.Addrs, addr(a))
	}
	var dev *netstacktest.Device
	var err error
	if kind == TUN {
		cfg.File, dev, err = netstacktest.NewTUN()
	} else {
		cfg.File, dev, err = netstacktest.NewPacket(cfg.MAC)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.Attach(cfg); err != nil {
		t.Fatal(err)
	}
	s, err := netstacktest.NewStack(dev, DefaultMTU, cfg.Addrs...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// joinDevices carries packets between two nodes.
func joinDevices(t *testing.T, a, b *wholeNode) {
	var wg sync.WaitGroup
	carry := func(from, to *wholeNode) {
		const offset = 16
		bufs, sizes := make([][]byte, from.Device().BatchSize()), make([]int, from.Device().BatchSize())
		for i := range bufs {
			bufs[i] = make([]byte, maxIP)
		}
		for {
			n, err := from.Device().Read(bufs, sizes, offset)
			if err != nil {
				return
			}
			batch := make([][]byte, n)
			for i := range batch {
				batch[i] = append(make([]byte, offset), bufs[i][offset:offset+sizes[i]]...)
			}
			if _, err := to.Device().Write(batch, offset); err != nil {
				return
			}
		}
	}
	wg.Go(func() { carry(a, b) })
	wg.Go(func() { carry(b, a) })
	t.Cleanup(func() {
		a.Device().Close()
		b.Device().Close()
		wg.Wait()
	})
}

// echo serves TCP echo at the address until the test ends.
func echo(t *testing.T, s *netstacktest.Stack, at string) {
	t.Helper()
	l, err := s.Listen(netip.MustParseAddrPort(at))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
}

// say sends a message over a new connection and wants it back.
func say(s *netstacktest.Stack, to string, msg []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c, err := s.Dial(ctx, netip.MustParseAddrPort(to))
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return err
	}
	go func() { _, _ = c.Write(msg) }()
	got := make([]byte, len(msg))
	if n, err := io.ReadFull(c, got); err != nil {
		return fmt.Errorf("after %d bytes: %w", n, err)
	}
	if !bytes.Equal(got, msg) {
		return fmt.Errorf("the answer differs")
	}
	return nil
}

func TestServiceOnTwoNodes(t *testing.T) {
	n1, n2 := newWholeNode(t, node1), newWholeNode(t, node2)
	tables := vipTables(on(3), on(10))
	n1.set(tables)
	n2.set(tables)
	client := n1.task(t, TUN, "10.0.16.2", "fd00:16::2")
	near := n1.task(t, Packet, "10.0.16.3", "fd00:16::3")
	far := n2.task(t, TUN, "10.0.16.10", "fd00:16::10")
	joinDevices(t, n1, n2)
	for _, s := range []struct {
		stack *netstacktest.Stack
		last  int
	}{{near, 3}, {far, 10}} {
		echo(t, s.stack, at(vip4, s.last, 80))
		echo(t, s.stack, at(vip6, s.last, 80))
	}
	msg := bytes.Repeat([]byte("0123456789"), 20000)
	for _, vip := range []string{vip4, vip6} {
		for range 8 {
			if err := say(client, atVIP(vip, 80), msg); err != nil {
				t.Fatalf("%s: %v", vip, err)
			}
		}
	}
	if err := say(near, atVIP(vip4, 80), msg); err != nil {
		t.Errorf("a backend calls its own service: %v", err)
	}
	if err := say(client, atVIP(vip4, 81), nil); err == nil {
		t.Error("a port that nobody serves was connected")
	}
}

func TestFlowsWhileTablesChange(t *testing.T) {
	n1 := newWholeNode(t, node1)
	n1.set(vipTables(on(3), on(4)))
	client := n1.task(t, TUN, "10.0.16.2")
	for _, last := range []int{3, 4} {
		echo(t, n1.task(t, TUN, fmt.Sprintf("10.0.16.%d", last)), at(vip4, last, 80))
	}
	stop := make(chan struct{})
	var tables, talk sync.WaitGroup
	tables.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(10 * time.Millisecond):
			}
			// One backend drains and comes back, a third one that nobody uses comes and goes.
			next := []Backend{on(3), on(4)}
			if i%2 == 0 {
				next = []Backend{draining(3), on(4), draining(5)}
			}
			n1.set(vipTables(next...))
		}
	})
	errs := make(chan error, 200)
	for range 8 {
		talk.Go(func() {
			for range 12 {
				errs <- say(client, atVIP(vip4, 80), make([]byte, 20000))
			}
		})
	}
	talk.Wait()
	close(stop)
	tables.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
}

func TestMetrics(t *testing.T) {
	r := prometheus.NewPedanticRegistry()
	if _, err := New(Config{Registry: r}); err != nil {
		t.Fatal(err)
	}
	m, err := r.Gather()
	if err != nil || len(m) < 5 {
		t.Errorf("%d metrics, %v", len(m), err)
	}
}

func TestNewRefuses(t *testing.T) {
	for _, mtu := range []int{1, 1279, 70000} {
		if _, err := New(Config{MTU: mtu}); err == nil {
			t.Errorf("MTU %d was accepted", mtu)
		}
	}
}
