package netstack

import (
	"fmt"
	"net/netip"
	"testing"
)

func testBackends(n int) []Backend {
	b := make([]Backend, n)
	for i := range b {
		b[i].Addr = netip.AddrFrom4([4]byte{10, 0, 16, byte(10 + i)})
	}
	return b
}

func testKey(client, port int) flowKey {
	return flowKey{src: addrKey(netip.AddrFrom4([4]byte{10, 0, 17, byte(client)})), dst: addrKey(addr("10.0.16.2")),
		sport: uint16(port), dport: 80, proto: protoTCP}
}

func TestPickSpreadsEvenly(t *testing.T) {
	backends := testBackends(6)
	for _, tc := range []struct {
		name string
		key  func(i int) flowKey
	}{
		{"ports of one client", func(i int) flowKey { return testKey(1, 32768+i%28000) }},
		{"every second port", func(i int) flowKey { return testKey(1, 32768+2*(i%14000)) }},
		{"clients", func(i int) flowKey { return testKey(i%250, 40000+i/250) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			count := map[netip.Addr]int{}
			const flows = 12000
			for i := range flows {
				k := tc.key(i)
				a, ok := pick(backends, &k, 0)
				if !ok {
					t.Fatal("no backend")
				}
				count[a]++
			}
			for a, n := range count {
				if want := flows / len(backends); n < want*9/10 || n > want*11/10 {
					t.Errorf("%s got %d flows of %d, want about %d", a, n, flows, want)
				}
			}
		})
	}
}

func TestPickMovesOnlyFlowsOfTheChangedBackend(t *testing.T) {
	six := testBackends(6)
	five := append(append([]Backend{}, six[:2]...), six[3:]...)
	for i := range 5000 {
		k := testKey(1, 30000+i)
		with, _ := pick(six, &k, 0)
		without, _ := pick(five, &k, 0)
		if with != six[2].Addr && with != without {
			t.Fatalf("flow %d moved from %s to %s", i, with, without)
		}
		second, _ := pick(six, &k, 1)
		if with == six[2].Addr && without != second {
			t.Fatalf("flow %d went to %s, its second choice is %s", i, without, second)
		}
	}
}

// TestPickIsStable pins the choice: another version of the agent must answer the same.
func TestPickIsStable(t *testing.T) {
	got := ""
	for i := range 12 {
		k := testKey(i, 40000+i)
		a, _ := pick(testBackends(6), &k, 0)
		got += fmt.Sprint(a.As4()[3]-10, " ")
	}
	if want := pinnedPicks; got != want {
		t.Errorf("picks %q, want %q", got, want)
	}
}

const pinnedPicks = "5 0 2 2 0 2 1 0 5 2 0 5 "

func TestFlowTableIsBounded(t *testing.T) {
	ft := newFlowTable()
	l := &Link{}
	v := &vip{VIP: &VIP{Backends: testBackends(3)}, serving: testBackends(3)}
	established := 0
	for i := range maxLinkFlows + 20000 {
		k := testKey(i>>16, i)
		w, res := ft.open(l, v, k, true)
		if res == openOK && i%4 == 0 {
			w.set(flowEstablished)
			established++
		}
	}
	if n := l.flows.Load(); n > maxLinkFlows {
		t.Errorf("%d flows of one link", n)
	}
	alive := 0
	ft.each(func(w *flow) {
		if w.is(flowEstablished) {
			alive++
		}
	})
	if alive != established {
		t.Errorf("%d established flows are left of %d", alive, established)
	}
}

// TestFullFlowTableHasRoomForOthers: two tasks that fill the table with connections leave the third what it needs.
func TestFullFlowTableHasRoomForOthers(t *testing.T) {
	ft := newFlowTable()
	v := &vip{VIP: &VIP{Backends: testBackends(3)}, serving: testBackends(3)}
	greedy := []*Link{{}, {}}
	for i := range maxFlows {
		if w, res := ft.open(greedy[i&1], v, testKey(1+i>>16, i), true); res == openOK {
			w.set(flowEstablished)
		}
	}
	if n := ft.count.Load(); n != maxFlows {
		t.Fatalf("%d flows, want a full table", n)
	}
	modest := &Link{}
	for i := range 1000 {
		w, res := ft.open(modest, v, testKey(9, i), true)
		if res != openOK {
			t.Fatalf("flow %d of a modest task: %v", i, res)
		}
		if i%2 == 0 {
			w.set(flowEstablished)
		}
	}
	for i := range 20000 { // what they try now is at their own expense
		ft.open(greedy[0], v, testKey(4, i), true)
	}
	if n := modest.flows.Load(); n != 1000 {
		t.Errorf("%d flows of the modest task are left of 1000", n)
	}
}

