package sched

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/swarm"
	"pgregory.net/rapid"

	"github.com/meshswarm/meshswarm/raft/rafttest"
	"github.com/meshswarm/meshswarm/raft/state"
)

func TestConstraints(t *testing.T) {
	n := &state.Node{ID: "abc", Role: swarm.NodeRoleManager}
	n.Spec.Labels = map[string]string{"disk": "SSD", "Case": "x"}
	n.Description.Hostname = "host1"
	n.Description.Platform = swarm.Platform{OS: "linux", Architecture: "x86_64"}
	n.Description.Engine.Labels = map[string]string{"os": "debian"}
	n.Status.Addr = "192.0.2.7"
	for expr, want := range map[string]bool{
		"node.id==abc": true, "node.id == ABC": true, "node.id!=abc": false, "NODE.HOSTNAME==host1": true, "node.hostname!=other": true,
		"node.role==manager": true, "node.role==worker": false, "node.platform.os==linux": true, "node.platform.arch!=arm": true,
		"node.platform.arch==amd64": true, "node.platform.arch!=amd64": false,
		"node.labels.disk==ssd": true, "node.labels.disk!=ssd": false, "node.labels.none==x": false, "node.labels.none!=x": true,
		"node.labels.Case==x": true, "node.labels.case==x": false, "engine.labels.os==debian": true,
		"node.ip==192.0.2.7": true, "node.ip!=192.0.2.7": false, "node.ip==192.0.2.0/24": true, "node.ip!=192.0.2.0/24": false,
		"node.ip==nonsense": false, "node.ip!=nonsense": false, "unknown==x": false, "unknown!=x": false, "node.labels.==x": false,
	} {
		if _, err := parseConstraint(expr); err != nil {
			t.Errorf("%s: %v", expr, err)
		}
		if got := parseConstraints([]string{expr}).match(n); got != want {
			t.Errorf("%s: %v", expr, got)
		}
	}
	for _, expr := range []string{"", "node.id", "node.id=abc", "==x", "node.id==", "node id==x", "node.id==a,b", "-x==y"} {
		if CheckConstraints([]string{expr}) == nil || parseConstraints([]string{expr}).match(n) {
			t.Errorf("%q is taken", expr)
		}
	}
}

func FuzzConstraint(f *testing.F) {
	for _, s := range []string{"node.id==x", "node.labels.a!=b", "node.ip==10.0.0.0/8", "engine.labels.==", "a==b!=c"} {
		f.Add(s)
	}
	n := &state.Node{ID: "x"}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := parseConstraint(s)
		if err != nil {
			if parseConstraints([]string{s}).match(n) {
				t.Errorf("%q is not understood, and matches", s)
			}
			return
		}
		known := strings.HasPrefix(strings.ToLower(c.key), "node.") || strings.HasPrefix(strings.ToLower(c.key), "engine.")
		if c.match(n) && !known {
			t.Errorf("unknown key in %q matches", s)
		}
	})
}

