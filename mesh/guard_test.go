package mesh

import (
	"net/netip"
	"testing"
	"time"
)

// fakeDevice reads the packets it is given and counts.
type fakeDevice struct {
	*guard
	next [][]byte
}

func (d *fakeDevice) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	for i, p := range d.next {
		sizes[i] = copy(bufs[i][offset:], p)
	}
	return len(d.next), nil
}

func (d *fakeDevice) Write(bufs [][]byte, _ int) (int, error) { return len(bufs), nil }

func TestGuardDropsForPeersThatAreDown(t *testing.T) {
	dev := &fakeDevice{}
	g := newGuard(dev)
	self, up, down := netip.MustParseAddr("100.127.0.1"), netip.MustParseAddr("10.0.16.2"), netip.MustParseAddr("10.0.17.9")
	peers := map[PublicKey]Peer{
		{1}: {Key: PublicKey{1}, AllowedIPs: []netip.Prefix{netip.PrefixFrom(up, 32)}},
		{2}: {Key: PublicKey{2}, AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.0.17.0/24")}},
	}
	g.setPeers(peers)
	if n := g.down.Load(); n != 2 {
		t.Fatalf("%d peers down, want 2", n)
	}
	now := time.Now()
	g.observe([]PeerStatus{{Key: PublicKey{1}, LastHandshake: now.Add(-time.Minute)}, {Key: PublicKey{2}, LastHandshake: now.Add(-time.Hour)}}, now, true)

	const each = downPackets + 20
	for range each {
		dev.next = append(dev.next, udp4(self, up, "x"), udp4(self, down, "x"), udp4(self, netip.MustParseAddr("10.9.9.9"), "x"))
	}
	bufs, sizes := make([][]byte, len(dev.next)), make([]int, len(dev.next))
	for i := range bufs {
		bufs[i] = make([]byte, 2048)
	}
	n, err := g.Read(bufs, sizes, 16)
	if err != nil {
		t.Fatal(err)
	}
	kept := [3]int{}
	for i := range n {
		if sizes[i] > 0 {
			kept[i%3]++
		}
	}
	if want := [3]int{each, downPackets, 0}; kept != want {
		t.Errorf("kept %v packets to the peer that is up, is down, is none; want %v", kept, want)
	}
	// A packet of the peer proves that it is up.
	if _, err := g.Write([][]byte{append(make([]byte, 16), udp4(down, self, "x")...)}, 16); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Read(bufs, sizes, 16); err != nil || sizes[1] == 0 || sizes[2] != 0 {
		t.Errorf("sizes %v, %v", sizes[:3], err)
	}
	// It stays up as long as it is heard of, whatever WireGuard tells of its handshakes.
	status := []PeerStatus{{Key: PublicKey{2}}}
	if g.observe(status, now, true); !g.peers[PublicKey{2}].up.Load() {
		t.Error("a peer that was heard of a moment ago counts as down")
	}
	if g.observe(status, now, true); g.peers[PublicKey{2}].up.Load() {
		t.Error("a peer that is not heard of any more counts as up")
	}
}

// A session is asked for while there are packets for the peer, not only when it is new.
func TestGuardWaitsForWantedPeers(t *testing.T) {
	dev := &fakeDevice{}
	g := newGuard(dev)
	addr := netip.MustParseAddr("10.0.16.2")
	key := PublicKey{1}
	g.setPeers(map[PublicKey]Peer{key: {Key: key, AllowedIPs: []netip.Prefix{netip.PrefixFrom(addr, 32)}}})
	later := time.Now().Add(youngPeer + wantedPeer)
	if len(g.waitingFor(later)) != 0 || g.young(later) {
		t.Fatal("a peer that nobody wants is waited for")
	}
	dev.next = [][]byte{udp4(netip.MustParseAddr("10.0.16.9"), addr, "x")}
	if _, err := g.Read([][]byte{make([]byte, 2048)}, make([]int, 1), 16); err != nil {
		t.Fatal(err)
	}
	g.peers[key].since = time.Now().Add(-time.Hour)
	if soon := time.Now(); len(g.waitingFor(soon)) != 1 || !g.young(soon) {
		t.Error("nobody waits for a peer that there are packets for")
	}
}

func TestGuardHoldsTheReaderBack(t *testing.T) {
	dev := &fakeDevice{}
	g := newGuard(dev)
	a := netip.MustParseAddr("10.0.16.2")
	g.setPeers(map[PublicKey]Peer{{1}: {AllowedIPs: []netip.Prefix{netip.PrefixFrom(a, 32)}}})
	g.observe([]PeerStatus{{Key: PublicKey{1}, LastHandshake: time.Now()}}, time.Now(), true)
	for range 128 {
		dev.next = append(dev.next, udp4(a, a, "x"))
	}
	bufs, sizes := make([][]byte, 128), make([]int, 128)
	for i := range bufs {
		bufs[i] = make([]byte, 2048)
	}
	read := func() time.Duration {
		start := time.Now()
		if _, err := g.Read(bufs, sizes, 16); err != nil {
			t.Fatal(err)
		}
		return time.Since(start)
	}
	for range maxInFlight / 128 {
		read()
	}
	if !g.full() {
		t.Fatal("not full")
	}
	// Progress lets it go on at once.
	done := make(chan time.Duration)
	go func() { done <- read() }()
	for end := time.Now().Add(stall); !g.waiting.Load(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the reader does not wait")
		}
	}
	g.sent(128)
	if d := <-done; d >= stall {
		t.Errorf("the reader waited for %v", d)
	}
	// Without any, what is in flight counts as lost.
	if d := read(); d < stall/2 {
		t.Errorf("the reader waited only for %v", d)
	}
	if g.full() {
		t.Error("still full")
	}
	// Handshakes and keepalives count as sent only.
	g.sent(5000)
	if g.full() {
		t.Error("full after sending more than was read")
	}
}
