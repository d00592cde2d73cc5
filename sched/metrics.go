package sched

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	pass    prometheus.Histogram
	changes prometheus.Counter
	refused prometheus.Counter
	pending prometheus.Gauge
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		pass: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "meshswarm_sched_pass_duration_seconds",
			Help:    "Time of one pass of the leader's thinking, without the time to commit it.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 4, 10),
		}),
		changes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "meshswarm_sched_changes_total", Help: "Changes of objects that the leader proposed.",
		}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "meshswarm_sched_refused_batches_total", Help: "Batches that the store refused because somebody else was faster.",
		}),
		pending: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "meshswarm_sched_pending_tasks", Help: "Tasks that wait for an address or a node.",
		}),
	}
	if r == nil {
		return m, nil
	}
	var err error
	m.pass = register(r, m.pass, &err)
	m.changes = register(r, m.changes, &err)
	m.refused = register(r, m.refused, &err)
	m.pending = register(r, m.pending, &err)
	return m, err
}

// register gives back the collector of an earlier Leader where there is one: terms come and go in one process.
func register[C prometheus.Collector](r prometheus.Registerer, c C, err *error) C {
	e := r.Register(c)
	var already prometheus.AlreadyRegisteredError
	if errors.As(e, &already) {
		if old, ok := already.ExistingCollector.(C); ok {
			return old
		}
	}
	*err = errors.Join(*err, e)
	return c
}
