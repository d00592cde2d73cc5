package mesh

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// keepalive is the persistent keepalive in seconds: it keeps the mappings of
// NATs and firewalls alive, and sessions ready for the first packet.
const keepalive = 25

// diffPeers returns the configuration (wireguard.com/xplatform) that makes new
// out of old, "" when nothing changed. What is taken away comes first, so that an address can change hands.
func diffPeers(old, new map[PublicKey]Peer) string {
	var b strings.Builder
	for k, p := range old {
		n, ok := new[k]
		if !ok {
			fmt.Fprintf(&b, "public_key=%s\nremove=true\n", k.hex())
			continue
		}
		if gone := missing(p.AllowedIPs, n.AllowedIPs); len(gone) > 0 {
			fmt.Fprintf(&b, "public_key=%s\nupdate_only=true\n", k.hex())
			for _, ip := range gone {
				fmt.Fprintf(&b, "allowed_ip=-%s\n", ip)
			}
		}
	}
	for k, p := range new {
		o, known := old[k]
		added := missing(p.AllowedIPs, o.AllowedIPs)
		if known && p.Endpoint == o.Endpoint && len(added) == 0 {
			continue
		}
		fmt.Fprintf(&b, "public_key=%s\n", k.hex())
		if p.Endpoint.IsValid() && p.Endpoint != o.Endpoint {
			fmt.Fprintf(&b, "endpoint=%s\n", p.Endpoint)
		}
		for _, ip := range added {
			fmt.Fprintf(&b, "allowed_ip=%s\n", ip)
		}
		if !known {
			fmt.Fprintf(&b, "persistent_keepalive_interval=%d\n", keepalive)
		}
	}
	return b.String()
}

// missing returns the prefixes of a that b lacks.
func missing(a, b []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	have := make(map[netip.Prefix]struct{}, len(b))
	for _, p := range b {
		have[p.Masked()] = struct{}{}
	}
	for _, p := range a {
		if _, ok := have[p.Masked()]; !ok && !slices.Contains(out, p.Masked()) {
			out = append(out, p.Masked())
		}
	}
	return out
}

// parseStatus reads what wireguard-go says of its peers. Lines it does not need, the private key among them, are passed over.
func parseStatus(conf string) []PeerStatus {
	var out []PeerStatus
	var sec, nsec int64
	var cur *PeerStatus
	for line := range strings.Lines(conf) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		if key == "public_key" {
			var s PeerStatus
			if b, err := hex.DecodeString(value); err == nil && len(b) == len(s.Key) {
				s.Key = PublicKey(b)
			}
			out = append(out, s)
			cur = &out[len(out)-1]
			continue
		}
		if cur == nil {
			continue
		}
		switch key {
		case "endpoint":
			cur.Endpoint, _ = netip.ParseAddrPort(value)
		case "last_handshake_time_sec":
			sec, _ = strconv.ParseInt(value, 10, 64)
		case "last_handshake_time_nsec":
			nsec, _ = strconv.ParseInt(value, 10, 64)
			if sec != 0 || nsec != 0 {
				cur.LastHandshake = time.Unix(sec, nsec)
			}
		case "rx_bytes":
			cur.RxBytes, _ = strconv.ParseUint(value, 10, 64)
		case "tx_bytes":
			cur.TxBytes, _ = strconv.ParseUint(value, 10, 64)
		}
	}
	return out
}
