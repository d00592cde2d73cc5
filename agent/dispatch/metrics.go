package dispatch

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	deltas   prometheus.Counter
	statuses prometheus.Counter
	dropped  *prometheus.CounterVec
	down     prometheus.Counter
	store    prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer, sessions func() int) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "meshswarm_dispatch_" + name, Help: help})
	}
	m := &metrics{
		deltas:   counter("deltas_total", "Assignment messages sent to nodes."),
		statuses: counter("statuses_total", "Task statuses written to the store."),
		down:     counter("nodes_down_total", "Nodes marked down for their silence."),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "meshswarm_dispatch_statuses_dropped_total", Help: "Task statuses not written, by reason.",
		}, []string{"reason"}),
		store: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "meshswarm_dispatch_store_seconds", Help: "Time to write one batch of statuses.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 7),
		}),
	}
	if reg == nil {
		return m, nil
	}
	gauge := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "meshswarm_dispatch_sessions_count", Help: "Sessions of nodes with this manager.",
	}, func() float64 { return float64(sessions()) })
	for _, c := range []prometheus.Collector{m.deltas, m.statuses, m.down, m.dropped, m.store, gauge} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics of dispatch: %w", err)
		}
	}
	return m, nil
}
