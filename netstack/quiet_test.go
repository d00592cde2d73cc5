package netstack

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// talk sends a packet to the task every 20 ms until stop is called, and counts them.
func talk(t *testing.T, l *Link, packet []byte) (sent *atomic.Int32, stop func()) {
	t.Helper()
	sent = new(atomic.Int32)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			if p, ok := newPacket(len(packet)); ok {
				copy(p.ip, packet)
				l.write(&p)
				p.release()
				sent.Add(1)
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	})
	return sent, func() { cancel(); wg.Wait() }
}

func TestQuiet(t *testing.T) {
	for name, tt := range map[string]struct {
		packet []byte
		counts bool
	}{
		"datagrams":           {datagram("10.0.16.9:40000", "10.0.16.3:53", []byte("q")), true},
		"datagrams, IPv6":     {datagram("[fd00:16::9]:40000", "[fd00:16::3]:53", []byte("q")), true},
		"answers to the task": {datagram("10.0.16.9:53", "10.0.16.3:40000", []byte("a")), false},
		"TCP":                 {segment("10.0.16.9:40000", "10.0.16.3:80", 1, 1, tcpACK, nil), false},
	} {
		t.Run(name, func(t *testing.T) {
			n := newWholeNode(t, node1)
			n.set(vipTables(on(3)))
			n.task(t, TUN, "10.0.16.3", "fd00:16::3")
			addrs := []netip.Addr{addr("10.0.16.3"), addr("fd00:16::3"), addr("10.0.16.77")}
			sent, stop := talk(t, n.fabric.link(addrs[0]), tt.packet)
			defer stop()
			ctx, cancel := context.WithTimeout(t.Context(), 3*quietFor)
			defer cancel()
			err := n.Quiet(ctx, addrs, false, true)
			if sent.Load() == 0 || errors.Is(err, context.DeadlineExceeded) != tt.counts {
				t.Errorf("after %d packets: %v", sent.Load(), err)
			}
			if err := n.Quiet(ctx, addrs, true, true); !errors.Is(err, context.DeadlineExceeded) && name == "TCP" {
				t.Errorf("TCP is asked for, and is not quiet: %v", err)
			}
			stop()
			begin := time.Now()
			if err := n.Quiet(t.Context(), addrs, true, true); err != nil || time.Since(begin) < quietFor {
				t.Errorf("quiet after %v: %v", time.Since(begin), err)
			}
			if w := n.fabric.link(addrs[0]).quiet.watchers.Load(); w != 0 {
				t.Errorf("%d watchers are left", w)
			}
		})
	}
}
