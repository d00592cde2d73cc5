package netstack

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

// fakeUpstream is a name server outside; answer gets each question.
func fakeUpstream(t testing.TB, answer func(w dns.ResponseWriter, m *dns.Msg)) netip.AddrPort {
	t.Helper()
	pc, err := net.ListenPacket("udp", loopback+":0")
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", pc.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait) // after the servers' own
	for _, s := range []*dns.Server{{PacketConn: pc, UDPSize: 4096}, {Listener: ln}} {
		s.Handler = dns.HandlerFunc(answer)
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		wg.Go(func() { _ = s.ActivateAndServe() })
		<-started
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_ = s.ShutdownContext(ctx)
		})
	}
	return netip.MustParseAddrPort(pc.LocalAddr().String())
}

func reply(w dns.ResponseWriter, m *dns.Msg, rrs ...string) {
	r := new(dns.Msg)
	r.SetReply(m)
	r.RecursionAvailable = true
	for _, s := range rrs {
		rr, err := dns.NewRR(s)
		if err != nil {
			panic(err)
		}
		r.Answer = append(r.Answer, rr)
	}
	_ = w.WriteMsg(r)
}

func isTCP(w dns.ResponseWriter) bool { _, ok := w.RemoteAddr().(*net.TCPAddr); return ok }

func TestDNSForward(t *testing.T) {
	var edns atomic.Uint32
	up := fakeUpstream(t, func(w dns.ResponseWriter, m *dns.Msg) {
		if o := m.IsEdns0(); o != nil {
			edns.Store(uint32(o.UDPSize()))
		}
		switch m.Question[0].Name {
		case "example.test.", "single.":
			reply(w, m, m.Question[0].Name+" 60 IN A 203.0.113.5")
		case "long.test.":
			r := new(dns.Msg)
			r.SetReply(m)
			if !isTCP(w) {
				r.Truncated = true
				_ = w.WriteMsg(r)
				return
			}
			var rrs []string
			for i := range 60 {
				rrs = append(rrs, fmt.Sprintf("long.test. 60 IN A 203.0.113.%d", i))
			}
			reply(w, m, rrs...)
		default:
			r := new(dns.Msg)
			_ = w.WriteMsg(r.SetRcode(m, dns.RcodeNameError))
		}
	})
	h := dnsWorld(t, up)
	server := h.serveTest(t, DNSConfig{NetworkIDs: []string{"net1"}})
	if got := answersOf(query(t, "udp", server, "example.test.", dns.TypeA, nil)); !cmp.Equal(got, []string{"60 A 203.0.113.5"}) {
		t.Errorf("got %v", got)
	}
	if got := answersOf(query(t, "tcp", server, "single.", dns.TypeA, nil)); !cmp.Equal(got, []string{"60 A 203.0.113.5"}) {
		t.Errorf("single label over TCP: %v", got)
	}
	if r := query(t, "udp", server, "nobody.test.", dns.TypeA, nil); r.Rcode != dns.RcodeNameError {
		t.Errorf("unknown everywhere: %s", dns.RcodeToString[r.Rcode])
	}
	if r := query(t, "udp", server, "long.test.", dns.TypeA, nil); !r.Truncated || len(r.Answer) == 60 {
		t.Errorf("long answer in 512 bytes: truncated %v, %d records", r.Truncated, len(r.Answer))
	}
	if r := query(t, "tcp", server, "long.test.", dns.TypeA, nil); len(r.Answer) != 60 {
		t.Errorf("long answer over TCP: %d records", len(r.Answer))
	}
	r := query(t, "udp", server, "long.test.", dns.TypeA, func(m *dns.Msg) { m.SetEdns0(1400, true) })
	if len(r.Answer) != 60 || edns.Load() != 1400 {
		t.Errorf("EDNS: %d records, upstream saw size %d", len(r.Answer), edns.Load())
	}
	if r := query(t, "udp", server, "77.113.0.203.in-addr.arpa.", dns.TypePTR, nil); r.Rcode != dns.RcodeNameError {
		t.Errorf("reverse of the outside: %s", dns.RcodeToString[r.Rcode])
	}
}

// Nothing of an internal task, and no reverse question about the overlay, reaches a name server.
func TestDNSWithholds(t *testing.T) {
	var asked atomic.Int32
	up := fakeUpstream(t, func(w dns.ResponseWriter, m *dns.Msg) { asked.Add(1); reply(w, m) })
	h := dnsWorld(t, up)
	internal := h.serveTest(t, DNSConfig{NetworkIDs: []string{"net2"}, Internal: true})
	withDNS := h.serveTest(t, DNSConfig{NetworkIDs: []string{"net2"}, Internal: true, Upstream: []netip.AddrPort{up}})
	open := h.serveTest(t, DNSConfig{NetworkIDs: []string{"net1"}})
	for _, s := range []string{internal, withDNS} {
		if r := query(t, "udp", s, "x.attacker.test.", dns.TypeA, nil); r.Rcode != dns.RcodeNameError {
			t.Errorf("internal: %s", dns.RcodeToString[r.Rcode])
		}
	}
	for _, name := range []string{"9.0.2.10.in-addr.arpa.", "4.1.10.in-addr.arpa."} {
		query(t, "udp", open, name, dns.TypePTR, nil)
	}
	if n := asked.Load(); n != 1 { // 10.1.4.0/24 is in no overlay
		t.Errorf("the outside was asked %d times, want once", n)
	}
}

