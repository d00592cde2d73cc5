package rpc

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

type serverMetrics struct {
	refused *prometheus.CounterVec
}

func newServerMetrics(reg prometheus.Registerer, conns func() int) (*serverMetrics, error) {
	m := &serverMetrics{refused: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "meshswarm_rpc_refused_total",
		Help: "Connections and requests on the control port that were refused, by reason.",
	}, []string{"reason"})}
	if reg == nil {
		return m, nil
	}
	open := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "meshswarm_rpc_connections_count", Help: "Open connections on the control port.",
	}, func() float64 { return float64(conns()) })
	for _, c := range []prometheus.Collector{m.refused, open} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics of rpc: %w", err)
		}
	}
	return m, nil
}
