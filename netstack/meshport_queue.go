package netstack

import "sync"

// meshQueue holds packets for the peers until the mesh reads them. A producer waits
// while it is full and the mesh is reading, which slows the tasks down instead
// of losing their packets; when nobody reads, it drops.
type meshQueue struct {
	mu      sync.Mutex
	room    sync.Cond
	filled  sync.Cond
	ring    [meshQueuePackets]packet
	head, n int
	bytes   int
	reading bool
	closed  bool
}

func newMeshQueue() *meshQueue {
	q := &meshQueue{}
	q.room.L, q.filled.L = &q.mu, &q.mu
	return q
}

// push moves p into the queue, or copies it when it is small: so that the
// memory behind the queue is about what it holds, and a reader keeps its large
// buffer. False: dropped.
func (q *meshQueue) push(p *packet) bool {
	var held packet
	if len(p.ip) <= smallIP && len(p.buf.b) > headroom+smallIP {
		small, ok := newPacket(len(p.ip))
		if !ok {
			return false
		}
		copy(small.ip, p.ip)
		small.hdr = p.hdr
		held = small
	} else {
		held = p.take()
	}
	size := len(held.ip)
	q.mu.Lock()
	for q.full(size) && q.reading && !q.closed {
		q.room.Wait()
	}
	if q.full(size) || q.closed {
		q.mu.Unlock()
		held.release()
		return false
	}
	q.ring[(q.head+q.n)%len(q.ring)] = held
	q.n++
	q.bytes += size
	q.mu.Unlock()
	q.filled.Signal()
	return true
}

func (q *meshQueue) full(size int) bool {
	return q.n == len(q.ring) || q.n > 0 && q.bytes+size > meshQueueBytes
}

// pop moves packets out, waiting for the first one when wait is set. False: closed.
func (q *meshQueue) pop(out []packet, wait bool) (int, bool) {
	q.mu.Lock()
	q.reading = true
	for q.n == 0 && wait && !q.closed {
		q.filled.Wait()
	}
	if q.closed {
		q.mu.Unlock()
		return 0, false
	}
	n := min(q.n, len(out))
	for i := range n {
		out[i] = q.ring[q.head].take()
		q.bytes -= len(out[i].ip)
		q.head = (q.head + 1) % len(q.ring)
	}
	q.n -= n
	q.mu.Unlock()
	if n > 0 {
		q.room.Broadcast()
	}
	return n, true
}

// close drops what is there.
func (q *meshQueue) close() {
	q.mu.Lock()
	q.closed = true
	for ; q.n > 0; q.n-- {
		q.ring[q.head].release()
		q.head = (q.head + 1) % len(q.ring)
	}
	q.mu.Unlock()
	q.filled.Broadcast()
	q.room.Broadcast()
}
