package netstack

import (
	"os"
	"testing"

	"github.com/meshswarm/meshswarm/netstack/netstacktest"
)

// fuzzSeeds are packets of each kind that the fabric looks into.
func fuzzSeeds() [][]byte {
	super := superPacket(true, []byte{1, 1, 1, 1}, make([]byte, 3000), tcpACK, 1000)
	defer super.release()
	ext := datagram("[fd00:16::2]:1", "[fd00:16::100]:53", []byte("behind extension headers"))
	ext = append(append(append([]byte(nil), ext[:6]...), protoDestOpts), ext[7:]...)
	ext = append(ext[:ipv6Len:ipv6Len], append([]byte{protoUDP, 0, 1, 4, 0, 0, 0, 0}, ext[ipv6Len:]...)...)
	ext[5] += 8
	options := segment("10.0.16.2:4000", vip4+":80", 1, 2, tcpACK, []byte("IP options in front"))
	options = append(options[:ipv4Len:ipv4Len], append([]byte{1, 1, 1, 0}, options[ipv4Len:]...)...)
	options[0], options[3] = 0x46, options[3]+4
	ask := datagram("10.0.16.2:4000", vip4+":53", []byte("question"))
	return [][]byte{
		segment("10.0.16.2:4000", vip4+":80", 1, 0, tcpSYN, nil),
		ask, super.ip, ext, options,
		ping("10.0.16.2", vip4), ping("fd00:16::2", "fd00:16::1"),
		icmpError("10.0.16.2:0", vip4+":0", datagram(vip4+":53", "10.0.16.2:4000", []byte("answer"))),
		icmpError("[fd00:16::2]:0", "["+vip6+"]:0", datagram("["+vip6+"]:53", "[fd00:16::2]:4000", []byte("answer"))),
		fragments(datagram("10.0.16.2:4000", vip4+":53", make([]byte, 2000)), 1200)[1],
	}
}

func FuzzParse(f *testing.F) {
	for _, p := range fuzzSeeds() {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		ip, h, ok := parse(b)
		if !ok {
			return
		}
		if len(ip) > len(b) || h.l4 > len(ip) || h.csumAt() > 0 && h.csumAt()+2 > len(ip) {
			t.Fatalf("parse goes beyond the packet: %+v", h)
		}
		if isICMPError(ip, &h) {
			if q, ok := parseQuoted(ip, &h); ok {
				q.rewrite(&[16]byte{1}, &[16]byte{2})
			}
		}
	})
}

func FuzzSplit(f *testing.F) {
	for _, p := range fuzzSeeds() {
		f.Add(p, []byte{1, 4, 0, 0, 100, 0, 40, 0, 16, 0})
		f.Add(p, []byte{1, 1, 0, 0, 8, 0, 20, 0, 16, 0})
		f.Add(p, []byte{1, 5, 0, 0, 200, 0, 20, 0, 6, 0})
	}
	f.Fuzz(func(t *testing.T, b, hdr []byte) {
		if len(hdr) < vnetLen || len(b) > maxIP {
			return
		}
		p, _ := newPacket(len(b))
		copy(p.ip, b)
		p.hdr.decode(hdr)
		n := 0
		for _, s := range splitAll(p) {
			if n++; len(s) > maxSegment {
				t.Fatalf("segment of %d bytes", len(s))
			}
			if _, _, ok := parse(s); !ok {
				t.Fatalf("a segment cannot be parsed: %x", s[:min(len(s), 80)])
			}
		}
		if n > maxIP/minGSO {
			t.Fatalf("%d segments", n)
		}
		if used := largeUsed.Load() + smallUsed.Load(); used != 0 {
			t.Fatalf("%d buffers were kept", used)
		}
	})
}

func FuzzMerge(f *testing.F) {
	for _, p := range fuzzSeeds() {
		f.Add(p, p)
	}
	a := segment("10.0.16.4:80", "10.0.16.2:4000", 1, 9, tcpACK, []byte("first half, "))
	f.Add(a, segment("10.0.16.4:80", "10.0.16.2:4000", 13, 9, tcpACK|tcpPSH, []byte("second half.")))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		var m merger
		for _, p := range [][]byte{a, b} {
			m.add(append([]byte(nil), p...))
		}
		m.finish()
		for i := range m.items {
			o := &m.items[i]
			if o.count > 1 {
				var whole []byte
				for _, part := range m.parts(o, nil) {
					whole = append(whole, part...)
				}
				wantSound(t, o.hdr, whole)
			}
		}
	})
}

// FuzzFabric sends anything as a task, and checks that a packet of another source never arrives anywhere.
func FuzzFabric(f *testing.F) {
	for _, p := range fuzzSeeds() {
		f.Add(p, make([]byte, vnetLen))
		f.Add(p, []byte{1, 0, 0, 0, 0, 0, 20, 0, 16, 0})
	}
	n := newFabricNode(f, node1)
	n.set(vipTables(on(2), on(3)))
	task, other := n.task("c", "a", TUN, nil, "10.0.16.2", "fd00:16::2"), n.task("s", "a", TUN, nil, "10.0.16.3", "fd00:16::3")
	go discard(task.Device)
	go discard(other.Device)
	go func() {
		for range n.got {
		}
	}()
	f.Cleanup(func() { close(n.got) })
	f.Fuzz(func(t *testing.T, ip, hdr []byte) {
		if len(hdr) < vnetLen || len(ip) > maxIP {
			return
		}
		p, _ := newPacket(len(ip))
		defer p.release()
		copy(p.ip, ip)
		p.hdr.decode(hdr)
		n.fromLink(task.link, &p) // its own reader never has anything to do
		_, _ = n.mesh.Write([][]byte{append(make([]byte, 16), ip...)}, 16)
	})
}

func discard(d *netstacktest.Device) {
	for {
		if _, _, err := d.Receive(0); err != nil {
			return
		}
	}
}

// TestCorpora keeps the seeds beside what the fuzzers found: testdata/fuzz is part of the repository.
func TestCorpora(t *testing.T) {
	for _, name := range []string{"FuzzParse", "FuzzSplit", "FuzzMerge", "FuzzFabric"} {
		if e, err := os.ReadDir("testdata/fuzz/" + name); err != nil || len(e) == 0 {
			t.Errorf("no corpus of %s: %v", name, err)
		}
	}
}
