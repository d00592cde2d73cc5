// Package meshtest is the in-memory twin of the network under package mesh: binds that reach each other through channels.
//
// A Network plays the internet between any number of meshes. Its Filter may drop datagrams, and Move gives a
// node another address, as a NAT does when it forgets a mapping.
package meshtest

import (
	"fmt"
	"net"
	"net/netip"
	"sync"

	"golang.zx2c4.com/wireguard/conn"
)

// queue is how many datagrams wait for a slow receiver; more are lost.
const queue = 4096

// Network connects binds.
type Network struct {
	mu     sync.Mutex
	binds  map[netip.AddrPort]*Bind
	filter func(from, to netip.AddrPort, datagram []byte) bool
}

// NewNetwork returns an empty network.
func NewNetwork() *Network { return &Network{binds: make(map[netip.AddrPort]*Bind)} }

// Filter sets a function that decides for each datagram whether it arrives; nil lets all pass.
func (n *Network) Filter(f func(from, to netip.AddrPort, datagram []byte) bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.filter = f
}

// Bind returns the bind of the node at addr. It listens from Open on.
func (n *Network) Bind(addr netip.AddrPort) *Bind {
	return &Bind{net: n, addr: addr, rx: make(chan datagram, queue)}
}

// Move gives a listening bind another address: its datagrams come from there, and reach it there only.
func (n *Network) Move(b *Bind, addr netip.AddrPort) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.binds[b.addr] == b {
		delete(n.binds, b.addr)
		n.binds[addr] = b
	}
	b.addr = addr
}

// send delivers a copy.
func (n *Network) send(from *Bind, to netip.AddrPort, b []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	dst := n.binds[to]
	if dst == nil || n.filter != nil && !n.filter(from.addr, to, b) {
		return
	}
	select {
	case dst.rx <- datagram{from: from.addr, data: append([]byte(nil), b...)}:
	default:
	}
}

type datagram struct {
	from netip.AddrPort
	data []byte
}

// Bind is a conn.Bind on a Network.
type Bind struct {
	net  *Network
	addr netip.AddrPort
	rx   chan datagram

	mu     sync.Mutex
	closed chan struct{} // nil while not open
}

var _ conn.Bind = (*Bind)(nil)

// Open makes the bind reachable.
func (b *Bind) Open(uint16) ([]conn.ReceiveFunc, uint16, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed != nil {
		return nil, 0, conn.ErrBindAlreadyOpen
	}
	b.net.mu.Lock()
	defer b.net.mu.Unlock()
	if b.net.binds[b.addr] != nil {
		return nil, 0, fmt.Errorf("listen on %s: address already in use", b.addr)
	}
	b.net.binds[b.addr] = b
	closed := make(chan struct{})
	b.closed = closed
	receive := func(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
		select {
		case <-closed:
			return 0, net.ErrClosed
		case d := <-b.rx:
			sizes[0], eps[0] = copy(bufs[0], d.data), Endpoint(d.from)
			return 1, nil
		}
	}
	return []conn.ReceiveFunc{receive}, b.addr.Port(), nil
}

// Close ends the receivers.
func (b *Bind) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed == nil {
		return nil
	}
	close(b.closed)
	b.closed = nil
	b.net.mu.Lock()
	defer b.net.mu.Unlock()
	if b.net.binds[b.addr] == b {
		delete(b.net.binds, b.addr)
	}
	return nil
}

// SetMark does nothing.
func (b *Bind) SetMark(uint32) error { return nil }

// BatchSize returns 1.
func (b *Bind) BatchSize() int { return 1 }

// Send sends datagrams; like UDP it does not tell whether they arrive.
func (b *Bind) Send(bufs [][]byte, ep conn.Endpoint) error {
	to, ok := ep.(Endpoint)
	if !ok {
		return conn.ErrWrongEndpointType
	}
	for _, d := range bufs {
		b.net.send(b, netip.AddrPort(to), d)
	}
	return nil
}

// ParseEndpoint parses address:port.
func (b *Bind) ParseEndpoint(s string) (conn.Endpoint, error) {
	a, err := netip.ParseAddrPort(s)
	return Endpoint(a), err
}

// Endpoint is an address on a Network.
type Endpoint netip.AddrPort

// ClearSrc does nothing.
func (e Endpoint) ClearSrc() {}

// SrcToString returns nothing.
func (e Endpoint) SrcToString() string { return "" }

// SrcIP returns nothing.
func (e Endpoint) SrcIP() netip.Addr { return netip.Addr{} }

// DstToString returns address:port.
func (e Endpoint) DstToString() string { return netip.AddrPort(e).String() }

// DstIP returns the address.
func (e Endpoint) DstIP() netip.Addr { return netip.AddrPort(e).Addr() }

// DstToBytes returns the address in bytes.
func (e Endpoint) DstToBytes() []byte {
	b, _ := netip.AddrPort(e).MarshalBinary()
	return b
}
