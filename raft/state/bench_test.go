package state

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/docker/docker/api/types/swarm"
)

// fill makes n running tasks of one service, a thousand per batch.
func fill(b *testing.B, s *Store, n int) {
	b.Helper()
	for i := 0; i < n; {
		var ops []Op
		for ; i < n && len(ops) < 1000; i++ {
			addr := binary.BigEndian.AppendUint32(nil, 0x0a100000+uint32(i))
			a, _ := netip.AddrFromSlice(addr)
			x := &Task{
				ID: NewID(), ServiceID: "service", ServiceName: "web", SpecVersion: 1, Slot: i, NodeID: fmt.Sprint("node", i%1000),
				DesiredState: swarm.TaskStateRunning, Status: swarm.TaskStatus{State: swarm.TaskStateRunning, Message: "started"},
				Networks: []Attachment{{NetworkID: "network", Addresses: []netip.Prefix{netip.PrefixFrom(a, 8)}}},
			}
			ops = append(ops, create(x))
		}
		mustApply(b, s, ops...)
	}
}

// BenchmarkTasks reports what a task costs in the store: the time of its creation, and its memory with all indexes.
func BenchmarkTasks(b *testing.B) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	s := New()
	b.ResetTimer()
	fill(b, s, b.N)
	b.StopTimer()
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(int64(after.HeapAlloc)-int64(before.HeapAlloc))/float64(b.N), "B/task")
	runtime.KeepAlive(s)
}

// BenchmarkStatus reports what one status change of a task costs a manager that applies it, in batches of 200 out of 20,000
// tasks: decode is reading the entry, apply is changing the store.
func BenchmarkStatus(b *testing.B) {
	const n, batch = 20_000, 200
	s := New()
	fill(b, s, n)
	tasks := s.View().Tasks()
	entry := func(at int) []byte {
		var ops []Op
		for i := range batch {
			x := tasks[(at*batch+i*97)%n].Clone()
			x.Status.Message = fmt.Sprint("started ", at)
			ops = append(ops, update(x, s.View().Task(x.ID).Modified))
		}
		data, err := Batch{Time: t0, Ops: ops}.Encode()
		if err != nil {
			b.Fatal(err)
		}
		return data
	}
	var decode, apply time.Duration
	for at := 0; b.Loop(); at++ {
		b.StopTimer()
		data := entry(at)
		b.StartTimer()
		start := time.Now()
		x, err := DecodeBatch(data)
		if err != nil {
			b.Fatal(err)
		}
		read := time.Now()
		mustApply(b, s, x.Ops...)
		decode, apply = decode+read.Sub(start), apply+time.Since(read)
	}
	b.ReportMetric(float64(decode.Nanoseconds())/float64(b.N*batch), "decode-ns/op")
	b.ReportMetric(float64(apply.Nanoseconds())/float64(b.N*batch), "apply-ns/op")
}

// BenchmarkSnapshot reports the time per task of a snapshot of 100,000.
func BenchmarkSnapshot(b *testing.B) {
	s := New()
	const n = 100_000
	fill(b, s, n)
	for b.Loop() {
		if err := s.View().Snapshot(io.Discard); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/task")
}

// BenchmarkEncodeDecode measures one status change of one task.
func BenchmarkEncodeDecode(b *testing.B) {
	x := task("0123456789abcdefghijklmno", "net", "10.0.0.5/24")
	for b.Loop() {
		data, err := Batch{Time: t0, Ops: []Op{update(x, 1)}}.Encode()
		if err != nil {
			b.Fatal(err)
		}
		if _, err := DecodeBatch(data); err != nil {
			b.Fatal(err)
		}
	}
}