// TestMidStreamSegmentIsNoConnection: only an answer of the backend makes a flow one that stays for a day.
func TestMidStreamSegmentIsNoConnection(t *testing.T) {
	ft := newFlowTable()
	v := &vip{VIP: &VIP{Backends: testBackends(3)}, serving: testBackends(3)}
	w, _ := ft.open(&Link{}, v, testKey(1, 1), false)
	if got := w.idle(); got != idleNew {
		t.Errorf("a flow found in mid-stream lives for %d s, want %d", got, idleNew)
	}
}

func TestFlowsAge(t *testing.T) {
	for _, tc := range []struct {
		name  string
		proto uint16
		state uint32
		idle  int64
	}{
		{"new", protoTCP, 0, idleNew},
		{"established", protoTCP, flowEstablished, idleEstablished},
		{"one FIN", protoTCP, flowEstablished | flowClientFIN, idleHalfClosed},
		{"both FINs", protoTCP, flowEstablished | flowClientFIN | flowServerFIN, idleClosed},
		{"reset", protoTCP, flowEstablished | flowRST, idleClosed},
		{"backend gone", protoTCP, flowEstablished | flowDead, idleDead},
		{"udp", protoUDP, flowEstablished, idleUDP},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ft := newFlowTable()
			v := &vip{VIP: &VIP{}, serving: testBackends(1)}
			k := testKey(1, 1)
			k.proto = tc.proto
			w, _ := ft.open(&Link{}, v, k, true)
			w.state.Store(tc.state)
			for now := range tc.idle + 1 {
				if tc.idle < 10000 || now > tc.idle-32 {
					ft.age(now)
				}
			}
			if ft.count.Load() != 1 {
				t.Fatal("forgotten too early")
			}
			for now := tc.idle + 1; now < tc.idle+18; now++ {
				ft.age(now)
			}
			if ft.count.Load() != 0 {
				t.Error("never forgotten")
			}
			for i := range ft.shards {
				if len(ft.shards[i].flows) != 0 {
					t.Error("a key was left behind")
				}
			}
		})
	}
}

func TestFlowTrack(t *testing.T) {
	type step struct {
		client bool
		flags  uint8
	}
	for _, tc := range []struct {
		name   string
		steps  []step
		closed bool
		state  uint32
	}{
		{"handshake", []step{{true, tcpSYN}, {false, tcpSYN | tcpACK}, {true, tcpACK}}, false, flowEstablished},
		{"client closes", []step{{false, tcpACK}, {true, tcpFIN | tcpACK}}, false, flowEstablished | flowClientFIN},
		{"both close", []step{{false, tcpFIN | tcpACK}, {true, tcpFIN | tcpACK}, {false, tcpACK}}, true, flowEstablished | flowClientFIN | flowServerFIN},
		{"reset", []step{{false, tcpACK}, {true, tcpRST}}, true, flowEstablished | flowRST},
		{"reset that nobody believed", []step{{false, tcpACK}, {true, tcpRST}, {false, tcpACK}}, false, flowEstablished},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newFlow(nil, testKey(1, 1), addr("10.0.16.10"))
			for _, s := range tc.steps {
				ip := segment("10.0.17.1:1", "10.0.16.2:80", 1, 1, s.flags, nil)
				_, h, _ := parse(ip)
				w.track(1, ip, &h, s.client)
			}
			if w.closed() != tc.closed || w.state.Load() != tc.state {
				t.Errorf("closed %v state %b, want %v %b", w.closed(), w.state.Load(), tc.closed, tc.state)
			}
		})
	}
}
