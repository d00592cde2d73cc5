package netstack

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

func addrs(s ...string) []netip.Addr {
	var as []netip.Addr
	for _, a := range s {
		as = append(as, netip.MustParseAddr(a))
	}
	return as
}

// dnsTables are two networks; "web" is a service in both, "db" in the internal second only.
func dnsTables() *Tables {
	return &Tables{MeshSubnet: netip.MustParsePrefix("100.127.0.0/16"), Networks: []Network{
		{
			ID: "net1", Subnets: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/24")}, Gateways: addrs("10.1.0.1"),
			VIPs: []VIP{{Addr: netip.MustParseAddr("10.1.0.2"), Service: "web"}},
			Names: map[string][]netip.Addr{
				"web": addrs("10.1.0.2"), "tasks.web": addrs("10.1.0.10", "10.1.0.11"), "web.1.abc": addrs("10.1.0.10"), "empty": {}, "six": addrs("fd00::6"),
			},
			PTR: map[netip.Addr]string{netip.MustParseAddr("10.1.0.10"): "web.1.abc.front"},
		},
		{
			ID: "net2", Internal: true, Subnets: []netip.Prefix{netip.MustParsePrefix("10.2.0.0/20")}, Gateways: addrs("10.2.0.1"),
			VIPs:  []VIP{{Addr: netip.MustParseAddr("10.2.0.2"), Service: "web"}},
			Names: map[string][]netip.Addr{"web": addrs("10.2.0.2"), "db": addrs("10.2.0.9")},
		},
	}}
}

