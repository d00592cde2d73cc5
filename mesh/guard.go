package mesh

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.zx2c4.com/wireguard/tun"
)

const (
	// maxInFlight bounds the packets between the Device and the socket. The queues of
	// wireguard-go hold 1024 batches of 64 KiB buffers, and its pools have no end.
	maxInFlight = 1024
	// stall is how long the reader waits for packets in flight before it takes them for lost.
	stall = 50 * time.Millisecond
	// sessionLife is the age of a handshake beyond which a peer counts as down:
	// a live session is renewed after 120 s, and refused after 180 s.
	sessionLife = 155 * time.Second
	// downPackets is how many packets per second go to a peer that is down: enough to
	// ask for a session, and few enough to be kept until it is there.
	downPackets = 64
	// youngPeer is how long after its coming a peer is watched closely.
	youngPeer = 10 * time.Second
	// wantedPeer is how long a peer without a session is watched after a packet for it.
	wantedPeer = 3 * time.Second
)

// A guard is the Device as wireguard-go sees it. It keeps what is read within
// what is sent, and drops at once what wireguard-go would only hold: packets
// to peers without a session, or to nobody.
type guard struct {
	tun.Device
	routes atomic.Pointer[guardRoutes]
	down   atomic.Int64 // peers without a handshake that counts

	sentTotal atomic.Uint64
	dropped   atomic.Uint64
	read      atomic.Uint64 // packets that were read; only the reader changes it
	waiting   atomic.Bool
	progress  chan struct{}

	mu    sync.Mutex
	peers map[PublicKey]*guardPeer
}

// guardPeer is what the guard knows of a peer.
type guardPeer struct {
	up     atomic.Bool
	heard  atomic.Bool // a packet of it came since the last look
	tokens atomic.Int64
	wanted atomic.Int64 // when a packet for it came while it was down, Unix nanoseconds
	since  time.Time    // guarded by guard.mu
	fresh  bool         // its last handshake is young enough; guarded by guard.mu
}

// lacks tells that the peer has no session and that one is due: it came lately, or there are packets for it.
func (p *guardPeer) lacks(now time.Time) bool {
	return !p.up.Load() && (now.Sub(p.since) < youngPeer || now.UnixNano()-p.wanted.Load() < int64(wantedPeer))
}

// guardRoutes finds the peer of an address. Immutable.
type guardRoutes struct {
	hosts    map[netip.Addr]*guardPeer
	prefixes []guardPrefix
}

type guardPrefix struct {
	netip.Prefix
	peer *guardPeer
}

func newGuard(dev tun.Device) *guard {
	g := &guard{Device: dev, progress: make(chan struct{}, 1), peers: make(map[PublicKey]*guardPeer)}
	g.routes.Store(&guardRoutes{})
	return g
}

// setPeers replaces the peers. A new one is down until its first handshake.
func (g *guard) setPeers(peers map[PublicKey]Peer) {
	g.mu.Lock()
	defer g.mu.Unlock()
	r := &guardRoutes{hosts: make(map[netip.Addr]*guardPeer)}
	known := make(map[PublicKey]*guardPeer, len(peers))
	for k, p := range peers {
		s := g.peers[k]
		if s == nil {
			s = &guardPeer{since: time.Now()}
			s.tokens.Store(downPackets)
		}
		known[k] = s
		for _, ip := range p.AllowedIPs {
			if ip.IsSingleIP() {
				r.hosts[ip.Addr()] = s
			} else {
				r.prefixes = append(r.prefixes, guardPrefix{ip.Masked(), s})
			}
		}
	}
	g.peers = known
	g.routes.Store(r)
	g.count()
}

// count counts the peers without a handshake that counts. The caller holds mu.
func (g *guard) count() {
	n := int64(0)
	for _, p := range g.peers {
		if !p.fresh {
			n++
		}
	}
	g.down.Store(n)
}

