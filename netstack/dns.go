package netstack

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	// maxDNSQuery is the largest question taken in a datagram.
	maxDNSQuery = 4096
	// minDNSReply and maxDNSReply clamp what a client says it can take in a datagram.
	minDNSReply = dns.MinMsgSize
	maxDNSReply = 4096
	// maxTaskForwards bounds the questions one task has outside at once.
	maxTaskForwards = 64
	// maxDNSConns bounds the TCP connections of one server, maxDNSConnQueries the questions on each.
	maxDNSConns       = 64
	maxDNSConnQueries = 512
	// dnsConnIdle is how long a TCP client may take for its next whole question, and for taking an answer (RFC 7766 section 6.2.3: seconds).
	dnsConnIdle = 10 * time.Second
	// acceptPause is the wait after an accept that failed for want of descriptors.
	acceptPause = 100 * time.Millisecond
)

// dnsView is what a server's clients may know. The functions are called for each question and give the present state.
type dnsView struct {
	networks func() []*Network         // whose names are answered
	overlay  func(p netip.Prefix) bool // p lies inside an overlay subnet or the mesh, of whatever network
	upstream func() dnsUpstream        // who is asked for the rest
	closed   func() bool               // nobody outside may be asked
}

// dnsServer answers the DNS questions of one task at its 127.0.0.11, or of one network's tasks at the gateway address.
type dnsServer struct {
	view     dnsView
	forward  *dnsForwarder
	forwards *gate
	metrics  *hostMetrics
	log      *slog.Logger

	cancel context.CancelFunc
	done   sync.WaitGroup

	mu     sync.Mutex
	ended  bool
	closes map[closer]struct{} // sockets and connections
}

type closer interface{ Close() error }

// start serves udp and tcp (either may be nil) until Close and takes ownership of them.
func (s *dnsServer) start(udp net.PacketConn, tcp net.Listener) {
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	s.closes = make(map[closer]struct{})
	if udp != nil && s.own(udp) {
		s.done.Go(func() { s.serveUDP(ctx, udp) })
	}
	if tcp != nil && s.own(tcp) {
		s.done.Go(func() { s.serveTCP(ctx, tcp) })
	}
}

// Close ends the server and its connections, and waits for its goroutines.
func (s *dnsServer) Close() error {
	s.cancel()
	s.mu.Lock()
	s.ended = true
	for c := range s.closes {
		_ = c.Close()
	}
	s.mu.Unlock()
	s.done.Wait()
	return nil
}

// own makes Close close c; it closes c itself and reports false when the server has ended.
func (s *dnsServer) own(c closer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		_ = c.Close()
		return false
	}
	s.closes[c] = struct{}{}
	return true
}

func (s *dnsServer) disown(c closer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.closes, c)
	_ = c.Close()
}

func (s *dnsServer) serveUDP(ctx context.Context, pc net.PacketConn) {
	defer s.disown(pc)
	buf := make([]byte, maxDNSQuery)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) || !pause(ctx, acceptPause) {
				return
			}
			continue
		}
		req, reply := s.decide(buf[:n])
		if req == nil {
			continue
		}
		if reply != nil {
			s.writeUDP(pc, from, s.pack(req, reply, udpLimit(req)))
			continue
		}
		client := clientOf(from)
		if !s.forwards.enter(client) {
			s.metrics.dns.WithLabelValues("busy").Inc()
			s.writeUDP(pc, from, s.pack(req, failure(req, dns.RcodeServerFailure), udpLimit(req)))
			continue
		}
		raw := append([]byte(nil), buf[:n]...)
		s.done.Go(func() {
			defer s.forwards.leave(client)
			s.writeUDP(pc, from, s.ask(ctx, raw, req, udpLimit(req)))
		})
	}
}

func (s *dnsServer) writeUDP(pc net.PacketConn, to net.Addr, msg []byte) {
	if msg != nil {
		_, _ = pc.WriteTo(msg, to) // a client that went away
	}
}

func (s *dnsServer) serveTCP(ctx context.Context, ln net.Listener) {
	defer s.disown(ln)
	slots := make(chan struct{}, maxDNSConns)
	for {
		c, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) || !pause(ctx, acceptPause) {
				return
			}
			continue
		}
		select {
		case slots <- struct{}{}:
		default:
			_ = c.Close()
			continue
		}
		if !s.own(c) {
			return
		}
		s.done.Go(func() {
			defer func() { <-slots }()
			defer s.disown(c)
			s.serveConn(ctx, c)
		})
	}
}