// dnsWorld is a host that is not running: DNS at 127.0.0.11 needs no stack.
func dnsWorld(t testing.TB, upstream ...netip.AddrPort) *host {
	tabs := compile(dnsTables())
	if len(upstream) == 0 {
		upstream = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:1")}
	}
	h, err := newHostOn(Config{Resolvers: upstream, Logger: slog.New(slog.DiscardHandler)}, nil, func() *tables { return tabs })
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// serve starts a task's server on loopback sockets and returns its address.
func (h *host) serveTest(t testing.TB, cfg DNSConfig) string {
	t.Helper()
	var err error
	if cfg.UDP, err = net.ListenPacket("udp", loopback+":0"); err != nil {
		t.Fatal(err)
	}
	addr := cfg.UDP.LocalAddr().String()
	if cfg.TCP, err = net.Listen("tcp", addr); err != nil {
		t.Fatal(err)
	}
	c, err := h.serveDNS(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return addr
}

func query(t testing.TB, network, server string, name string, typ uint16, change func(*dns.Msg)) *dns.Msg {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion(name, typ)
	if change != nil {
		change(m)
	}
	c := dns.Client{Net: network, Timeout: 10 * time.Second}
	r, _, err := c.Exchange(m, server)
	if err != nil {
		t.Fatalf("ask for %s: %v", name, err)
	}
	return r
}

// answersOf are the records' data in order, with their TTL.
func answersOf(m *dns.Msg) []string {
	var got []string
	for _, rr := range m.Answer {
		f := strings.Fields(rr.String())
		got = append(got, fmt.Sprintf("%s %s %s", f[1], f[3], f[4]))
	}
	sort.Strings(got)
	return got
}

func TestDNSNames(t *testing.T) {
	h := dnsWorld(t)
	server := h.serveTest(t, DNSConfig{NetworkIDs: []string{"net1", "net2"}})
	only2 := h.serveTest(t, DNSConfig{NetworkIDs: []string{"net2"}, Internal: true})
	tests := []struct {
		name, server, q string
		typ             uint16
		rcode           int
		want            []string
	}{
		{"service", only2, "web.", dns.TypeA, 0, []string{"5 A 10.2.0.2"}},
		{"union of networks", server, "web.", dns.TypeA, 0, []string{"5 A 10.1.0.2", "5 A 10.2.0.2"}},
		{"case", server, "WeB.", dns.TypeA, 0, []string{"5 A 10.1.0.2", "5 A 10.2.0.2"}},
		{"tasks", server, "tasks.web.", dns.TypeA, 0, []string{"1 A 10.1.0.10", "1 A 10.1.0.11"}},
		{"container", server, "web.1.abc.", dns.TypeA, 0, []string{"1 A 10.1.0.10"}},
		{"escaped dot is another name", only2, `web\.1\.abc.`, dns.TypeA, dns.RcodeNameError, nil},
		{"AAAA of a v4 name", server, "web.", dns.TypeAAAA, 0, nil},
		{"A of a v6 name", server, "six.", dns.TypeA, 0, nil},
		{"AAAA", server, "six.", dns.TypeAAAA, 0, []string{"1 AAAA fd00::6"}},
		{"MX", server, "web.", dns.TypeMX, 0, nil},
		{"known without addresses", server, "empty.", dns.TypeA, 0, nil},
		{"ANY", server, "tasks.web.", dns.TypeANY, 0, []string{"1 A 10.1.0.10", "1 A 10.1.0.11"}},
		{"other network's name", only2, "tasks.web.", dns.TypeA, dns.RcodeNameError, nil},
		{"PTR", server, "10.0.1.10.in-addr.arpa.", dns.TypePTR, 0, []string{"1 PTR web.1.abc.front."}},
		{"A of a PTR name", server, "10.0.1.10.in-addr.arpa.", dns.TypeA, 0, nil},
		{"PTR without task", server, "77.0.1.10.in-addr.arpa.", dns.TypePTR, dns.RcodeNameError, nil},
		{"PTR of the mesh", server, "7.0.127.100.in-addr.arpa.", dns.TypePTR, dns.RcodeNameError, nil},
		{"SOA of a reverse zone inside", server, "5.2.10.in-addr.arpa.", dns.TypeSOA, dns.RcodeNameError, nil},
		{"internal asks outside", only2, "secret.attacker.test.", dns.TypeA, dns.RcodeNameError, nil},
		{"zone transfer", server, "web.", dns.TypeAXFR, dns.RcodeRefused, nil},
	}
	for _, tt := range tests {
		for _, network := range []string{"udp", "tcp"} {
			if tt.typ == dns.TypeAXFR && network == "udp" {
				continue
			}
			t.Run(tt.name+" "+network, func(t *testing.T) {
				r := query(t, network, tt.server, tt.q, tt.typ, nil)
				if r.Rcode != tt.rcode || !r.RecursionAvailable {
					t.Errorf("rcode %s, want %s; RA %v", dns.RcodeToString[r.Rcode], dns.RcodeToString[tt.rcode], r.RecursionAvailable)
				}
				if diff := cmp.Diff(tt.want, answersOf(r)); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
}

func TestDNSMalformed(t *testing.T) {
	server := dnsWorld(t).serveTest(t, DNSConfig{NetworkIDs: []string{"net1"}})
	ask := func(raw []byte) *dns.Msg {
		c, err := net.Dial("udp", server)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(300 * time.Millisecond))
		_, _ = c.Write(raw)
		buf := make([]byte, 4096)
		n, err := c.Read(buf)
		if err != nil {
			return nil
		}
		m := new(dns.Msg)
		if err := m.Unpack(buf[:n]); err != nil {
			t.Fatal(err)
		}
		return m
	}
	pack := func(change func(*dns.Msg)) []byte {
		m := new(dns.Msg)
		m.SetQuestion("web.", dns.TypeA)
		change(m)
		b, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	whole := pack(func(*dns.Msg) {})
	tests := []struct {
		name  string
		raw   []byte
		rcode int // -1: no answer
	}{
		{"empty", nil, -1},
		{"short", whole[:11], -1},
		{"a response", pack(func(m *dns.Msg) { m.Response = true }), -1},
		{"cut", whole[:len(whole)-3], dns.RcodeFormatError},
		{"two questions", pack(func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }), dns.RcodeFormatError},
		{"notify", pack(func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }), dns.RcodeNotImplemented},
		{"chaos", pack(func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }), dns.RcodeRefused},
		{"EDNS 1", pack(func(m *dns.Msg) { m.SetEdns0(1232, false); m.IsEdns0().SetVersion(1) }), dns.RcodeBadVers},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := ask(tt.raw)
			switch {
			case r == nil && tt.rcode != -1:
				t.Error("no answer")
			case r != nil && r.Rcode != tt.rcode:
				t.Errorf("rcode %d, want %d", r.Rcode, tt.rcode)
			}
		})
	}
}

func TestDNSConnLimits(t *testing.T) {
	h := dnsWorld(t)
	server := h.serveTest(t, DNSConfig{NetworkIDs: []string{"net1"}})
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	for range maxDNSConns + 8 {
		c, err := net.Dial("tcp", server)
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	last := conns[len(conns)-1]
	_ = last.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := last.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a connection over the bound: %v", err)
	}
	if r := query(t, "udp", server, "web.", dns.TypeA, nil); len(r.Answer) != 1 {
		t.Error("UDP suffers from idle TCP connections")
	}
}

func TestDNSAtGateway(t *testing.T) {
	w := newTestWorld(t)
	up := fakeUpstream(t, func(w dns.ResponseWriter, m *dns.Msg) { reply(w, m, "example.test. 60 IN A 203.0.113.5") })
	n := w.node("100.127.0.1", func(c *Config) { c.Resolvers = []netip.AddrPort{up} })
	t1, t2 := w.task(n, "10.1.0.10"), w.task(n, "10.2.0.9")
	n.set(dnsTables())
	ask := func(task *testTask, network, gateway, name string) *dns.Msg {
		to := netip.MustParseAddrPort(gateway + ":53")
		var c net.Conn
		var err error
		if network == "tcp" {
			c, err = task.dial(t.Context(), to.String())
		} else {
			c, err = task.dialUDP(netip.AddrPortFrom(task.addr, 0), to)
		}
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conn := &dns.Conn{Conn: c}
		if network == "tcp" { // dns.Conn frames what is not a PacketConn
			_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		}
		r, _, err := (&dns.Client{Net: network, Timeout: 10 * time.Second}).ExchangeWithConn(new(dns.Msg).SetQuestion(name, dns.TypeA), conn)
		if err != nil {
			t.Fatalf("%s %s: %v", network, name, err)
		}
		return r
	}
	for _, network := range []string{"udp", "tcp"} {
		if got := answersOf(ask(t1, network, "10.1.0.1", "web.")); !cmp.Equal(got, []string{"5 A 10.1.0.2"}) {
			t.Errorf("%s: %v", network, got)
		}
		if r := ask(t1, network, "10.1.0.1", "example.test."); len(r.Answer) != 1 {
			t.Errorf("%s: the outside: %v", network, r)
		}
		if r := ask(t2, network, "10.2.0.1", "example.test."); r.Rcode != dns.RcodeNameError {
			t.Errorf("%s: internal: %v", network, r)
		}
	}
	tables := dnsTables()
	tables.Networks = tables.Networks[1:]
	n.set(tables)
	if len(n.host.live.Load().gateways.servers) != 1 {
		t.Error("the server of a network that is gone lives on")
	}
}

// A task's own server (--dns) inside its network is asked through the stack.
func TestDNSUpstreamInOverlay(t *testing.T) {
	w := newTestWorld(t)
	n := w.node("100.127.0.1", nil)
	task := w.task(n, "10.2.0.9")
	n.set(dnsTables())
	sock, err := task.openUDP(netip.AddrPortFrom(task.addr, 53), netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			chunk, k, from, err := sock.next()
			if err != nil {
				return
			}
			m := new(dns.Msg)
			if m.Unpack((*chunk)[:k]) == nil {
				rr, _ := dns.NewRR("inside.test. 60 IN A 10.2.0.77")
				r := new(dns.Msg).SetReply(m)
				r.Answer = append(r.Answer, rr)
				b, _ := r.Pack()
				_ = sock.send(b, from)
			}
			chunks.Put(chunk)
		}
	}()
	t.Cleanup(func() { _ = sock.Close(); <-done })
	server := n.host.serveTest(t, DNSConfig{NetworkIDs: []string{"net2"}, Internal: true, Upstream: []netip.AddrPort{netip.AddrPortFrom(task.addr, 53)}})
	if got := answersOf(query(t, "udp", server, "inside.test.", dns.TypeA, nil)); !cmp.Equal(got, []string{"60 A 10.2.0.77"}) {
		t.Errorf("got %v", got)
	}
}

