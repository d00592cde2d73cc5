package raft_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshswarm/meshswarm/raft"
	"github.com/meshswarm/meshswarm/raft/rafttest"
)

// BenchmarkPropose measures small batches through real logs on disk: by 1 caller (latency) and by 64 (throughput).
func BenchmarkPropose(b *testing.B) {
	for _, managers := range []int{1, 3} {
		for _, callers := range []int{1, 64} {
			b.Run(fmt.Sprintf("managers=%d/callers=%d", managers, callers), func(b *testing.B) {
				c := rafttest.NewCluster(b, managers, func(cfg *raft.Config) {
					cfg.HeartbeatTimeout, cfg.ElectionTimeout = time.Second, time.Second
				})
				r := c.Leader().Raft
				var n atomic.Int64
				b.SetParallelism(callers)
				b.ResetTimer()
				if callers == 1 {
					for i := range b.N {
						if _, err := r.Propose(b.Context(), create(fmt.Sprint(i))); err != nil {
							b.Fatal(err)
						}
					}
					return
				}
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						if _, err := r.Propose(b.Context(), create(fmt.Sprint(n.Add(1)))); err != nil {
							b.Error(err)
							return
						}
					}
				})
			})
		}
	}
}
