package netstack

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/singleflight"
)

const (
	// dnsForwardTimeout is how long a client waits for the outside in all (Docker: 4 s).
	dnsForwardTimeout = 4 * time.Second
	// maxDNSForwards bounds the questions of all tasks that are outside at once (Docker: 1024).
	maxDNSForwards = 1024
	// maxDNSDatagram is read of an upstream's datagram; a larger answer is fetched over TCP. 4096 is the most that resolvers of repute send.
	maxDNSDatagram = 4096
)

var (
	errDNSBusy     = errors.New("too many questions are being forwarded")
	errNoUpstream  = errors.New("no name server is known: /etc/resolv.conf of the host names none")
	errDNSMismatch = errors.New("the answer is for another question")
)

// dnsUpstream are the servers that are asked for names from elsewhere.
type dnsUpstream struct {
	servers []netip.AddrPort
	// overlay: a server may be a task, reached through the stack. The host's own servers never are, also not when an overlay subnet overlaps
	// with the host's network.
	overlay bool
}

// dialUpstream opens a connection to a server; network is "tcp" or "udp".
type dialUpstream func(ctx context.Context, network string, to netip.AddrPort, overlay bool) (net.Conn, error)

// dnsForwarder asks name servers outside. Each question goes out once at a time even when many clients ask it, from a fresh socket (so the kernel
// picks a random port) and with a random id: an off-path attacker has 2^16 ids times the ports to guess, and no birthday to help (CVE-2008-1447).
// Safe for concurrent use.
type dnsForwarder struct {
	dial    dialUpstream
	timeout time.Duration
	slots   chan struct{}
	flights singleflight.Group
}

func newDNSForwarder(dial dialUpstream) *dnsForwarder {
	return &dnsForwarder{dial: dial, timeout: dnsForwardTimeout, slots: make(chan struct{}, maxDNSForwards)}
}

// forward returns the answer of the first server that has one; raw is the client's whole message, which goes out unchanged except for its id, and
// so does the answer: EDNS options and record types of the future pass.
func (f *dnsForwarder) forward(ctx context.Context, up dnsUpstream, raw []byte, req *dns.Msg) ([]byte, error) {
	if len(up.servers) == 0 {
		return nil, errNoUpstream
	}
	if len(up.servers) > maxUpstreams {
		up.servers = up.servers[:maxUpstreams]
	}
	ch := f.flights.DoChan(flightKey(up, raw), func() (any, error) {
		select {
		case f.slots <- struct{}{}:
			defer func() { <-f.slots }()
		default:
			return nil, errDNSBusy
		}
		// The flight belongs to all who wait for it, so it does not end with the first one's context.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), f.timeout)
		defer cancel()
		return f.askAll(ctx, up, raw, req.Question[0])
	})
	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case r := <-ch:
		if r.Err != nil {
			return nil, r.Err
		}
		answer := append([]byte(nil), r.Val.([]byte)...)
		binary.BigEndian.PutUint16(answer, req.Id)
		return answer, nil
	}
}

// flightKey is equal for messages that differ in their id only.
func flightKey(up dnsUpstream, raw []byte) string {
	var b strings.Builder
	if up.overlay {
		b.WriteByte('o')
	}
	for _, s := range up.servers {
		b.WriteString(s.String())
		b.WriteByte(' ')
	}
	b.Write(raw[2:])
	return b.String()
}

// askAll asks the servers in turn; a server that fails, or says that it cannot answer, is followed by the next. A single server is asked twice,
// for a datagram may be lost.
func (f *dnsForwarder) askAll(ctx context.Context, up dnsUpstream, raw []byte, q dns.Question) ([]byte, error) {
	servers := up.servers
	if len(servers) == 1 {
		servers = []netip.AddrPort{servers[0], servers[0]}
	}
	var last []byte
	var errs []error
	for _, s := range servers {
		ctx, cancel := context.WithTimeout(ctx, f.timeout/time.Duration(len(servers)))
		answer, err := f.ask(ctx, upstreamServer{s, up.overlay}, raw, q)
		cancel()
		if err != nil {
			errs = append(errs, fmt.Errorf("ask name server %s: %w", s, err))
			continue
		}
		last = answer
		if rc := int(answer[3] & 0xf); rc != dns.RcodeServerFailure && rc != dns.RcodeRefused && rc != dns.RcodeNotImplemented {
			return answer, nil
		}
	}
	if last != nil {
		return last, nil
	}
	return nil, errors.Join(errs...)
}

