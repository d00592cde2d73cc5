package netstack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

// The attempts of one node, and of all, that have not reached their task yet.
const (
	maxNodeHalfOpen = 2048
	maxPeerHalfOpen = 8192
	// peerHeaderTimeout is how long a node may take to say what it wants.
	peerHeaderTimeout = 3 * time.Second
	// maxPeerConns bounds the connections of all nodes together.
	maxPeerConns = 32768
)

// dialPeer asks a node for a connection to its task. What failed is avoided for a while: the node when it does not answer, else the task.
func (p *publisher) dialPeer(ctx context.Context, node netip.Addr, client, task netip.AddrPort) (duplex, error) {
	c, err := p.dialNode(ctx, node)
	if err != nil {
		p.avoid.add(node)
		return nil, err
	}
	if err := askPeer(c, peerRequest{task: task, client: client}); err != nil {
		if !errors.Is(err, errNotThere) {
			p.avoid.add(task.Addr())
		}
		c.abort()
		return nil, fmt.Errorf("dial task %s on node %s: %w", task, node, err)
	}
	return c, nil
}

func (p *publisher) dialNode(ctx context.Context, node netip.Addr) (*stackConn, error) {
	self := p.run.h.tables().Self
	if !self.IsValid() || self.Is4() != node.Is4() {
		return nil, errors.New("this node has no mesh address yet")
	}
	ctx, cancel := context.WithTimeout(ctx, peerDialTimeout)
	defer cancel()
	c, err := p.run.ip.dialTCP(ctx, netip.AddrPortFrom(self, 0), netip.AddrPortFrom(node, peerPort))
	if err != nil {
		return nil, fmt.Errorf("dial node %s: %w", node, err)
	}
	return c, nil
}

// errNotThere: by the node's tables it has no such task (any more, or yet).
var errNotThere = errors.New("the node does not run it")

func askPeer(c net.Conn, req peerRequest) error {
	_ = c.SetDeadline(time.Now().Add(peerAnswerTimeout))
	if _, err := c.Write(req.append(make([]byte, 0, tcpHeaderSize))); err != nil {
		return fmt.Errorf("send request: %w", err)
	}
	var answer [1]byte
	if _, err := c.Read(answer[:]); err != nil {
		return fmt.Errorf("wait for the answer: %w", err)
	}
	_ = c.SetDeadline(time.Time{})
	switch answer[0] {
	case peerOK:
		return nil
	case peerUnknown:
		return errNotThere
	case peerRefused:
		return errRefused
	case peerBusy:
		return errors.New("the node has too many attempts under way")
	}
	return fmt.Errorf("the node answered %d, which is unknown here", answer[0])
}

// peerServer serves other nodes at the mesh address: it joins their clients with tasks of this node.
type peerServer struct {
	pub      *publisher
	halfOpen *gate
	conns    *gate // not by node
	flows    flowSet[taskPort]
	udp      peerUDP

	mu   sync.Mutex
	self netip.Addr // where it listens, or would
	tcp  *stackListener
}

func newPeerServer(p *publisher) *peerServer {
	s := &peerServer{pub: p, halfOpen: newGate(maxNodeHalfOpen, maxPeerHalfOpen), conns: newGate(maxPeerConns, maxPeerConns)}
	s.udp.init(p)
	return s
}

// apply listens at self, and no longer elsewhere.
func (s *peerServer) apply(self netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.self == self && (s.tcp != nil || !self.IsValid()) {
		return
	}
	s.closeLocked()
	s.self = self
	if !self.IsValid() {
		return
	}
	if err := s.listenLocked(); err != nil {
		s.closeLocked()
		s.pub.run.h.log.Error("serve other nodes' published ports", "addr", self, "err", err)
	}
}

func (s *peerServer) listenLocked() error {
	at := netip.AddrPortFrom(s.self, peerPort)
	ln, err := s.pub.run.ip.listenTCP(at)
	if err != nil {
		return err
	}
	s.tcp = ln
	s.pub.run.spawn(func() { s.accept(ln) })
	return s.udp.listen(at)
}

func (s *peerServer) closeLocked() {
	if s.tcp != nil {
		_ = s.tcp.Close()
		s.tcp = nil
	}
	s.udp.unlisten()
}

func (s *peerServer) retain(keep func(taskPort) bool) {
	s.flows.retain(keep)
	s.udp.retain(keep)
}

func (s *peerServer) close() {
	s.mu.Lock()
	s.closeLocked()
	s.mu.Unlock()
	s.flows.close()
	s.udp.close()
}

func (s *peerServer) accept(ln *stackListener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		peer := duplexOf(c)
		if !s.pub.run.spawn(func() { s.serve(peer) }) {
			peer.abort()
		}
	}
}

func (s *peerServer) serve(peer duplex) {
	node := addrPortOf(peer.RemoteAddr()).Addr()
	if !s.pub.run.h.tables().inMesh(node) || !s.conns.enter(netip.Addr{}) {
		peer.abort()
		return
	}
	defer s.conns.leave(netip.Addr{})
	if !s.halfOpen.enter(node) {
		_, _ = peer.Write([]byte{peerBusy})
		_ = peer.Close()
		return
	}
	req, task, err := s.open(peer)
	s.halfOpen.leave(node)
	if err != nil {
		s.pub.run.h.log.Debug("client of a peer got no task", "peer", node, "err", err)
		_ = peer.Close()
		return
	}
	s.join(taskPort{"tcp", req.task}, peer, task)
}

// open reads what the node wants, dials the task and answers.
func (s *peerServer) open(peer duplex) (peerRequest, duplex, error) {
	_ = peer.SetDeadline(time.Now().Add(peerHeaderTimeout))
	req, err := readPeerRequest(peer)
	if err != nil {
		return req, nil, err
	}
	_ = peer.SetDeadline(time.Now().Add(peerAnswerTimeout))
	if !s.pub.state.Load().hasTask(taskPort{"tcp", req.task}) {
		_, _ = peer.Write([]byte{peerUnknown})
		return req, nil, fmt.Errorf("task %s: not served by this node", req.task)
	}
	task, err := s.pub.dialTask(s.pub.run.ctx, req.client, req.task)
	if err != nil {
		_, _ = peer.Write([]byte{peerRefused})
		return req, nil, err
	}
	if _, err := peer.Write([]byte{peerOK}); err != nil {
		task.abort()
		return req, nil, fmt.Errorf("answer: %w", err)
	}
	_ = peer.SetDeadline(time.Time{})
	return req, task, nil
}

func (s *peerServer) join(key taskPort, peer, task duplex) {
	j := &joint{client: peer, task: task}
	remove, ok := s.flows.addLosing(key, j.cut, j.lose)
	if !ok {
		j.cut()
		return
	}
	defer remove()
	if !s.pub.state.Load().hasTask(key) {
		j.cut()
	}
	s.pub.run.h.metrics.published.WithLabelValues("tcp", "peer").Inc()
	gauge := s.pub.run.h.metrics.conns.WithLabelValues("peer")
	gauge.Inc()
	defer gauge.Dec()
	j.run()
}