// Tables change while questions are asked.
func TestDNSRace(t *testing.T) {
	w := newTestWorld(t)
	n := w.node("100.127.0.1", nil)
	n.set(dnsTables())
	server := n.host.serveTest(t, DNSConfig{NetworkIDs: []string{"net1", "net2"}})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			n.set(dnsTables())
		}
	})
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				if r := query(t, "udp", server, "web.", dns.TypeA, nil); len(r.Answer) != 2 {
					t.Errorf("%d answers", len(r.Answer))
				}
			}
		})
	}
	wg.Wait()
}

func TestReversePrefix(t *testing.T) {
	tests := map[string]string{
		"10.0.1.10.in-addr.arpa":   "10.1.0.10/32",
		"1.10.in-addr.arpa":        "10.1.0.0/16",
		"010.0.1.10.in-addr.arpa":  "",
		"256.0.1.10.in-addr.arpa":  "",
		"1.1.0.1.10.in-addr.arpa":  "",
		"in-addr.arpa":             "",
		"x.in-addr.arpa":           "",
		"0.0.d.f.ip6.arpa":         "fd00::/16",
		"10.d.f.ip6.arpa":          "",
		"web":                      "",
		"1.in-addr.arpa.evil.test": "",
	}
	for name, want := range tests {
		p, ok := reversePrefix(name)
		if got := p.String(); ok != (want != "") || ok && got != want {
			t.Errorf("%s: %s, %v; want %q", name, got, ok, want)
		}
	}
}

func FuzzDNS(f *testing.F) {
	for _, typ := range []uint16{dns.TypeA, dns.TypePTR, dns.TypeANY} {
		b, _ := new(dns.Msg).SetQuestion("web.", typ).Pack()
		f.Add(b)
	}
	b, _ := new(dns.Msg).SetQuestion("10.0.1.10.in-addr.arpa.", dns.TypePTR).SetEdns0(4096, true).Pack()
	f.Add(b)
	h := dnsWorld(f)
	s := h.newDNSServer([]string{"net1", "net2"}, nil, true)
	f.Fuzz(func(t *testing.T, raw []byte) {
		req, reply := s.decide(raw)
		if req == nil {
			return
		}
		if reply == nil {
			t.Fatal("an internal task's question would leave")
		}
		limit := udpLimit(req)
		out := s.pack(req, reply, limit)
		if out == nil {
			return
		}
		if len(out) > limit || binary.BigEndian.Uint16(out) != binary.BigEndian.Uint16(raw) || out[2]&dnsFlagQR == 0 {
			t.Errorf("%d bytes of %d, % x", len(out), limit, out)
		}
	})
}
