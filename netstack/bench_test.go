package netstack

import (
	"io"
	"sync"
	"testing"
	"time"
)

func BenchmarkSplit(b *testing.B) {
	payload := make([]byte, 64000)
	out := make([]byte, maxIP)
	b.SetBytes(int64(len(payload)))
	b.ReportAllocs()
	model := superPacket(false, nil, payload, tcpACK|tcpPSH, 1368)
	defer model.release()
	for b.Loop() {
		p, _ := newPacket(len(model.ip))
		copy(p.ip, model.ip)
		p.hdr = model.hdr
		var s splitter
		if !s.begin(p, DefaultMTU) {
			b.Fatal("refused")
		}
		for s.more() {
			s.next(out)
		}
	}
}

func BenchmarkMerge(b *testing.B) {
	segs := splitAll(superPacket(false, nil, make([]byte, 64000), tcpACK|tcpPSH, 1368))
	b.SetBytes(64000)
	b.ReportAllocs()
	keep := append([]byte(nil), segs[0]...)
	var m merger
	for b.Loop() {
		m.reset()
		copy(segs[0], keep)
		for _, s := range segs {
			m.add(s)
		}
		m.finish()
	}
}

func BenchmarkFlowLookup(b *testing.B) {
	ft := newFlowTable()
	v := &vip{VIP: &VIP{}, serving: testBackends(6)}
	keys := make([]flowKey, 10000)
	l := &Link{}
	for i := range keys {
		keys[i] = testKey(1, i)
		ft.open(l, v, keys[i], true)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if w, _ := ft.lookup(&keys[i%len(keys)]); w == nil {
			b.Fatal("no flow")
		}
		i++
	}
}

func BenchmarkFlowOpen(b *testing.B) {
	ft := newFlowTable()
	v := &vip{VIP: &VIP{}, serving: testBackends(6)}
	l := &Link{}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		w, res := ft.open(l, v, testKey(i>>16, i), true)
		if res != openOK {
			b.Fatal("no flow")
		}
		i++
		if i%1000 == 0 {
			ft.each(ft.remove)
		}
		_ = w
	}
}

// BenchmarkKernelVIP is one TCP stream of a task to a VIP of its own node, kernel to kernel.
func BenchmarkKernelVIP(b *testing.B) {
	for kind, name := range map[Kind]string{TUN: "tun", Packet: "packet"} {
		b.Run(name, func(b *testing.B) {
			n := newFabricNode(b, node1)
			n.set(vipTables(on(3)))
			client, server := n.attachKernel(b, kind, "10.0.16.2"), n.attachKernel(b, kind, "10.0.16.3")
			stream(b, server, "10.0.16.3:80", client, vip4+":80")
		})
	}
}

// stream sends from the client as long as the benchmark runs: an operation is a megabyte that arrived.
func stream(b *testing.B, server *kernelTask, at string, client *kernelTask, to string) {
	l := server.listen(b, at)
	arrived, done := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		buf := make([]byte, 1<<20)
		for {
			if _, err := io.ReadFull(c, buf); err != nil {
				return
			}
			select {
			case arrived <- struct{}{}:
			case <-done:
				return
			}
		}
	})
	c := client.dial(b, to)
	wg.Go(func() {
		buf := make([]byte, 1<<20)
		for {
			if _, err := c.Write(buf); err != nil {
				return
			}
		}
	})
	b.SetBytes(1 << 20)
	for b.Loop() {
		select {
		case <-arrived:
		case <-time.After(10 * time.Second):
			b.Fatal("stalled")
		}
	}
	close(done)
	c.Close()
	wg.Wait()
}