func TestCheckSubnet(t *testing.T) {
	s := state.New()
	p := rafttest.NewProposer(s)
	net := &state.Network{ID: "a", IPAM: &swarm.IPAMOptions{Configs: []swarm.IPAMConfig{{Subnet: "10.1.0.0/24", Gateway: "10.1.0.1"}}}}
	asked := &state.Network{ID: "b", Spec: swarm.NetworkSpec{Annotations: swarm.Annotations{Name: "b"}, IPAMOptions: &swarm.IPAMOptions{Configs: []swarm.IPAMConfig{{Subnet: "10.2.0.0/24"}}}}}
	_, err := p.Propose(t.Context(), state.Batch{Time: time.Now(), Ops: []state.Op{
		{Action: state.Create, Object: &state.Cluster{MeshSubnet: netip.MustParsePrefix("100.127.0.0/16")}},
		{Action: state.Create, Object: net}, {Action: state.Create, Object: asked},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for prefix, want := range map[string]string{
		"10.3.0.0/24": "", "fd00::/64": "", "192.168.0.0/16": "", "10.1.1.0/29": "",
		"10.1.0.0/16": "overlaps 10.1.0.0/24", "10.2.0.128/25": "of network b", "100.127.3.0/24": "mesh", "10.3.0.1/24": "host bits",
		"10.3.0.0/31": "no room", "0.0.0.0/0": "too large", "127.0.0.0/8": "not for hosts", "224.0.0.0/8": "not for hosts", "fe80::/64": "not for hosts",
		"::ffff:10.0.0.0/104": "IPv4",
	} {
		err := CheckSubnet(s.View(), netip.MustParsePrefix(prefix))
		if want == "" && err != nil || want != "" && (!errors.Is(err, ErrSubnet) || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", prefix, err, want)
		}
	}
}

func TestFreeSubnet(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		pools := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/20"), netip.MustParsePrefix("10.8.0.0/22")}
		prefix := rapid.Custom(func(r *rapid.T) netip.Prefix {
			a := netip.AddrFrom4([4]byte{10, byte(rapid.SampledFrom([]int{0, 8}).Draw(r, "b")), byte(rapid.IntRange(0, 16).Draw(r, "c")), byte(rapid.IntRange(0, 255).Draw(r, "d"))})
			return netip.PrefixFrom(a, rapid.IntRange(19, 27).Draw(r, "bits"))
		})
		taken := rapid.SliceOfN(prefix, 0, 12).Draw(r, "taken")
		got, ok := freeSubnet(pools, 24, taken)
		overlaps := func(p netip.Prefix) bool {
			for _, t := range taken {
				if t.Overlaps(p) {
					return true
				}
			}
			return false
		}
		for _, pool := range pools { // the first that is free, found the slow way
			for p := netip.PrefixFrom(pool.Addr(), 24); pool.Contains(p.Addr()); p = netip.PrefixFrom(lastAddr(p).Next(), 24) {
				if !overlaps(p) {
					if p != got {
						r.Fatalf("got %s, want %s", got, p)
					}
					return
				}
			}
		}
		if ok {
			r.Fatalf("got %s, want none", got)
		}
	})
}

func TestPool(t *testing.T) {
	for subnet, want := range map[string]struct {
		within string
		first  string
		last   string
		size   int
	}{
		"10.0.0.0/24": {"", "10.0.0.1", "10.0.0.254", 254}, "10.0.0.0/30": {"", "10.0.0.1", "10.0.0.2", 2},
		"10.0.1.0/24": {"10.0.1.128/25", "10.0.1.128", "10.0.1.254", 127}, "10.0.2.0/24": {"10.0.2.64/26", "10.0.2.64", "10.0.2.127", 64},
		"10.0.3.0/24": {"10.9.0.0/26", "10.0.3.1", "10.0.3.254", 254}, "fd00::/64": {"", "fd00::1", "fd00::ffff:ffff:ffff:ffff", 1<<31 - 1},
		"fd01::/120": {"", "fd01::1", "fd01::ff", 255},
	} {
		within, _ := netip.ParsePrefix(want.within)
		p := newPool(netip.MustParsePrefix(subnet), within)
		if p.first.String() != want.first || p.last.String() != want.last || p.size != want.size {
			t.Errorf("%s: %s to %s, %d addresses", subnet, p.first, p.last, p.size)
		}
	}
	rapid.Check(t, func(r *rapid.T) {
		p := newPool(netip.MustParsePrefix("10.0.0.0/28"), netip.Prefix{})
		owned := map[netip.Addr]bool{}
		for range 60 {
			if a, ok := p.next(); rapid.Bool().Draw(r, "take") {
				switch {
				case ok != (len(owned) < 14):
					r.Fatalf("%d of 14 in use, next says %v", len(owned), ok)
				case ok && (owned[a] || !p.holds(a)):
					r.Fatalf("%s is in use or outside", a)
				case ok:
					p.take(a, "x", time.Time{})
					p.cursor, owned[a] = a, true
				}
			} else {
				for a := range owned {
					if !p.give(a, "x") || p.give(a, "x") {
						r.Fatalf("%s not free once", a)
					}
					delete(owned, a)
					break
				}
			}
		}
	})
}

func TestExplain(t *testing.T) {
	c := judge{refused: [filters]int{3, 0, 1}}
	if got, want := c.explain(), "no suitable node (3 nodes not available for new tasks; insufficient resources on 1 node)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := (&judge{}).explain(); got != "no suitable node" {
		t.Errorf("got %q", got)
	}
}

// A node does not remember failures that nobody asks for any more.
func TestFailuresAreForgotten(t *testing.T) {
	n := newBoard(state.New().View(), epoch).node("n1")
	for i := range 1000 {
		n.failed(revisionKey{"s", uint64(i)}, epoch.Add(time.Duration(i)*time.Minute))
	}
	if got := len(n.failures); got > 6 {
		t.Errorf("%d revisions remembered, want those of the last %s", got, failureWindow)
	}
}
