package netstack

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/miekg/dns"
)

const (
	// dnsTTLVIP is the TTL in seconds of a name that leads to VIPs. Docker says 600, and much software that caches that long keeps talking to
	// an address that is gone or is another service's by now. A VIP lives as long as its service and freed addresses are not reused at
	// once, so a few seconds are safe and already spare nearly all repeated questions.
	dnsTTLVIP = 5
	// dnsTTLTask is the TTL of a task's own address: it leaves with the task, and the next answer must not name it any more.
	dnsTTLTask = 1
	// maxDNSAnswers bounds the records of one answer: a service of thousands of tasks must not produce an answer that no client can take.
	maxDNSAnswers = 1024
)

// answerLocal answers the question of req out of the networks, or reports false when none of them knows the name.
// The answer of several networks is the union of theirs. A known name without a record of the asked type is an empty NOERROR: NXDOMAIN for AAAA
// would make resolvers drop the A record they have, too (RFC 4074 section 4.2).
func answerLocal(nets []*Network, req *dns.Msg) (*dns.Msg, bool) {
	q := req.Question[0]
	name := canonicalName(q.Name)
	if p, ok := reversePrefix(name); ok {
		return answerPTR(nets, req, p)
	}
	addrs, vip := lookupName(nets, name)
	if addrs == nil {
		return nil, false
	}
	resp := newReply(req)
	ttl := uint32(dnsTTLTask)
	if vip {
		ttl = dnsTTLVIP
	}
	for _, a := range addrs {
		if len(resp.Answer) == maxDNSAnswers {
			break
		}
		switch {
		case a.Is4() && (q.Qtype == dns.TypeA || q.Qtype == dns.TypeANY):
			resp.Answer = append(resp.Answer, &dns.A{Hdr: rrHeader(q.Name, dns.TypeA, ttl), A: a.AsSlice()})
		case a.Is6() && (q.Qtype == dns.TypeAAAA || q.Qtype == dns.TypeANY):
			resp.Answer = append(resp.Answer, &dns.AAAA{Hdr: rrHeader(q.Name, dns.TypeAAAA, ttl), AAAA: a.AsSlice()})
		}
	}
	// Many clients take the first address only.
	rand.Shuffle(len(resp.Answer), func(i, j int) { resp.Answer[i], resp.Answer[j] = resp.Answer[j], resp.Answer[i] })
	return resp, true
}

// lookupName returns the addresses of name in all networks without duplicates (nil: unknown everywhere), and whether all of them are VIPs.
func lookupName(nets []*Network, name string) (addrs []netip.Addr, vip bool) {
	known, vip := false, true
	for _, n := range nets {
		as, ok := n.Names[name]
		if !ok {
			continue
		}
		known = true
		vip = vip && len(as) == 1 && isVIP(n, as[0])
		earlier := addrs
		for _, a := range as {
			if !slices.Contains(earlier, a) {
				addrs = append(addrs, a)
			}
		}
	}
	if known && addrs == nil {
		addrs = []netip.Addr{}
	}
	return addrs, vip && len(addrs) > 0
}

func answerPTR(nets []*Network, req *dns.Msg, p netip.Prefix) (*dns.Msg, bool) {
	if !p.IsSingleIP() {
		return nil, false
	}
	var resp *dns.Msg
	for _, n := range nets {
		name, ok := n.PTR[p.Addr()]
		if !ok {
			continue
		}
		if resp == nil {
			resp = newReply(req)
		}
		if q := req.Question[0]; q.Qtype == dns.TypePTR || q.Qtype == dns.TypeANY {
			resp.Answer = append(resp.Answer, &dns.PTR{Hdr: rrHeader(q.Name, dns.TypePTR, dnsTTLTask), Ptr: dns.Fqdn(name)})
		}
	}
	return resp, resp != nil
}

// newReply is an empty NOERROR. RecursionAvailable is always set: glibc takes an empty answer with neither AA nor RA for a lame server and asks
// the next one.
func newReply(req *dns.Msg) *dns.Msg {
	resp := new(dns.Msg)
	resp.SetReply(req)
	resp.RecursionAvailable = true
	return resp
}

func rrHeader(name string, typ uint16, ttl uint32) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: typ, Class: dns.ClassINET, Ttl: ttl}
}

// canonicalName is a name as the tables hold it: lower case, no dot at the end. A dot inside a label stays escaped ("a\.b"), so it is never
// taken for the name of another scope.
func canonicalName(name string) string {
	return strings.TrimSuffix(dns.CanonicalName(name), ".")
}

func isVIP(n *Network, a netip.Addr) bool {
	for i := range n.VIPs {
		if n.VIPs[i].Addr == a {
			return true
		}
	}
	return false
}

// reversePrefix returns what part of the address space a canonical name below in-addr.arpa or ip6.arpa (RFC 1035 section 3.5, RFC 3596 section
// 2.5) speaks of: one address, or the prefix of a shorter name.
func reversePrefix(name string) (netip.Prefix, bool) {
	if rest, ok := cutZone(name, "in-addr.arpa"); ok {
		return reverse4(rest)
	}
	if rest, ok := cutZone(name, "ip6.arpa"); ok {
		return reverse6(rest)
	}
	return netip.Prefix{}, false
}

func cutZone(name, zone string) (labels []string, ok bool) {
	rest, ok := strings.CutSuffix(name, "."+zone)
	if !ok {
		return nil, false
	}
	return strings.Split(rest, "."), true
}

func reverse4(labels []string) (netip.Prefix, bool) {
	if len(labels) > 4 {
		return netip.Prefix{}, false
	}
	var b [4]byte
	for i, l := range labels {
		v, err := strconv.ParseUint(l, 10, 8)
		if err != nil || strconv.FormatUint(v, 10) != l {
			return netip.Prefix{}, false
		}
		b[len(labels)-1-i] = byte(v)
	}
	return netip.PrefixFrom(netip.AddrFrom4(b), 8*len(labels)), true
}

func reverse6(labels []string) (netip.Prefix, bool) {
	if len(labels) > 32 {
		return netip.Prefix{}, false
	}
	var b [16]byte
	for i, l := range labels {
		v, err := strconv.ParseUint(l, 16, 8)
		if err != nil || len(l) != 1 {
			return netip.Prefix{}, false
		}
		at := len(labels) - 1 - i
		b[at/2] |= byte(v) << (4 * (1 - at%2))
	}
	return netip.PrefixFrom(netip.AddrFrom16(b), 4*len(labels)), true
}
