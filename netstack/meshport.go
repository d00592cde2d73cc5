package netstack

import (
	"os"
	"sync"
	"sync/atomic"

	"golang.zx2c4.com/wireguard/tun"
)

const (
	// meshBatch is how many packets one Read or Write of the mesh port moves at
	// most: what one UDP GSO and recvmmsg round of the mesh takes.
	meshBatch = 128
	// meshQueueBytes bounds what waits for the cipher: some 5 ms of it.
	meshQueueBytes   = 1 << 20
	meshQueuePackets = 1024
)

// meshPort is the fabric's port to the peers, as wireguard-go's tun.Device.
// Read is called by one goroutine, Write by one per peer.
type meshPort struct {
	f      *fabric
	queue  *meshQueue
	events chan tun.Event
	once   sync.Once
	closed atomic.Bool

	// The reader's: a super-packet may be cut over several Reads.
	cut  splitter
	pkts [16]packet
	have []packet // the part of pkts that is not yet cut
}

var _ tun.Device = (*meshPort)(nil)

func newMeshPort(f *fabric) *meshPort {
	return &meshPort{f: f, queue: newMeshQueue(), events: make(chan tun.Event, 1)}
}

// File returns nil: there is no device of the kernel.
func (m *meshPort) File() *os.File { return nil }

// MTU returns the MTU of the mesh.
func (m *meshPort) MTU() (int, error) { return m.f.mtu, nil }

// Name returns a name for logs.
func (m *meshPort) Name() (string, error) { return "meshswarm", nil }

// Events returns a channel that only ever closes.
func (m *meshPort) Events() <-chan tun.Event { return m.events }

// BatchSize returns the most packets of a Read or Write.
func (m *meshPort) BatchSize() int { return meshBatch }

// Close ends Read, and lets nobody wait for the queue any more.
func (m *meshPort) Close() error {
	m.once.Do(func() {
		m.closed.Store(true)
		m.queue.close()
		close(m.events)
	})
	return nil
}

// Read blocks for the next packets to peers and cuts super-packets into bufs.
func (m *meshPort) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	n := 0
	for n < len(bufs) {
		if m.cut.more() {
			sizes[n] = m.cut.next(bufs[n][offset:])
			m.f.metrics.toMesh.Add(uint64(sizes[n]))
			n++
			continue
		}
		if len(m.have) == 0 {
			got, ok := m.queue.pop(m.pkts[:], n == 0)
			if !ok {
				return n, os.ErrClosed
			}
			if got == 0 {
				break
			}
			m.have = m.pkts[:got]
		}
		if !m.cut.begin(m.have[0].take(), m.f.mtu) {
			m.f.drop(dropMalformed)
		}
		m.have = m.have[1:]
	}
	m.f.metrics.toMeshPackets.Add(uint64(n))
	return n, nil
}

// Write takes packets of one peer: WireGuard has made sure that their sources are the peer's.
func (m *meshPort) Write(bufs [][]byte, offset int) (int, error) {
	if m.closed.Load() {
		return 0, os.ErrClosed
	}
	g := mergers.Get().(*merger)
	defer mergers.Put(g)
	defer g.reset()
	m.f.metrics.fromMeshPackets.Add(uint64(len(bufs)))
	for _, b := range bufs {
		m.f.metrics.fromMesh.Add(uint64(len(b) - offset))
		if !g.add(b[offset:]) {
			m.f.drop(dropMalformed)
		}
	}
	g.finish()
	m.f.fromMesh(g)
	return len(bufs), nil
}
