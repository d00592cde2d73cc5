package sched

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/docker/docker/api/types/swarm"
)

// Ports that are published without a number get one from this range (Swarm's).
const (
	firstDynamic = 30000
	lastDynamic  = 32767
)

// service brings a service's endpoint in line with its spec: keeps what it has, takes what it lacks, gives up the rest.
func (a *allocator) service(s *serviceInfo) {
	b := a.b
	ports, err := a.ports(s)
	var vips []swarm.EndpointVirtualIP
	if err == nil {
		vips, err = a.vips(s)
	}
	if err != nil {
		b.blocked[s.id] = struct{}{}
		if s.blocked != err.Error() {
			s.blocked = err.Error()
			a.retry(s)
		}
		return
	}
	if s.blocked != "" {
		s.blocked = ""
		delete(b.blocked, s.id)
		a.retry(s)
	}
	e := swarm.Endpoint{Spec: swarm.EndpointSpec{Mode: swarm.ResolutionModeVIP}, Ports: ports, VirtualIPs: vips}
	if spec := s.service.Spec.EndpointSpec; spec != nil {
		e.Spec.Ports = spec.Ports
		if spec.Mode != "" {
			e.Spec.Mode = spec.Mode
		}
	}
	is := s.service.Endpoint
	if is.Spec.Mode == e.Spec.Mode && slices.Equal(is.Spec.Ports, e.Spec.Ports) && slices.Equal(is.Ports, e.Ports) &&
		slices.Equal(is.VirtualIPs, e.VirtualIPs) {
		return
	}
	c := *s.service
	c.Endpoint = e
	b.together()
	b.put(&c)
	for _, v := range vips {
		for _, p := range b.networks[v.NetworkID].pools {
			if addr := addrOf(v.Addr); p.holds(addr) && !slices.Contains(is.VirtualIPs, v) {
				p.cursor = addr
			}
		}
	}
}

// retry has the service's waiting tasks looked at again.
func (a *allocator) retry(s *serviceInfo) {
	for _, p := range s.places {
		for _, t := range p.tasks {
			if _, waits := a.b.unallocated[t.ID]; waits {
				a.b.freshNew[t.ID] = struct{}{}
			}
		}
	}
}

// vips are the virtual IPs that the service shall have.
func (a *allocator) vips(s *serviceInfo) ([]swarm.EndpointVirtualIP, error) {
	spec := s.service.Spec
	if spec.EndpointSpec != nil && spec.EndpointSpec.Mode == swarm.ResolutionModeDNSRR {
		return nil, nil
	}
	var ids []string
	if published, _ := publishes(spec.EndpointSpec); published {
		in := a.b.ingress
		if in == nil {
			return nil, fmt.Errorf("there is no ingress network for the published ports: create one with --ingress")
		}
		ids = append(ids, in.network.ID)
	}
	for _, c := range attachments(spec.TaskTemplate) {
		if !slices.Contains(ids, c.Target) {
			ids = append(ids, c.Target)
		}
	}
	var out []swarm.EndpointVirtualIP
	for _, id := range ids {
		n, err := a.network(id)
		if err != nil {
			return nil, err
		}
		for _, p := range n.pools {
			addr, ok := a.vipIn(s, id, p)
			if !ok {
				if addr, err = n.nextAddr(p); err != nil {
					return nil, err
				}
			}
			out = append(out, swarm.EndpointVirtualIP{NetworkID: id, Addr: netip.PrefixFrom(addr, p.subnet.Bits()).String()})
		}
	}
	return out, nil
}

// vipIn is the virtual IP that the service already has.
func (a *allocator) vipIn(s *serviceInfo, network string, p *pool) (netip.Addr, bool) {
	for _, v := range s.service.Endpoint.VirtualIPs {
		if addr := addrOf(v.Addr); v.NetworkID == network && p.used[addr] == s.id {
			return addr, true
		}
	}
	return netip.Addr{}, false
}

// ports are the published ports with their numbers. A number that was given stays while its port does.
func (a *allocator) ports(s *serviceInfo) ([]swarm.PortConfig, error) {
	if s.service.Spec.EndpointSpec == nil {
		return nil, nil
	}
	want := slices.Clone(s.service.Spec.EndpointSpec.Ports)
	had := slices.Clone(s.service.Endpoint.Ports)
	mine := map[portKey]bool{}
	for i := range want {
		p := &want[i]
		p.Protocol = protocol(*p)
		if p.PublishMode == "" {
			p.PublishMode = swarm.PortConfigPublishModeIngress
		}
		if k, ok := ingressPort(*p); ok {
			if owner := a.b.ports[k]; owner != "" && owner != s.id {
				return nil, fmt.Errorf("port '%d' is already in use by service '%s' as an ingress port: publish another, or remove that service",
					p.PublishedPort, a.b.serviceName(owner))
			}
			mine[k] = true
		}
	}
	for i := range want {
		p := &want[i]
		if p.PublishedPort != 0 || !ingressMode(*p) {
			continue
		}
		if j := slices.IndexFunc(had, func(h swarm.PortConfig) bool { return sticks(h, *p) && !mine[portKey{h.Protocol, h.PublishedPort}] }); j >= 0 {
			p.PublishedPort = had[j].PublishedPort
		} else if p.PublishedPort = a.dynamicPort(p.Protocol, mine); p.PublishedPort == 0 {
			return nil, fmt.Errorf("no %s port from %d to %d is free: choose the published port yourself", p.Protocol, firstDynamic, lastDynamic)
		}
		mine[portKey{p.Protocol, p.PublishedPort}] = true
	}
	return want, nil
}

// sticks tells whether h, that the service has, is the number once given to p.
func sticks(h, p swarm.PortConfig) bool {
	return h.Protocol == p.Protocol && h.TargetPort == p.TargetPort && h.Name == p.Name && ingressMode(h) &&
		h.PublishedPort >= firstDynamic && h.PublishedPort <= lastDynamic
}

func (a *allocator) dynamicPort(proto swarm.PortConfigProtocol, mine map[portKey]bool) uint32 {
	for port := uint32(firstDynamic); port <= lastDynamic; port++ {
		k := portKey{proto, port}
		if a.b.ports[k] == "" && !mine[k] {
			return port
		}
	}
	return 0
}

func (b *board) serviceName(id string) string {
	if s := b.services[id]; s != nil && s.service != nil {
		return s.service.Spec.Name
	}
	return id
}
