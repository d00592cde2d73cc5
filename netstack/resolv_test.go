package netstack

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseResolvConf(t *testing.T) {
	const conf = `# comment
search example.test
nameserver 192.0.2.1 # first
nameserver 2001:db8::53
nameserver nonsense
nameserver
options ndots:1
nameserver fe80::1%eth0
nameserver 192.0.2.4
`
	want := []netip.AddrPort{
		netip.MustParseAddrPort("192.0.2.1:53"), netip.MustParseAddrPort("[2001:db8::53]:53"), netip.MustParseAddrPort("[fe80::1%eth0]:53"),
	}
	if diff := cmp.Diff(want, parseResolvConf([]byte(conf)), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}

func TestHostResolversFollowTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	now := time.Unix(1000, 0)
	r := newHostResolvers(path, nil)
	r.now = func() time.Time { return now }
	write := func(s string) {
		t.Helper()
		now = now.Add(2 * resolvCheck)
		if err := os.WriteFile(path, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, now, now); err != nil {
			t.Fatal(err)
		}
	}
	if got := r.list(); len(got) != 0 {
		t.Errorf("without a file: %v", got)
	}
	write("nameserver 192.0.2.1\n")
	if got := r.list(); len(got) != 1 || got[0].Addr() != netip.MustParseAddr("192.0.2.1") {
		t.Errorf("got %v", got)
	}
	write("nameserver 192.0.2.2\n")
	if got := r.list(); len(got) != 1 || got[0].Addr() != netip.MustParseAddr("192.0.2.2") {
		t.Errorf("after a change: %v", got)
	}
	now = now.Add(2 * resolvCheck)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if got := r.list(); len(got) != 1 {
		t.Errorf("while the file is away: %v", got)
	}
}