func (s *dnsServer) serveConn(ctx context.Context, c net.Conn) {
	client := clientOf(c.RemoteAddr())
	for range maxDNSConnQueries {
		_ = c.SetDeadline(time.Now().Add(dnsConnIdle))
		raw, err := readDNSFrame(c)
		if err != nil {
			return
		}
		req, reply := s.decide(raw)
		var msg []byte
		switch {
		case req == nil:
			return
		case reply != nil:
			msg = s.pack(req, reply, dns.MaxMsgSize)
		case s.forwards.enter(client):
			msg = s.ask(ctx, raw, req, dns.MaxMsgSize)
			s.forwards.leave(client)
		default:
			s.metrics.dns.WithLabelValues("busy").Inc()
			msg = s.pack(req, failure(req, dns.RcodeServerFailure), dns.MaxMsgSize)
		}
		_ = c.SetDeadline(time.Now().Add(dnsConnIdle))
		if msg == nil || writeDNSFrame(c, msg) != nil {
			return
		}
	}
}

// decide parses a message. No req: not a question, say nothing. No reply: the outside has to be asked.
func (s *dnsServer) decide(raw []byte) (req, reply *dns.Msg) {
	if len(raw) < dnsHeader || raw[2]&dnsFlagQR != 0 {
		return nil, nil
	}
	req = new(dns.Msg)
	if err := req.Unpack(raw); err != nil {
		req = &dns.Msg{MsgHdr: dns.MsgHdr{Id: uint16(raw[0])<<8 | uint16(raw[1]), Opcode: int(raw[2]>>3) & 0xf}}
		return req, failure(req, dns.RcodeFormatError)
	}
	if reply := malformed(req); reply != nil {
		return req, reply
	}
	if reply, ok := answerLocal(s.view.networks(), req); ok {
		s.metrics.dns.WithLabelValues("local").Inc()
		return req, reply
	}
	p, isReverse := reversePrefix(canonicalName(req.Question[0].Name))
	if s.view.closed() || isReverse && s.view.overlay(p) {
		// Which of our addresses a task is curious about is nobody's business outside. And a task of internal networks only asks nobody
		// (CVE-2024-29018). NXDOMAIN rather than REFUSED in both cases: we are the authority for what exists here, and to the resolver
		// of a C library REFUSED means "this server is broken", on which musl gives up instead of trying the next search domain or the plain name.
		s.metrics.dns.WithLabelValues("withheld").Inc()
		return req, failure(req, dns.RcodeNameError)
	}
	return req, nil
}

// malformed is the reply to what no DNS server here will answer, or nil.
func malformed(req *dns.Msg) *dns.Msg {
	switch opt := req.IsEdns0(); {
	case req.Opcode != dns.OpcodeQuery:
		return failure(req, dns.RcodeNotImplemented)
	case len(req.Question) != 1:
		return failure(req, dns.RcodeFormatError)
	case opt != nil && opt.Version() != 0:
		return failure(req, dns.RcodeBadVers)
	case req.Question[0].Qclass != dns.ClassINET:
		return failure(req, dns.RcodeRefused)
	case req.Question[0].Qtype == dns.TypeAXFR, req.Question[0].Qtype == dns.TypeIXFR:
		return failure(req, dns.RcodeRefused)
	}
	return nil
}

// ask forwards the message and returns what the client gets.
func (s *dnsServer) ask(ctx context.Context, raw []byte, req *dns.Msg, limit int) []byte {
	answer, err := s.forward.forward(ctx, s.view.upstream(), raw, req)
	if err != nil {
		s.metrics.dns.WithLabelValues("failed").Inc()
		s.log.Debug("DNS question to the outside got no answer", "err", err)
		return s.pack(req, failure(req, dns.RcodeServerFailure), limit)
	}
	s.metrics.dns.WithLabelValues("forwarded").Inc()
	if len(answer) <= limit {
		return answer
	}
	reply := new(dns.Msg)
	if err := reply.Unpack(answer); err != nil {
		reply = newReply(req)
		reply.Truncated = true
	}
	return s.pack(nil, reply, limit)
}

// pack encodes a reply, cut to limit with the TC bit set when it is longer. With req, EDNS is answered with EDNS (RFC 6891 section 6.1.1).
func (s *dnsServer) pack(req, reply *dns.Msg, limit int) []byte {
	if req != nil && req.IsEdns0() != nil {
		reply.SetEdns0(maxDNSQuery, false)
	}
	reply.Compress = true
	reply.Truncate(limit)
	msg, err := reply.Pack()
	if err != nil {
		s.log.Warn("encode DNS reply", "err", err)
		return nil
	}
	return msg
}

func failure(req *dns.Msg, rcode int) *dns.Msg {
	reply := newReply(req)
	reply.Rcode = rcode
	return reply
}

// udpLimit is the size of a datagram that the client can take.
func udpLimit(req *dns.Msg) int {
	if opt := req.IsEdns0(); opt != nil {
		return min(max(int(opt.UDPSize()), minDNSReply), maxDNSReply)
	}
	return minDNSReply
}

func clientOf(a net.Addr) netip.Addr {
	switch a := a.(type) {
	case *net.UDPAddr:
		return a.AddrPort().Addr().Unmap()
	case *net.TCPAddr:
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// pause waits for d and reports false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
