package api

import (
	"slices"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

// newPorts are the published ports of a service that its old spec did not have.
func newPorts(s, old *state.Service) []swarm.PortConfig {
	var out []swarm.PortConfig
	if s.Spec.EndpointSpec == nil {
		return nil
	}
	for _, p := range s.Spec.EndpointSpec.Ports {
		if old == nil || old.Spec.EndpointSpec == nil || !slices.Contains(old.Spec.EndpointSpec.Ports, p) {
			out = append(out, p)
		}
	}
	return out
}

// checkIngress refuses published ports while there is no ingress network.
func checkIngress(v state.View, ports []swarm.PortConfig) error {
	if ingressNetwork(v) != nil {
		return nil
	}
	for _, p := range ports {
		if ingress(p) {
			return invalid("service needs ingress network, but no ingress network is present")
		}
	}
	return nil
}

func ingressNetwork(v state.View) *state.Network {
	for _, n := range v.Networks() {
		if n.Spec.Ingress && visibleNetwork(n) {
			return n
		}
	}
	return nil
}

// checkPrivileged refuses ports that a ready node may not open.
func checkPrivileged(v state.View, ports []swarm.PortConfig) error {
	for _, p := range ports {
		if p.PublishedPort == 0 {
			continue
		}
		for _, n := range v.Nodes() {
			if n.Status.State == swarm.NodeStateReady && p.PublishedPort < uint32(n.MinPort) {
				return invalid("port %d needs privileges on node %s: publish %d, or lower net.ipv4.ip_unprivileged_port_start",
					p.PublishedPort, nodeName(n), unprivileged(p.PublishedPort))
			}
		}
	}
	return nil
}

// unprivileged suggests a port: 80 → 8080, 443 → 8443.
func unprivileged(port uint32) uint32 { return 8000 + port%1000 }

// checkPortConflicts refuses ports of other services: a port published on all nodes belongs to one service; host-mode
// ports of two services may meet, on different nodes.
func checkPortConflicts(v state.View, serviceID string, ports []swarm.PortConfig) error {
	want := map[portKey]bool{} // value: ingress
	for _, p := range ports {
		if p.PublishedPort != 0 {
			want[keyOf(p)] = ingress(p)
		}
	}
	if len(want) == 0 {
		return nil
	}
	for _, other := range v.Services() {
		if other.ID == serviceID || !visibleService(other) {
			continue
		}
		ports := other.Endpoint.Ports
		if other.Spec.EndpointSpec != nil {
			ports = append(ports[:len(ports):len(ports)], other.Spec.EndpointSpec.Ports...)
		}
		if err := portConflict(want, ports, other); err != nil {
			return err
		}
	}
	return nil
}

type portKey struct {
	port  uint32
	proto swarm.PortConfigProtocol
}

func keyOf(p swarm.PortConfig) portKey { return portKey{p.PublishedPort, protocol(p)} }

func portConflict(want map[portKey]bool, ports []swarm.PortConfig, holder *state.Service) error {
	for _, p := range ports {
		wantIngress, asked := want[keyOf(p)]
		switch {
		case !asked || p.PublishedPort == 0:
		case ingress(p):
			return invalid("port '%d' is already in use by service '%s' (%s) as an ingress port", p.PublishedPort, holder.Spec.Name, holder.ID)
		case wantIngress:
			return invalid("port '%d' is already in use by service '%s' (%s) as a host-published port", p.PublishedPort, holder.Spec.Name, holder.ID)
		}
	}
	return nil
}
