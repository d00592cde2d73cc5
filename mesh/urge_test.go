package mesh

import (
	"net/netip"
	"sync"
	"testing"
	"time"
)

// Two nodes that learn of each other at different moments lose the first request for a session; WireGuard alone repeats
// it after five seconds.
func TestSessionAfterLostRequests(t *testing.T) {
	network, n, _, addrs := memoryNodes(t, 2)
	for _, x := range n {
		must(t, x.SetPeers(nil))
	}
	const initiation = 1 // message type, whitepaper section 5.4.2
	var mu sync.Mutex
	requests := map[netip.AddrPort]int{}
	network.Filter(func(from, _ netip.AddrPort, b []byte) bool {
		mu.Lock()
		defer mu.Unlock()
		if len(b) == 0 || b[0] != initiation {
			return true
		}
		requests[from]++
		return requests[from] > 1
	})
	for i, x := range n {
		must(t, x.SetPeers([]Peer{n[1-i].peer(addrs[1-i])}))
	}
	deadline := time.Now().Add(4 * time.Second)
	for n[0].Peers()[0].LastHandshake.IsZero() || n[1].Peers()[0].LastHandshake.IsZero() {
		if time.Now().After(deadline) {
			mu.Lock()
			defer mu.Unlock()
			t.Fatalf("no session; requests so far: %v", requests)
		}
		time.Sleep(10 * time.Millisecond)
	}
	expect(t, n[0], n[1], udp4(n[0].addr, n[1].addr, "there"))
	expect(t, n[1], n[0], udp4(n[1].addr, n[0].addr, "back"))
}