// upstreamServer is one of the servers of a dnsUpstream.
type upstreamServer struct {
	addr    netip.AddrPort
	overlay bool
}

// ask asks one server, over TCP when the answer does not fit a datagram.
func (f *dnsForwarder) ask(ctx context.Context, server upstreamServer, raw []byte, q dns.Question) ([]byte, error) {
	answer, err := f.exchange(ctx, "udp", server, raw, q)
	if err == nil && answer[2]&dnsFlagTC == 0 {
		return answer, nil
	}
	if err != nil && !errors.Is(err, io.ErrShortBuffer) {
		return nil, err
	}
	full, tcpErr := f.exchange(ctx, "tcp", server, raw, q)
	if tcpErr != nil && err == nil {
		return answer, nil // truncated is better than nothing
	}
	return full, tcpErr
}

// exchange sends the question once and waits for its answer.
func (f *dnsForwarder) exchange(ctx context.Context, network string, server upstreamServer, raw []byte, q dns.Question) ([]byte, error) {
	c, err := f.dial(ctx, network, server.addr, server.overlay)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	out := append(make([]byte, 0, len(raw)+2), raw...)
	var id [2]byte
	if _, err := rand.Read(id[:]); err != nil {
		return nil, err
	}
	copy(out, id[:])
	if network == "tcp" {
		if err := writeDNSFrame(c, out); err != nil {
			return nil, err
		}
		in, err := readDNSFrame(c)
		if err != nil {
			return nil, err
		}
		if !answers(in, id, q) {
			return nil, errDNSMismatch
		}
		return in, nil
	}
	if _, err := c.Write(out); err != nil {
		return nil, err
	}
	buf := make([]byte, maxDNSDatagram+1)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return nil, err
		}
		switch {
		case !answers(buf[:min(n, maxDNSDatagram)], id, q):
			// Late, forged or broken: the right one may still come.
		case n > maxDNSDatagram:
			return nil, io.ErrShortBuffer
		default:
			return buf[:n], nil
		}
	}
}

// Bits of the third octet of a DNS header (RFC 1035 section 4.1.1).
const (
	dnsFlagTC = 0x02
	dnsFlagQR = 0x80
	dnsHeader = 12
)

// answers reports whether msg is a reply with this id to this question.
func answers(msg []byte, id [2]byte, q dns.Question) bool {
	if len(msg) < dnsHeader || msg[0] != id[0] || msg[1] != id[1] || msg[2]&dnsFlagQR == 0 {
		return false
	}
	if binary.BigEndian.Uint16(msg[4:]) != 1 {
		return false
	}
	name, off, err := dns.UnpackDomainName(msg, dnsHeader)
	if err != nil || off+4 > len(msg) || !strings.EqualFold(name, q.Name) {
		return false
	}
	return binary.BigEndian.Uint16(msg[off:]) == q.Qtype && binary.BigEndian.Uint16(msg[off+2:]) == q.Qclass
}

// writeDNSFrame and readDNSFrame are the framing of DNS over TCP (RFC 1035 section 4.2.2).
func writeDNSFrame(w io.Writer, msg []byte) error {
	if len(msg) > dns.MaxMsgSize {
		return fmt.Errorf("DNS message of %d bytes does not fit a frame", len(msg))
	}
	frame := make([]byte, 2+len(msg))
	binary.BigEndian.PutUint16(frame, uint16(len(msg)))
	copy(frame[2:], msg)
	_, err := w.Write(frame)
	return err
}

func readDNSFrame(r io.Reader) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	msg := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(r, msg); err != nil {
		return nil, err
	}
	return msg, nil
}
