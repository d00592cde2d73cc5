package netstack

import (
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	maxTaskPings = 32
	maxPings     = 512
	pingIdle     = 10 * time.Second

	icmpEchoRequest4 = 8
	icmpEchoRequest6 = 128
)

// pinger carries echo requests to the outside by the host's ICMP sockets (openPing), one for each run of ping, told apart by source, destination and
// identifier.
type pinger struct {
	run  *hostRun
	open func(dst netip.Addr) (net.Conn, error)
	gate *gate
	once sync.Once // the log line of a host that has no such sockets

	mu    sync.Mutex
	ended bool
	flows map[pingKey]net.Conn
}

type pingKey struct {
	src, dst netip.Addr
	ident    uint16
}

func newPinger(run *hostRun) *pinger {
	return &pinger{run: run, open: openPing, gate: newGate(maxTaskPings, maxPings), flows: make(map[pingKey]net.Conn)}
}

// handleICMP gets the echo requests that reach the stack. The stack itself answers those to its own addresses.
func (e *egress) handleICMP(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	src, dst := netipAddr(id.RemoteAddress), netipAddr(id.LocalAddress)
	if !src.IsValid() || !dst.IsValid() {
		net := pkt.Network()
		src, dst = netipAddr(net.SourceAddress()), netipAddr(net.DestinationAddress())
	}
	if e.ip.has(dst) {
		return false
	}
	view := stack.PayloadSince(pkt.TransportHeader())
	defer view.Release()
	msg := view.AsSlice()
	if len(msg) < icmpLen || msg[0] != echoRequest(dst) || !e.permitted(src, dst, "icmp") {
		return true
	}
	e.pings.send(pingKey{src, dst, binary.BigEndian.Uint16(msg[4:])}, msg)
	return true
}

func echoRequest(a netip.Addr) byte {
	if a.Is4() {
		return icmpEchoRequest4
	}
	return icmpEchoRequest6
}

// send passes an echo request on; it does not block and does not keep msg.
func (p *pinger) send(key pingKey, msg []byte) {
	p.mu.Lock()
	c := p.flows[key]
	p.mu.Unlock()
	if c == nil {
		if c = p.begin(key, msg); c == nil {
			return
		}
	}
	_ = c.SetReadDeadline(time.Now().Add(pingIdle))
	_, _ = c.Write(msg) // the kernel puts its own identifier and checksum in
}

// begin opens the flow of key. The packets of one task come from one goroutine, so it is not called twice at once for the same key.
func (p *pinger) begin(key pingKey, msg []byte) net.Conn {
	if !p.gate.enter(key.src) {
		return nil
	}
	c, err := p.open(key.dst)
	if err != nil {
		p.gate.leave(key.src)
		p.refuse(key, msg, err)
		return nil
	}
	p.mu.Lock()
	started := !p.ended && p.run.spawn(func() { p.receive(key, c) })
	if started {
		p.flows[key] = c
	}
	p.mu.Unlock()
	if !started {
		_ = c.Close()
		p.gate.leave(key.src)
		return nil
	}
	return c
}

// receive hands the replies of a flow to the task until none has been asked for pingIdle.
func (p *pinger) receive(key pingKey, c net.Conn) {
	defer p.gate.leave(key.src)
	for {
		chunk, n, err := readDatagram(c)
		if err != nil {
			break
		}
		if msg := (*chunk)[:n]; n >= icmpLen {
			binary.BigEndian.PutUint16(msg[4:], key.ident)
			p.run.sendICMP(key.dst, key.src, msg)
		}
		chunks.Put(chunk)
	}
	p.mu.Lock()
	delete(p.flows, key)
	p.mu.Unlock()
	_ = c.Close()
}

func (p *pinger) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	for _, c := range p.flows {
		_ = c.Close()
	}
}

// refuse answers "administratively prohibited", which ping shows, and tells the operator once.
func (p *pinger) refuse(key pingKey, msg []byte, err error) {
	p.once.Do(func() {
		p.run.h.log.Warn("tasks cannot ping the outside: let this user's group open ping sockets (sysctl net.ipv4.ping_group_range)", "err", err)
	})
	p.run.prohibit(key, msg)
}

// prohibit sends the ICMP error that a router would send which filters (RFC 1812 section 5.2.7.1, RFC 4443 section 3.1).
func (r *hostRun) prohibit(key pingKey, msg []byte) {
	var orig []byte
	kind := [2]byte{3, 13}
	if key.src.Is4() {
		orig = ipHeader(key.src, key.dst, protoICMP, len(msg))
	} else {
		kind = [2]byte{1, 1}
		orig = ipHeader(key.src, key.dst, protoICMPv6, len(msg))
	}
	body := make([]byte, icmpLen, icmpLen+len(orig)+icmpLen)
	body[0], body[1] = kind[0], kind[1]
	body = append(append(body, orig...), msg[:icmpLen]...)
	from := gatewayFor(r.h.tables(), key.src)
	if !from.IsValid() {
		from = key.dst
	}
	r.sendICMP(from, key.src, body)
}

// sendICMP sends an ICMP message to a task; it fills the checksum of msg in.
func (r *hostRun) sendICMP(src, dst netip.Addr, msg []byte) {
	proto, pseudo := uint8(protoICMP), uint16(0)
	if dst.Is6() {
		proto = protoICMPv6
	}
	hdr := ipHeader(src, dst, proto, len(msg))
	if dst.Is6() {
		pseudo = pseudoSum(hdr, true, proto, len(msg))
	}
	p, ok := newPacket(len(hdr) + len(msg))
	if !ok {
		return
	}
	msg[2], msg[3] = 0, 0
	binary.BigEndian.PutUint16(msg[2:], ^sum(msg, pseudo))
	copy(p.ip, hdr)
	copy(p.ip[len(hdr):], msg)
	pkts := []packet{p}
	r.h.out(pkts)
	releaseAll(pkts)
}

// ipHeader is a plain IP header without options.
func ipHeader(src, dst netip.Addr, proto uint8, payload int) []byte {
	if src.Is4() {
		h := header.IPv4(make([]byte, ipv4Len))
		h.Encode(&header.IPv4Fields{
			TotalLength: uint16(ipv4Len + payload), TTL: 64, Protocol: proto, SrcAddr: tcpipAddr(src), DstAddr: tcpipAddr(dst),
		})
		setIPv4Csum(h)
		return h
	}
	h := header.IPv6(make([]byte, ipv6Len))
	h.Encode(&header.IPv6Fields{
		PayloadLength: uint16(payload), TransportProtocol: header.ICMPv6ProtocolNumber, HopLimit: 64, SrcAddr: tcpipAddr(src), DstAddr: tcpipAddr(dst),
	})
	return h
}