func TestDNSUpstreamFailures(t *testing.T) {
	fails := fakeUpstream(t, func(w dns.ResponseWriter, m *dns.Msg) {
		_ = w.WriteMsg(new(dns.Msg).SetRcode(m, dns.RcodeServerFailure))
	})
	works := fakeUpstream(t, func(w dns.ResponseWriter, m *dns.Msg) { reply(w, m, m.Question[0].Name+" 60 IN A 203.0.113.5") })
	silent := fakeUpstream(t, func(dns.ResponseWriter, *dns.Msg) {})
	tests := []struct {
		name    string
		servers []netip.AddrPort
		rcode   int
	}{
		{"second works", []netip.AddrPort{fails, works}, 0},
		{"first is silent", []netip.AddrPort{silent, works}, 0},
		{"first is closed", []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:1"), works}, 0},
		{"all fail", []netip.AddrPort{fails, fails}, dns.RcodeServerFailure},
		{"all silent", []netip.AddrPort{silent}, dns.RcodeServerFailure},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := dnsWorld(t, tt.servers...)
			h.forwarder.timeout = 400 * time.Millisecond
			server := h.serveTest(t, DNSConfig{NetworkIDs: []string{"net1"}})
			if r := query(t, "udp", server, "example.test.", dns.TypeA, nil); r.Rcode != tt.rcode {
				t.Errorf("rcode %s", dns.RcodeToString[r.Rcode])
			}
		})
	}
}

// Forged answers, with a wrong id or another question, are passed over.
func TestDNSIgnoresForgedAnswers(t *testing.T) {
	up := fakeUpstream(t, func(w dns.ResponseWriter, m *dns.Msg) {
		forged := m.Copy()
		forged.Id++
		reply(w, forged, "example.test. 60 IN A 203.0.113.66")
		other := m.Copy()
		other.Question[0].Name = "other.test."
		reply(w, other, "other.test. 60 IN A 203.0.113.66")
		reply(w, m, "example.test. 60 IN A 203.0.113.5")
	})
	server := dnsWorld(t, up).serveTest(t, DNSConfig{NetworkIDs: []string{"net1"}})
	if got := answersOf(query(t, "udp", server, "example.test.", dns.TypeA, nil)); !cmp.Equal(got, []string{"60 A 203.0.113.5"}) {
		t.Errorf("got %v", got)
	}
}

// The same question of many clients goes out once.
func TestDNSDeduplicates(t *testing.T) {
	var asked atomic.Int32
	release := make(chan struct{})
	up := fakeUpstream(t, func(w dns.ResponseWriter, m *dns.Msg) {
		asked.Add(1)
		<-release
		reply(w, m, "example.test. 60 IN A 203.0.113.5")
	})
	h := dnsWorld(t, up)
	server := h.serveTest(t, DNSConfig{NetworkIDs: []string{"net1"}})
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if r := query(t, "udp", server, "example.test.", dns.TypeA, nil); len(r.Answer) != 1 {
				t.Error("no answer")
			}
		})
	}
	eventually(t, "a question is outside", func() bool { return asked.Load() > 0 })
	close(release)
	wg.Wait()
	if n := asked.Load(); n > 3 { // those that came after the answer
		t.Errorf("asked %d times", n)
	}
}

// A task that has many questions outside does not keep another from asking, and local names still answer.
func TestDNSForwardLimit(t *testing.T) {
	release := make(chan struct{})
	var asked atomic.Int32
	up := fakeUpstream(t, func(w dns.ResponseWriter, m *dns.Msg) {
		asked.Add(1)
		if strings.HasPrefix(m.Question[0].Name, "slow") {
			<-release
		}
		reply(w, m)
	})
	h := dnsWorld(t, up)
	greedy, other := h.serveTest(t, DNSConfig{NetworkIDs: []string{"net1"}}), h.serveTest(t, DNSConfig{NetworkIDs: []string{"net1"}})
	c, err := net.Dial("udp", greedy)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i := range maxTaskForwards {
		b, _ := new(dns.Msg).SetQuestion(fmt.Sprintf("slow%d.test.", i), dns.TypeA).Pack()
		_, _ = c.Write(b)
	}
	eventually(t, "the task is at its bound", func() bool { return asked.Load() == maxTaskForwards })
	if r := query(t, "udp", greedy, "one.more.test.", dns.TypeA, nil); r.Rcode != dns.RcodeServerFailure {
		t.Errorf("over the bound: %s", dns.RcodeToString[r.Rcode])
	}
	if r := query(t, "udp", greedy, "web.", dns.TypeA, nil); len(r.Answer) != 1 {
		t.Error("a local name did not answer")
	}
	if r := query(t, "udp", other, "quick.test.", dns.TypeA, nil); r.Rcode != 0 {
		t.Errorf("another task: %s", dns.RcodeToString[r.Rcode])
	}
	close(release)
}
