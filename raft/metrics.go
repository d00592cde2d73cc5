package raft

import (
	"fmt"
	"time"

	hraft "github.com/hashicorp/raft"
	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	proposals *prometheus.CounterVec
	duration  prometheus.Histogram
	all       []prometheus.Collector
}

func newMetrics(r *Raft) *metrics {
	m := &metrics{
		proposals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "meshswarm_raft_proposals_total", Help: "Batches proposed by this manager, by result.",
		}, []string{"result"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "meshswarm_raft_proposal_duration_seconds", Help: "From Propose to the applied batch.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14),
		}),
	}
	m.all = []prometheus.Collector{
		m.proposals, m.duration,
		gauge(r, "leader_bool", "1 while this manager is the leader.", func(n *hraft.Raft) float64 {
			if n.State() == hraft.Leader {
				return 1
			}
			return 0
		}),
		gauge(r, "term_count", "The current term.", func(n *hraft.Raft) float64 { return float64(n.CurrentTerm()) }),
		gauge(r, "last_log_index", "Index of the last entry in this manager's log.", func(n *hraft.Raft) float64 { return float64(n.LastIndex()) }),
		gauge(r, "commit_index", "Index of the last entry known to be committed.", func(n *hraft.Raft) float64 { return float64(n.CommitIndex()) }),
		gauge(r, "members_count", "Managers in the configuration.", func(*hraft.Raft) float64 { return float64(len(r.Members())) }),
	}
	return m
}

func gauge(r *Raft, name, help string, f func(*hraft.Raft) float64) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "meshswarm_raft_" + name, Help: help}, func() float64 {
		if !r.isReady() {
			return 0
		}
		return f(r.node)
	})
}

func (m *metrics) register(reg prometheus.Registerer) error {
	if reg == nil {
		return nil
	}
	for i, c := range m.all {
		if err := reg.Register(c); err != nil {
			for _, done := range m.all[:i] {
				reg.Unregister(done)
			}
			return fmt.Errorf("register: %w", err)
		}
	}
	return nil
}

func (m *metrics) unregister(reg prometheus.Registerer) {
	if reg == nil {
		return
	}
	for _, c := range m.all {
		reg.Unregister(c)
	}
}

func (m *metrics) proposed(began time.Time, err error) {
	m.proposals.WithLabelValues(resultOf(err)).Inc()
	if err == nil {
		m.duration.Observe(time.Since(began).Seconds())
	}
}
