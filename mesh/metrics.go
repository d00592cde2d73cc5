package mesh

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// registerMetrics makes metrics that read the mesh whenever somebody asks.
func registerMetrics(m *Mesh, r prometheus.Registerer) {
	if r == nil {
		return
	}
	counter := func(name, help string, c *atomic.Uint64) {
		r.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return float64(c.Load()) }))
	}
	counter("meshswarm_mesh_sent_packets", "Datagrams sent to peers.", &m.guard.sentTotal)
	counter("meshswarm_mesh_unreachable_packets", "Packets dropped because their peer has no session.", &m.guard.dropped)
	r.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "meshswarm_mesh_peers_count", Help: "Peers."}, func() float64 {
			m.mu.Lock()
			defer m.mu.Unlock()
			return float64(len(m.peers))
		}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "meshswarm_mesh_down_peers_count", Help: "Peers without a session."},
			func() float64 { return float64(m.guard.down.Load()) }),
	)
}