// young reports whether a session with some peer is due.
func (g *guard) young(now time.Time) bool {
	if g.down.Load() == 0 {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range g.peers {
		if p.lacks(now) {
			return true
		}
	}
	return false
}

// waitingFor returns the peers with which a session is due, and how long ago they came.
func (g *guard) waitingFor(now time.Time) map[PublicKey]time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out map[PublicKey]time.Duration
	for key, p := range g.peers {
		if p.lacks(now) {
			if out == nil {
				out = make(map[PublicKey]time.Duration)
			}
			out[key] = now.Sub(p.since)
		}
	}
	return out
}

// observe takes the state of the sessions. fill says that a second is over.
func (g *guard) observe(status []PeerStatus, now time.Time, fill bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, s := range status {
		if p := g.peers[s.Key]; p != nil {
			p.fresh = !s.LastHandshake.IsZero() && now.Sub(s.LastHandshake) < sessionLife
			p.up.Store(p.heard.Swap(false) || p.fresh)
			if fill {
				p.tokens.Store(downPackets)
			}
		}
	}
	g.count()
}

// lookup returns the peer of an address, nil when there is none.
func (r *guardRoutes) lookup(a netip.Addr) *guardPeer {
	if p := r.hosts[a]; p != nil {
		return p
	}
	var best *guardPrefix
	for i := range r.prefixes {
		if p := &r.prefixes[i]; p.Contains(a) && (best == nil || p.Bits() > best.Bits()) {
			best = p
		}
	}
	if best == nil {
		return nil
	}
	return best.peer
}

// Read reads the Device when there is room. A packet that goes nowhere gets size 0, which wireguard-go passes over.
func (g *guard) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	g.wait()
	n, err := g.Device.Read(bufs, sizes, offset)
	routes := g.routes.Load()
	var last netip.Addr
	var peer *guardPeer
	kept := 0
	for i := range n {
		a := address(bufs[i][offset:offset+sizes[i]], 16, 24)
		if a != last {
			peer, last = routes.lookup(a), a
		}
		switch {
		case peer != nil && peer.up.Load():
			kept++
		default:
			if peer != nil {
				peer.wanted.Store(time.Now().UnixNano())
				if peer.tokens.Add(-1) >= 0 {
					continue
				}
			}
			sizes[i] = 0
			g.dropped.Add(1)
		}
	}
	g.read.Add(uint64(kept))
	return n, err
}

// Write passes packets of a peer on. It is proof that the peer has a session.
func (g *guard) Write(bufs [][]byte, offset int) (int, error) {
	if g.down.Load() > 0 && len(bufs) > 0 {
		if p := g.routes.Load().lookup(address(bufs[0][offset:], 12, 8)); p != nil {
			p.heard.Store(true)
			p.up.Store(true)
		}
	}
	return g.Device.Write(bufs, offset)
}

// address reads an address of a packet at its place in IPv4 or IPv6.
func address(ip []byte, at4, at6 int) netip.Addr {
	switch {
	case len(ip) >= 20 && ip[0]>>4 == 4:
		return netip.AddrFrom4([4]byte(ip[at4:]))
	case len(ip) >= 40 && ip[0]>>4 == 6:
		return netip.AddrFrom16([16]byte(ip[at6:]))
	}
	return netip.Addr{}
}

// sent is told by the Bind how many datagrams left, or failed to.
func (g *guard) sent(n int) {
	g.sentTotal.Add(uint64(n))
	if g.waiting.Load() {
		select {
		case g.progress <- struct{}{}:
		default:
		}
	}
}

// wait holds the reader back while too much is in flight.
func (g *guard) wait() {
	if !g.full() {
		return
	}
	g.waiting.Store(true)
	defer g.waiting.Store(false)
	t := time.NewTimer(stall)
	defer t.Stop()
	for g.full() {
		select {
		case <-g.progress:
		case <-t.C:
			g.read.Store(g.sentTotal.Load())
			return
		}
	}
}

// full compares what was read with what was sent. Datagrams of wireguard-go's
// own count as sent only, which the reader forgives.
func (g *guard) full() bool {
	read, sent := g.read.Load(), g.sentTotal.Load()
	if sent > read {
		g.read.Store(sent)
		return false
	}
	return read-sent >= maxInFlight
}
