package netstack

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// hostMetrics counts what ends in this node.
type hostMetrics struct {
	dns       *prometheus.CounterVec // by result
	published *prometheus.CounterVec // by protocol and result
	egress    *prometheus.CounterVec // by protocol and result
	conns     *prometheus.GaugeVec   // by kind
}

func newHostMetrics(reg prometheus.Registerer) *hostMetrics {
	f := promauto.With(reg)
	return &hostMetrics{
		dns: f.NewCounterVec(prometheus.CounterOpts{
			Name: "meshswarm_netstack_dns_queries_total",
			Help: "DNS questions of tasks by result: local, forwarded, withheld, busy, failed.",
		}, []string{"result"}),
		published: f.NewCounterVec(prometheus.CounterOpts{
			Name: "meshswarm_netstack_published_total",
			Help: "Clients of published ports by result: local, remote, none (no backend answered), limit; and peer for clients of other nodes.",
		}, []string{"protocol", "result"}),
		egress: f.NewCounterVec(prometheus.CounterOpts{
			Name: "meshswarm_netstack_egress_total",
			Help: "Connections of tasks to the outside by result: ok, failed, denied, limit.",
		}, []string{"protocol", "result"}),
		conns: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "meshswarm_netstack_proxied_flows_count",
			Help: "Flows that end in this node now, by kind: published, peer, egress.",
		}, []string{"kind"}),
	}
}
