package netstack

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

// superPacket makes a TCP super-packet with a partial checksum, as a task's kernel sends it.
func superPacket(v6 bool, options, payload []byte, flags uint8, size int) packet {
	src, dst := "10.0.16.2:4000", "10.0.16.3:80"
	if v6 {
		src, dst = "[fd00:16::2]:4000", "[fd00:16::3]:80"
	}
	ip := segment(src, dst, 0xfffffff0, 7, flags, append(append([]byte(nil), options...), payload...))
	_, h, _ := parse(ip)
	ip[h.l4+12] = byte((tcpLen + len(options)) / 4 << 4)
	p, _ := newPacket(len(ip))
	copy(p.ip, ip)
	hdr := partial(p.ip)
	p.hdr = vnetHdr{flags: hdr.Flags, csumStart: hdr.CsumStart, csumOffset: hdr.CsumOffset}
	if size > 0 {
		p.hdr.gsoType, p.hdr.gsoSize = gsoTCPv4, uint16(size)
		if v6 {
			p.hdr.gsoType = gsoTCPv6
		}
	}
	return p
}

func splitAll(p packet) [][]byte {
	var s splitter
	if !s.begin(p, DefaultMTU) {
		return nil
	}
	var out [][]byte
	buf := make([]byte, maxIP)
	for s.more() {
		n := s.next(buf)
		out = append(out, append([]byte(nil), buf[:n]...))
	}
	return out
}

// TestSplitAndMerge cuts random super-packets, checks each segment, and merges them into the super-packet again.
func TestSplitAndMerge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v6 := rapid.Bool().Draw(t, "v6")
		size := rapid.IntRange(minGSO, 1340).Draw(t, "size")
		n := rapid.IntRange(1, min(maxIP-120, size*maxMerge)).Draw(t, "payload")
		options := make([]byte, 4*rapid.IntRange(0, 3).Draw(t, "options"))
		for i := range options {
			options[i] = 1 // no operation
		}
		flags := uint8(tcpACK)
		if rapid.Bool().Draw(t, "push") {
			flags |= tcpPSH
		}
		payload := make([]byte, n)
		rng := rand.New(rand.NewPCG(uint64(n), uint64(size)))
		for i := range payload {
			payload[i] = byte(rng.Uint32())
		}
		p := superPacket(v6, options, payload, flags, size)
		want := append([]byte(nil), p.ip...)
		segs := splitAll(p)
		if len(segs) != (n+size-1)/size {
			t.Fatalf("%d segments, want %d", len(segs), (n+size-1)/size)
		}
		var m merger
		for i, s := range segs {
			checkSegment(t, s, i == len(segs)-1, flags)
			if !m.add(s) {
				t.Fatal("segment refused")
			}
		}
		m.finish()
		if len(m.items) != 1 {
			t.Fatalf("%d super-packets", len(m.items))
		}
		o := &m.items[0]
		got := bytes.Join(m.parts(o, nil), nil)
		if len(segs) == 1 {
			return // nothing was merged: the checksum is a finished one
		}
		if int(o.hdr.gsoSize) != size || !o.hdr.needsCsum() {
			t.Fatalf("header %+v", o.hdr)
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("merged\n%x\nwant\n%x", got[:80], want[:80])
		}
	})
}

func checkSegment(t *rapid.T, s []byte, last bool, flags uint8) {
	ip, h, ok := parse(s)
	if !ok || len(ip) != len(s) || !csumValid(ip, h.v6, protoTCP, h.l4) {
		t.Fatal("unsound segment")
	}
	if !h.v6 && sum(ip[:h.l4], 0) != 0xffff {
		t.Fatal("wrong IP checksum")
	}
	if f := ip[h.l4+13]; !last && f != flags&^tcpPSH || last && f != flags {
		t.Fatalf("flags %02x", f)
	}
}

func TestSplitFlags(t *testing.T) {
	p := superPacket(false, nil, make([]byte, 3000), tcpACK|tcpPSH|tcpFIN|tcpCWR, 1000)
	var got []byte
	for _, s := range splitAll(p) {
		got = append(got, s[ipv4Len+13])
	}
	if want := []byte{tcpACK | tcpCWR, tcpACK, tcpACK | tcpPSH | tcpFIN}; !bytes.Equal(got, want) {
		t.Errorf("flags %x, want %x", got, want)
	}
}

func TestSplitUDP(t *testing.T) {
	for _, v := range []string{"10.0.16.2:1", "[fd00:16::2]:1"} {
		ip := datagram(v, v, bytes.Repeat([]byte("x"), 2500))
		p, _ := newPacket(len(ip))
		copy(p.ip, ip)
		h := partial(p.ip)
		p.hdr = vnetHdr{flags: h.Flags, csumStart: h.CsumStart, csumOffset: h.CsumOffset, gsoType: gsoUDPL4, gsoSize: 1000}
		sizes := []int{}
		for _, s := range splitAll(p) {
			wantSound(t, vnetHdr{}, s)
			_, h, _ := parse(s)
			if int(binary.BigEndian.Uint16(s[h.l4+4:])) != len(s)-h.l4 {
				t.Error("wrong UDP length")
			}
			sizes = append(sizes, len(s)-h.l4-udpLen)
		}
		if len(sizes) != 3 || sizes[0] != 1000 || sizes[2] != 500 {
			t.Errorf("sizes %v", sizes)
		}
	}
}

func TestSplitClampsSegmentsToTheMTU(t *testing.T) {
	for _, s := range splitAll(superPacket(true, nil, make([]byte, 20000), tcpACK, 8900)) {
		if len(s) > DefaultMTU {
			t.Fatalf("segment of %d bytes", len(s))
		}
	}
}

func TestSplitRefuses(t *testing.T) {
	used := largeUsed.Load() + smallUsed.Load()
	for name, change := range map[string]func(*packet){
		"segments of nothing":    func(p *packet) { p.hdr.gsoSize = 0 },
		"tiny segments":          func(p *packet) { p.hdr.gsoSize = minGSO - 1 },
		"other family":           func(p *packet) { p.hdr.gsoType = gsoTCPv6 },
		"unknown kind":           func(p *packet) { p.hdr.gsoType = 3 },
		"no checksum":            func(p *packet) { p.hdr.flags = 0 },
		"checksum elsewhere":     func(p *packet) { p.hdr.csumOffset = 6 },
		"checksum far outside":   func(p *packet) { p.hdr.csumStart = 65000 },
		"truncated":              func(p *packet) { p.ip = p.ip[:30] },
		"wrong length in header": func(p *packet) { p.ip[2], p.ip[3] = 0xff, 0xff },
	} {
		p := superPacket(false, nil, make([]byte, 3000), tcpACK, 1000)
		change(&p)
		if segs := splitAll(p); segs != nil {
			t.Errorf("%s: %d segments", name, len(segs))
		}
	}
	if now := largeUsed.Load() + smallUsed.Load(); now != used {
		t.Errorf("%d buffers in use, were %d", now, used)
	}
}
