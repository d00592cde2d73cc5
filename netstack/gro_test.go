package netstack

import (
	"bytes"
	"testing"
)

func TestMerge(t *testing.T) {
	const a, b = "10.0.16.4:80", "10.0.16.2:4000"
	full := make([]byte, 1000)
	seg := func(seq uint32, flags uint8, payload []byte) []byte { return segment(a, b, seq, 9, flags, payload) }
	with := func(pkt []byte, at int, v byte) []byte { // change a byte of the headers and mend the checksums
		pkt[at] = v
		setIPv4Csum(pkt)
		t := pkt[ipv4Len:]
		t[16], t[17] = 0, 0
		c := ^sum(t, pseudoSum(pkt, false, protoTCP, len(t)))
		t[16], t[17] = byte(c>>8), byte(c)
		return pkt
	}
	bad := seg(1001, tcpACK, full)
	bad[60] ^= 1
	for _, tc := range []struct {
		name  string
		in    [][]byte
		count []int // packets in each item
	}{
		{"in order", [][]byte{seg(1, tcpACK, full), seg(1001, tcpACK, full), seg(2001, tcpACK|tcpPSH, full[:10])}, []int{3}},
		{"gap", [][]byte{seg(1, tcpACK, full), seg(2001, tcpACK, full)}, []int{1, 1}},
		{"out of order", [][]byte{seg(1001, tcpACK, full), seg(1, tcpACK, full)}, []int{1, 1}},
		{"nothing after PSH", [][]byte{seg(1, tcpACK|tcpPSH, full), seg(1001, tcpACK, full)}, []int{1, 1}},
		{"nothing after a short one", [][]byte{seg(1, tcpACK, full), seg(1001, tcpACK, full[:500]), seg(1501, tcpACK, full[:500])}, []int{2, 1}},
		{"no larger one", [][]byte{seg(1, tcpACK, full[:500]), seg(501, tcpACK, full)}, []int{1, 1}},
		{"FIN stays alone, in order", [][]byte{seg(1, tcpACK, full), seg(1001, tcpFIN|tcpACK, nil), seg(1001, tcpACK, full)}, []int{1, 1, 1}},
		{"SYN stays alone", [][]byte{seg(1, tcpSYN, nil), seg(2, tcpACK, full)}, []int{1, 1}},
		{"acknowledgements stay alone", [][]byte{seg(1, tcpACK, nil), seg(1, tcpACK, nil)}, []int{1, 1}},
		{"other acknowledgement", [][]byte{seg(1, tcpACK, full), segment(a, b, 1001, 10, tcpACK, full)}, []int{1, 1}},
		{"other window", [][]byte{seg(1, tcpACK, full), with(seg(1001, tcpACK, full), ipv4Len+14, 1)}, []int{1, 1}},
		{"other TTL", [][]byte{seg(1, tcpACK, full), with(seg(1001, tcpACK, full), 8, 3)}, []int{1, 1}},
		{"other TOS", [][]byte{seg(1, tcpACK, full), with(seg(1001, tcpACK, full), 1, 3)}, []int{1, 1}},
		{"other DF", [][]byte{seg(1, tcpACK, full), with(seg(1001, tcpACK, full), 6, 0)}, []int{1, 1}},
		{"other options", [][]byte{with(seg(1, tcpACK, full), ipv4Len+12, 6<<4), with(seg(1001, tcpACK, full), ipv4Len+12, 5<<4)}, []int{1, 1}},
		{"wrong checksum of the second", [][]byte{seg(1, tcpACK, full), bad}, []int{1, 1}},
		{"wrong checksum of the first", [][]byte{bad, seg(2001, tcpACK, full)}, []int{1, 1}},
		{"other flow between", [][]byte{seg(1, tcpACK, full), segment(a, "10.0.16.2:4001", 5, 9, tcpACK, full), seg(1001, tcpACK, full)}, []int{2, 1}},
		{"UDP stays alone", [][]byte{datagram(a, b, full), datagram(a, b, full)}, []int{1, 1}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var m merger
			for _, p := range tc.in {
				if !m.add(append([]byte(nil), p...)) {
					t.Fatal("refused")
				}
			}
			m.finish()
			var count []int
			for i := range m.items {
				o := &m.items[i]
				count = append(count, o.count)
				whole := bytes.Join(m.parts(o, nil), nil)
				if len(whole) != o.size {
					t.Errorf("%d bytes, counted %d", len(whole), o.size)
				}
				if o.count > 1 {
					wantSound(t, o.hdr, whole)
				}
			}
			if len(count) != len(tc.count) {
				t.Fatalf("items of %v packets, want %v", count, tc.count)
			}
			for i := range count {
				if count[i] != tc.count[i] {
					t.Fatalf("items of %v packets, want %v", count, tc.count)
				}
			}
		})
	}
}

func TestMergeIsBounded(t *testing.T) {
	var m merger
	for i := range uint32(200) {
		m.add(segment("10.0.16.4:80", "10.0.16.2:4000", 1+i*1360, 9, tcpACK, make([]byte, 1360)))
	}
	m.finish()
	for i := range m.items {
		o := &m.items[i]
		if o.size > maxIP || len(m.parts(o, nil)) > maxMerge {
			t.Errorf("super-packet of %d bytes in %d parts", o.size, len(m.parts(o, nil)))
		}
	}
	if len(m.items) > 6 {
		t.Errorf("%d super-packets", len(m.items))
	}
}
