package netstack

import (
	"bufio"
	"bytes"
	"io"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"
)

const (
	// maxUpstreams is how many name servers of a resolv.conf count (resolv.conf(5): MAXNS).
	maxUpstreams = 3
	// resolvCheck is how often the file is looked at for changes.
	resolvCheck = time.Second
	// maxResolvConf bounds what is read of the file.
	maxResolvConf = 64 << 10
	dnsPort       = 53
)

// hostResolvers gives the host's name servers. It reads the file again when it has changed, so that a laptop that moves, a DHCP renewal or a
// VPN does not leave tasks with dead servers. Safe for concurrent use.
type hostResolvers struct {
	path  string
	fixed []netip.AddrPort
	now   func() time.Time

	mu      sync.Mutex
	checked time.Time
	mtime   time.Time
	size    int64
	servers []netip.AddrPort
}

// newHostResolvers uses fixed when it is not empty, else the file at path.
func newHostResolvers(path string, fixed []netip.AddrPort) *hostResolvers {
	return &hostResolvers{path: path, fixed: fixed, now: time.Now}
}

// list returns the current servers, at most maxUpstreams; the caller does not change the slice.
func (r *hostResolvers) list() []netip.AddrPort {
	if len(r.fixed) > 0 {
		return r.fixed
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	if !r.checked.IsZero() && now.Sub(r.checked) < resolvCheck {
		return r.servers
	}
	r.checked = now
	st, err := os.Stat(r.path)
	if err != nil {
		// While the file is being replaced the last known servers are the better answer.
		return r.servers
	}
	if st.ModTime().Equal(r.mtime) && st.Size() == r.size {
		return r.servers
	}
	data, err := readCapped(r.path, maxResolvConf)
	if err != nil {
		return r.servers
	}
	r.mtime, r.size, r.servers = st.ModTime(), st.Size(), parseResolvConf(data)
	return r.servers
}

// parseResolvConf returns the name servers of a resolv.conf(5).
func parseResolvConf(data []byte) []netip.AddrPort {
	var servers []netip.AddrPort
	sc := bufio.NewScanner(bytes.NewReader(data))
	for sc.Scan() && len(servers) < maxUpstreams {
		line := sc.Text()
		if i := strings.IndexAny(line, "#;"); i >= 0 {
			line = line[:i]
		}
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "nameserver" {
			continue
		}
		a, err := netip.ParseAddr(f[1])
		if err != nil {
			continue
		}
		servers = append(servers, netip.AddrPortFrom(a.Unmap(), dnsPort))
	}
	return servers
}

func readCapped(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}
