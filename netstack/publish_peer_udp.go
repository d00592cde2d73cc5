package netstack

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// The UDP flows that one node, and all, may have to tasks of this node.
const (
	maxNodeUDPFlows = 8192
	maxPeerUDPFlows = 16384
)

// peerUDP exchanges the datagrams of published ports with other nodes through one socket at the mesh address: as the node that has the client, and
// as the node that has the task. Datagrams stay datagrams: what is lost is lost, and nothing waits for what was lost.
type peerUDP struct {
	pub  *publisher
	sock atomic.Pointer[stackPacketConn]
	gate *gate

	mu    sync.Mutex
	ended bool
	flows map[peerFlowKey]*peerFlow
}

// peerFlowKey names a flow of another node to a task of this one.
type peerFlowKey struct {
	node netip.AddrPort
	flow uint32
	task netip.AddrPort
}

type peerFlow struct {
	key    peerFlowKey
	client netip.AddrPort
	conn   *stackPacketConn
	last   atomic.Int64
}

func (p *peerUDP) init(pub *publisher) {
	p.pub, p.gate, p.flows = pub, newGate(maxNodeUDPFlows, maxPeerUDPFlows), make(map[peerFlowKey]*peerFlow)
}

func (p *peerUDP) listen(at netip.AddrPort) error {
	sock, err := p.pub.run.ip.openUDP(at, netip.AddrPort{})
	if err != nil {
		return err
	}
	p.sock.Store(sock)
	p.pub.run.spawn(func() { p.receive(sock) })
	return nil
}

func (p *peerUDP) unlisten() {
	if sock := p.sock.Swap(nil); sock != nil {
		_ = sock.Close()
	}
}

// send sends a datagram to a node.
func (p *peerUDP) send(node netip.Addr, d peerDatagram, payload []byte) {
	p.sendTo(netip.AddrPortFrom(node, peerPort), d, payload)
}

func (p *peerUDP) sendTo(node netip.AddrPort, d peerDatagram, payload []byte) {
	sock := p.sock.Load()
	chunk := chunks.Get().(*[]byte)
	defer chunks.Put(chunk)
	if sock == nil || udpHeaderSize+len(payload) > len(*chunk) {
		return
	}
	_ = sock.send(append(d.append((*chunk)[:0]), payload...), node)
}

func (p *peerUDP) receive(sock *stackPacketConn) {
	for {
		chunk, n, from, err := sock.next()
		if err != nil {
			if errors.Is(err, errRefused) {
				continue // an earlier datagram reached a node that does not listen
			}
			return
		}
		d, payload, ok := parsePeerDatagram((*chunk)[:n])
		switch {
		case !ok || !p.pub.run.h.tables().inMesh(from.Addr()):
		case d.kind == udpToTask:
			p.toTask(from, d, payload)
		default:
			p.toClient(from, d, payload)
		}
		chunks.Put(chunk)
	}
}

// toClient handles what the node of the task sends: an answer, or that the task is not to be had.
func (p *peerUDP) toClient(from netip.AddrPort, d peerDatagram, payload []byte) {
	f := p.pub.udp.findID(d.flow)
	if f == nil || f.conn != nil || f.backend.Node != from.Addr() || f.task != d.task || f.client.client != unzoned(d.client, f.client.client) {
		return
	}
	if d.kind == udpFailed {
		p.pub.failUDP(f)
		return
	}
	f.touch()
	f.socket.reply(payload, f.client)
}

// unzoned compares well with the client's address: the wire has no zones.
func unzoned(wire, client netip.AddrPort) netip.AddrPort {
	if wire.Port() == client.Port() && wire.Addr() == client.Addr().WithZone("") {
		return client
	}
	return wire
}

// toTask handles a datagram that another node has for a task of this one.
func (p *peerUDP) toTask(from netip.AddrPort, d peerDatagram, payload []byte) {
	f := p.flowOf(from, d)
	if f == nil {
		d.kind = udpFailed
		p.sendTo(from, d, nil)
		return
	}
	f.last.Store(time.Now().UnixNano())
	if err := f.conn.send(payload, netip.AddrPort{}); errors.Is(err, errRefused) {
		p.refuse(f)
	}
}

// flowOf finds or opens the flow; nil when there is no such task here or no room.
func (p *peerUDP) flowOf(from netip.AddrPort, d peerDatagram) *peerFlow {
	key := peerFlowKey{node: from, flow: d.flow, task: d.task}
	p.mu.Lock()
	f, ended := p.flows[key], p.ended
	p.mu.Unlock()
	if f != nil && f.client == d.client {
		return f
	}
	if f != nil { // the node started anew and uses the number for another client
		p.end(f)
	}
	if ended || !p.pub.state.Load().hasTask(taskPort{"udp", d.task}) || !p.gate.enter(from.Addr()) {
		return nil
	}
	conn, err := p.pub.openTaskUDP(d.client, d.task)
	if err != nil {
		p.gate.leave(from.Addr())
		return nil
	}
	f = &peerFlow{key: key, client: d.client, conn: conn}
	f.last.Store(time.Now().UnixNano())
	p.mu.Lock()
	p.flows[key] = f // receive is the only one to add
	p.mu.Unlock()
	if !p.pub.run.spawn(func() { p.answer(f) }) {
		p.end(f)
		return nil
	}
	p.pub.run.h.metrics.published.WithLabelValues("udp", "peer").Inc()
	return f
}

// answer carries the task's datagrams to the client's node until the flow ends.
func (p *peerUDP) answer(f *peerFlow) {
	d := peerDatagram{kind: udpToClient, flow: f.key.flow, task: f.key.task, client: f.client}
	for {
		chunk, n, _, err := f.conn.next()
		if err != nil {
			if errors.Is(err, errRefused) {
				p.refuse(f)
			}
			p.end(f)
			return
		}
		f.last.Store(time.Now().UnixNano())
		p.sendTo(f.key.node, d, (*chunk)[:n])
		chunks.Put(chunk)
	}
}

// refuse tells the client's node that the task has no such socket.
func (p *peerUDP) refuse(f *peerFlow) {
	p.sendTo(f.key.node, peerDatagram{kind: udpFailed, flow: f.key.flow, task: f.key.task, client: f.client}, nil)
	p.end(f)
}

func (p *peerUDP) end(f *peerFlow) {
	p.mu.Lock()
	if p.flows[f.key] == f {
		delete(p.flows, f.key)
		p.gate.leave(f.key.node.Addr())
	}
	p.mu.Unlock()
	_ = f.conn.Close()
}

func (p *peerUDP) endIf(lost func(*peerFlow) bool) {
	var flows []*peerFlow
	p.mu.Lock()
	for _, f := range p.flows {
		if lost(f) {
			flows = append(flows, f)
		}
	}
	p.mu.Unlock()
	for _, f := range flows {
		p.end(f)
	}
}

func (p *peerUDP) expire(now time.Time) {
	p.endIf(func(f *peerFlow) bool { return now.Sub(time.Unix(0, f.last.Load())) > udpIdle })
}

func (p *peerUDP) retain(keep func(taskPort) bool) {
	p.endIf(func(f *peerFlow) bool { return !keep(taskPort{"udp", f.key.task}) })
}

func (p *peerUDP) close() {
	p.mu.Lock()
	p.ended = true
	p.mu.Unlock()
	p.endIf(func(*peerFlow) bool { return true })
}

var _ net.PacketConn = (*stackPacketConn)(nil)
