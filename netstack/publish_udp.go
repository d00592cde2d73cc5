package netstack

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// The UDP flows of one client and of all.
	maxClientUDPFlows  = 1024
	maxPublishUDPFlows = 16384
	// oobSize holds one packet-info control message.
	oobSize = 64
)

// udpClient is who talks to a published UDP port, and to which address of ours.
type udpClient struct {
	port   portKey
	client netip.AddrPort
	local  netip.Addr // zero when the socket is bound to an address
}

// udpFlow joins one client with one backend until it is idle or the backend leaves.
type udpFlow struct {
	id      uint32
	client  udpClient
	socket  *udpSocket
	backend PortBackend
	task    netip.AddrPort
	conn    *stackPacketConn // to a task of this node; nil when it is on another
	last    atomic.Int64     // unix nanoseconds
}

func (f *udpFlow) touch() { f.last.Store(time.Now().UnixNano()) }

// udpTable are the UDP flows of all published ports. The zero value is ready. Safe for concurrent use.
type udpTable struct {
	mu       sync.Mutex
	ended    bool
	gate     *gate
	nextID   uint32
	byClient map[udpClient]*udpFlow
	byID     map[uint32]*udpFlow
}

func (t *udpTable) find(c udpClient) *udpFlow {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byClient[c]
}

func (t *udpTable) findID(id uint32) *udpFlow {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byID[id]
}

// add keeps the flow and numbers it; false when there are too many, or it has been added meanwhile.
func (t *udpTable) add(f *udpFlow) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byClient == nil {
		t.byClient, t.byID = make(map[udpClient]*udpFlow), make(map[uint32]*udpFlow)
		t.gate, t.nextID = newGate(maxClientUDPFlows, maxPublishUDPFlows), rand.Uint32()
	}
	if t.ended || t.byClient[f.client] != nil || !t.gate.enter(f.client.client.Addr()) {
		return false
	}
	for t.byID[t.nextID] != nil {
		t.nextID++
	}
	f.id = t.nextID
	t.nextID++
	t.byClient[f.client], t.byID[f.id] = f, f
	return true
}

// end forgets the flow; the client's next datagram starts a new one. It may be called more than once.
func (t *udpTable) end(f *udpFlow) {
	t.mu.Lock()
	if t.byID[f.id] == f {
		delete(t.byID, f.id)
		delete(t.byClient, f.client)
		t.gate.leave(f.client.client.Addr())
	}
	t.mu.Unlock()
	if f.conn != nil {
		_ = f.conn.Close()
	}
}

func (t *udpTable) endIf(lost func(*udpFlow) bool) {
	var flows []*udpFlow
	t.mu.Lock()
	for _, f := range t.byID {
		if lost(f) {
			flows = append(flows, f)
		}
	}
	t.mu.Unlock()
	for _, f := range flows {
		t.end(f)
	}
}

func (t *udpTable) expire(now time.Time) {
	t.endIf(func(f *udpFlow) bool { return now.Sub(time.Unix(0, f.last.Load())) > udpIdle })
}

func (t *udpTable) retain(keep func(clientFlow) bool) {
	t.endIf(func(f *udpFlow) bool { return !keep(clientFlow{f.client.port, f.backend.Addr}) })
}

func (t *udpTable) close() {
	t.mu.Lock()
	t.ended = true
	t.mu.Unlock()
	t.endIf(func(*udpFlow) bool { return true })
}

func (p *pubPort) listenUDP(lc *net.ListenConfig, addr string) error {
	pc, err := lc.ListenPacket(p.pub.run.ctx, "udp", addr)
	if err != nil {
		return err
	}
	u := pc.(*net.UDPConn)
	local := u.LocalAddr().(*net.UDPAddr)
	s := &udpSocket{UDPConn: u, v6: local.IP.To4() == nil, any: local.IP.IsUnspecified()}
	if s.any {
		if err := s.wantDestination(); err != nil {
			_ = u.Close()
			return fmt.Errorf("ask for packet info: %w", err)
		}
	}
	p.ln = u
	p.pub.run.spawn(func() { p.serveUDP(s) })
	return nil
}

func (p *pubPort) serveUDP(s *udpSocket) {
	for {
		chunk, n, from, local, err := s.receive()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			// The kernel reports an unreachable client at the next call.
			if !errors.Is(err, unix.ECONNREFUSED) && !pause(p.pub.run.ctx, acceptPause) {
				return
			}
			continue
		}
		p.forward(s, udpClient{port: p.key, client: from, local: local}, (*chunk)[:n])
		chunks.Put(chunk)
	}
}

// forward sends a client's datagram to the backend of its flow, which it chooses when there is none.
func (p *pubPort) forward(s *udpSocket, c udpClient, payload []byte) {
	table := &p.pub.udp
	f := table.find(c)
	if f == nil {
		if f = p.beginUDP(s, c); f == nil {
			return
		}
	}
	f.touch()
	if f.conn == nil {
		d := peerDatagram{kind: udpToTask, flow: f.id, task: f.task, client: c.client}
		p.pub.peer.udp.send(f.backend.Node, d, payload)
		return
	}
	if err := f.conn.send(payload, netip.AddrPort{}); err != nil {
		p.pub.failUDP(f)
	}
}

func (p *pubPort) beginUDP(s *udpSocket, c udpClient) *udpFlow {
	pub, table := p.pub, p.table.Load()
	result := pub.run.h.metrics.published
	for _, b := range p.pick.order(table.serving, &pub.avoid) {
		f := &udpFlow{client: c, socket: s, backend: b, task: netip.AddrPortFrom(b.Addr, table.target)}
		if !b.Node.IsValid() {
			conn, err := pub.openTaskUDP(c.client, f.task)
			if err != nil {
				pub.avoid.add(b.Addr)
				continue
			}
			f.conn = conn
		}
		f.touch()
		if !pub.udp.add(f) {
			result.WithLabelValues("udp", "limit").Inc()
			if f.conn != nil {
				_ = f.conn.Close()
			}
			return nil
		}
		if f.conn != nil && !pub.run.spawn(func() { pub.answerUDP(f) }) {
			pub.udp.end(f)
			return nil
		}
		if !pub.state.Load().hasClient(clientFlow{p.key, b.Addr}) {
			pub.udp.end(f)
			return nil
		}
		result.WithLabelValues("udp", placeOf(b)).Inc()
		return f
	}
	result.WithLabelValues("udp", "none").Inc()
	return nil
}

// openTaskUDP opens a socket of the stack from the client's address to a task of this node.
func (p *publisher) openTaskUDP(client, task netip.AddrPort) (*stackPacketConn, error) {
	src := sourceFor(p.run.h.tables(), client, task.Addr())
	if !src.Addr().IsValid() {
		return nil, fmt.Errorf("dial task %s: its network has no gateway", task)
	}
	return p.run.ip.dialUDP(src, task)
}

// answerUDP carries a local task's datagrams back to the client until the flow ends.
func (p *publisher) answerUDP(f *udpFlow) {
	for {
		chunk, n, _, err := f.conn.next()
		if err != nil {
			if errors.Is(err, errRefused) {
				p.failUDP(f)
			} else {
				p.udp.end(f)
			}
			return
		}
		f.touch()
		f.socket.reply((*chunk)[:n], f.client)
		chunks.Put(chunk)
	}
}

// failUDP ends a flow whose backend does not answer, so that the client's next datagram goes to another one.
func (p *publisher) failUDP(f *udpFlow) {
	p.avoid.add(f.backend.Addr)
	p.udp.end(f)
}
