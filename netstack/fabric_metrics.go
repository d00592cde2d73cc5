package netstack

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// dropReason says why a packet went nowhere.
type dropReason int

const (
	dropMalformed   dropReason = iota // not a packet that can be understood
	dropSource                        // a source that is not the sender's
	dropNoNetwork                     // the link's network is not in the tables
	dropIsolation                     // a destination in another network
	dropNoRoute                       // an address of the network that nobody has
	dropNotRoutable                   // multicast, link-local, loopback
	dropInternal                      // the outside, from an internal network
	dropMeshFull                      // the queue to the peers is full
	dropTooBig                        // larger than the mesh's MTU
	dropNoBuffer                      // the bound on buffers is reached
	dropWrite                         // the link's device refused it
	dropFlows                         // the flow table is full
	dropNoFlow                        // a fragment, or an answer, of no known flow
	dropReasons
)

var dropNames = [dropReasons]string{
	"malformed", "source", "no_network", "isolation", "no_route", "not_routable", "internal",
	"mesh_full", "too_big", "no_buffer", "write", "flows_full", "no_flow",
}

// fabricMetrics counts packets. The hot path touches atomics only.
type fabricMetrics struct {
	drops                                  [dropReasons]atomic.Uint64
	fromLinks, toLinks, fromHost, toHost   atomic.Uint64 // bytes
	fromMesh, toMesh                       atomic.Uint64 // bytes
	fromMeshPackets, toMeshPackets, resets atomic.Uint64
}

func newFabricMetrics(f *fabric) *fabricMetrics {
	m := &fabricMetrics{}
	r := f.cfg.Registry
	if r == nil {
		return m
	}
	for i, name := range dropNames {
		register(r, "meshswarm_netstack_dropped_packets", "Packets dropped by the fabric.", prometheus.Labels{"reason": name}, &m.drops[i])
	}
	for port, c := range map[string]*atomic.Uint64{"link": &m.fromLinks, "stack": &m.fromHost, "mesh": &m.fromMesh} {
		register(r, "meshswarm_netstack_received_bytes", "IP bytes that came from a port of the fabric.", prometheus.Labels{"port": port}, c)
	}
	for port, c := range map[string]*atomic.Uint64{"link": &m.toLinks, "stack": &m.toHost, "mesh": &m.toMesh} {
		register(r, "meshswarm_netstack_sent_bytes", "IP bytes that went to a port of the fabric.", prometheus.Labels{"port": port}, c)
	}
	register(r, "meshswarm_netstack_reset_flows", "Flows that ended because their backend was gone.", nil, &m.resets)
	r.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "meshswarm_netstack_flows_count", Help: "Flows to VIPs."},
			func() float64 { return float64(f.flows.count.Load()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "meshswarm_netstack_links_count", Help: "Addresses of local tasks."},
			func() float64 { return float64(len(*f.local.Load())) }),
	)
	return m
}

func register(r prometheus.Registerer, name, help string, labels prometheus.Labels, c *atomic.Uint64) {
	r.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels},
		func() float64 { return float64(c.Load()) }))
}
