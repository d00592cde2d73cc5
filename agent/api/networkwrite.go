package api

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/swarm"
	timetypes "github.com/docker/docker/api/types/time"

	"github.com/meshswarm/meshswarm/raft/state"
)

const (
	mtuOption = "com.docker.network.driver.mtu"
	minMTU    = 576
	maxMTU    = 65535
	// maxSubnetBits leaves room for a gateway, a VIP and tasks.
	maxSubnetBits = 29
	minSubnetBits = 8
)

func ignoreNotFound(err error) error {
	if cerrdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// createNetwork makes an overlay network. Its subnet, if none was asked for, is given by the leader's allocator.
func (b *Backend) createNetwork(req network.CreateRequest) (network.CreateResponse, error) {
	spec, err := networkSpec(req)
	if err != nil {
		return network.CreateResponse{}, err
	}
	resp := network.CreateResponse{ID: state.NewID()}
	err = b.change(func(_ Cluster, v state.View) ([]state.Op, error) {
		if v.NetworkByName(spec.Name) != nil {
			return nil, nameTaken(spec.Name)
		}
		if cur := ingressNetwork(v); spec.Ingress && cur != nil {
			return nil, conflict("ingress network (%s) is already present", cur.ID)
		}
		warning, err := checkOverlap(v, spec)
		if err != nil {
			return nil, err
		}
		resp.Warning = warning
		return []state.Op{{Action: state.Create, Object: &state.Network{ID: resp.ID, Spec: spec}}}, nil
	})
	return resp, err
}

// networkSpec validates a request by itself.
func networkSpec(req network.CreateRequest) (swarm.NetworkSpec, error) {
	var none swarm.NetworkSpec
	if predefinedNetwork(req.Name) {
		return none, forbidden("%s is a pre-defined network and cannot be created", req.Name)
	}
	if err := validateName(req.Name); err != nil {
		return none, err
	}
	if err := unsupportedNetwork(req); err != nil {
		return none, err
	}
	if _, ok := req.Labels["com.docker.swarm.internal"]; ok {
		return none, forbidden("label com.docker.swarm.internal is for predefined internal networks and cannot be applied by users")
	}
	if req.Ingress && req.Attachable {
		return none, invalid("ingress network cannot be attachable")
	}
	if v, ok := req.Options[mtuOption]; ok {
		if mtu, err := strconv.Atoi(v); err != nil || mtu < minMTU || mtu > maxMTU {
			return none, invalid("invalid %s %q: must be between %d and %d", mtuOption, v, minMTU, maxMTU)
		}
	}
	spec := swarm.NetworkSpec{
		Annotations:         swarm.Annotations{Name: req.Name, Labels: labels(req.Labels)},
		DriverConfiguration: &swarm.Driver{Name: overlay, Options: req.Options},
		IPv6Enabled:         req.EnableIPv6 != nil && *req.EnableIPv6,
		Internal:            req.Internal, Attachable: req.Attachable, Ingress: req.Ingress,
		Scope: scopeSwarm,
	}
	var err error
	spec.IPAMOptions, err = ipamOptions(req.IPAM, spec.IPv6Enabled)
	return spec, err
}

func unsupportedNetwork(req network.CreateRequest) error {
	switch {
	case req.Driver != overlay && req.Driver != "":
		return notSupported("a swarm network with driver %q is not supported: use overlay", req.Driver)
	case req.ConfigOnly || req.ConfigFrom != nil && req.ConfigFrom.Network != "":
		return notSupported("a swarm network by configuration (--config-only, --config-from) is not supported yet")
	case req.EnableIPv4 != nil && !*req.EnableIPv4:
		return notSupported("a swarm network without IPv4 is not supported yet")
	}
	return nil
}

// ipamOptions validates addresses: at most one subnet per family, gateway and range inside it.
func ipamOptions(in *network.IPAM, ipv6 bool) (*swarm.IPAMOptions, error) {
	has6 := false
	var out *swarm.IPAMOptions
	if in != nil {
		if in.Driver != "" && in.Driver != ipamDriver {
			return nil, invalid("invalid IPAM specified: the driver %q is unknown, use %q", in.Driver, ipamDriver)
		}
		if len(in.Config) > 0 || len(in.Options) > 0 {
			out = &swarm.IPAMOptions{Driver: swarm.Driver{Name: ipamDriver, Options: in.Options}}
		}
		families := map[bool]bool{}
		for _, c := range in.Config {
			cfg, is6, err := ipamConfig(c)
			if err != nil {
				return nil, err
			}
			if families[is6] {
				return nil, notSupported("more than one subnet per address family in one network is not supported")
			}
			families[is6] = true
			has6 = has6 || is6
			out.Configs = append(out.Configs, cfg)
		}
	}
	switch {
	case has6 && !ipv6:
		return nil, invalid("an IPv6 subnet needs --ipv6")
	case ipv6 && !has6:
		return nil, notSupported("choosing an IPv6 subnet by itself is not supported yet: name one with --subnet, for instance from fd00::/8")
	}
	return out, nil
}

func ipamConfig(c network.IPAMConfig) (cfg swarm.IPAMConfig, is6 bool, err error) {
	subnet, err := netip.ParsePrefix(c.Subnet)
	if err != nil {
		return cfg, false, invalid("ipam configuration: invalid subnet %s", c.Subnet)
	}
	is6 = subnet.Addr().Is6()
	subnet = subnet.Masked()
	switch {
	case !is6 && subnet.Bits() > maxSubnetBits:
		return cfg, is6, invalid("ipam configuration: subnet %s is too small: use /%d or larger", subnet, maxSubnetBits)
	case subnet.Bits() < minSubnetBits || subnet.Addr().Is4In6() || subnet.Addr().IsLoopback() || subnet.Addr().IsMulticast() || subnet.Addr().IsLinkLocalUnicast():
		return cfg, is6, invalid("ipam configuration: subnet %s cannot be used for a network", subnet)
	case len(c.AuxAddress) > 0:
		return cfg, is6, notSupported("reserving single addresses (--aux-address) is not supported yet")
	}
	cfg = swarm.IPAMConfig{Subnet: subnet.String(), Range: c.IPRange, Gateway: c.Gateway}
	if c.IPRange != "" {
		r, err := netip.ParsePrefix(c.IPRange)
		if err != nil {
			return cfg, is6, invalid("ipam configuration: invalid range %s", c.IPRange)
		}
		if r.Bits() < subnet.Bits() || !subnet.Contains(r.Addr()) {
			return cfg, is6, invalid("ipam configuration: subnet %s does not contain range %s", c.Subnet, c.IPRange)
		}
	}
	if c.Gateway != "" {
		g, err := netip.ParseAddr(c.Gateway)
		if err != nil {
			return cfg, is6, invalid("ipam configuration: invalid gateway %s", c.Gateway)
		}
		if !subnet.Contains(g) || g == subnet.Addr() {
			return cfg, is6, invalid("ipam configuration: subnet %s does not contain gateway %s", c.Subnet, c.Gateway)
		}
	}
	return cfg, is6, nil
}

// checkOverlap refuses subnets that another network or the mesh has; what a node routes itself is a warning.
func checkOverlap(v state.View, spec swarm.NetworkSpec) (warning string, err error) {
	for _, want := range subnetsOf(spec.IPAMOptions) {
		for _, n := range v.Networks() {
			for _, have := range append(subnetsOf(n.IPAM), subnetsOf(n.Spec.IPAMOptions)...) {
				if want.Overlaps(have) {
					return "", forbidden("invalid pool request: Pool overlaps with other one on this address space: %s overlaps with %s of network %s", want, have, n.Spec.Name)
				}
			}
		}
		if c := v.Cluster(); c != nil && c.MeshSubnet.IsValid() && want.Overlaps(c.MeshSubnet) {
			return "", forbidden("invalid pool request: Pool overlaps with other one on this address space: %s overlaps with %s, the nodes' own addresses in the mesh", want, c.MeshSubnet)
		}
		for _, n := range v.Nodes() {
			for _, p := range n.HostPrefixes {
				if want.Overlaps(p) {
					warning = fmt.Sprintf("%s overlaps with %s, which node %s routes itself: tasks in this network cannot reach hosts there", want, p, nodeName(n))
				}
			}
		}
	}
	return warning, nil
}

func subnetsOf(o *swarm.IPAMOptions) []netip.Prefix {
	var out []netip.Prefix
	if o != nil {
		for _, c := range o.Configs {
			if p, err := netip.ParsePrefix(c.Subnet); err == nil {
				out = append(out, p)
			}
		}
	}
	return out
}

// removeNetwork hides a network; the leader deletes it when the last task has let go.
func (b *Backend) removeNetwork(term string) error {
	return b.change(func(_ Cluster, v state.View) ([]state.Op, error) {
		old, err := findNetwork(v, term)
		if err != nil {
			return nil, err
		}
		if old.Spec.Ingress {
			for _, s := range v.Services() {
				if visibleService(s) && needsIngress(s) {
					return nil, invalid("ingress network cannot be removed because service %s depends on it", s.Spec.Name)
				}
			}
		}
		if who := usedBy(v, old); who != "" {
			return nil, invalid("network %s is in use by %s", old.Spec.Name, who)
		}
		return []state.Op{removal(old)}, nil
	})
}

func removal(old *state.Network) state.Op {
	n := old.Clone()
	n.PendingDelete = true
	return update(n, false)
}

func needsIngress(s *state.Service) bool {
	if s.Spec.EndpointSpec == nil {
		return false
	}
	for _, p := range s.Spec.EndpointSpec.Ports {
		if ingress(p) {
			return true
		}
	}
	return false
}

// pruneNetworks removes all networks that nothing uses, but never the ingress network.
func (b *Backend) pruneNetworks(f filters.Args) (network.PruneReport, error) {
	report := network.PruneReport{NetworksDeleted: []string{}}
	if err := f.Validate(keySet("label", "label!", "until")); err != nil {
		return report, err
	}
	until, err := b.untilFilter(f)
	if err != nil {
		return report, err
	}
	err = b.change(func(_ Cluster, v state.View) ([]state.Op, error) {
		report.NetworksDeleted = []string{}
		var ops []state.Op
		for _, n := range v.Networks() {
			if !visibleNetwork(n) || n.Spec.Ingress || usedBy(v, n) != "" || !until.IsZero() && n.CreatedAt.After(until) ||
				f.Contains("label") && !f.MatchKVList("label", n.Spec.Labels) ||
				f.Contains("label!") && f.MatchKVList("label!", n.Spec.Labels) {
				continue
			}
			ops = append(ops, removal(n))
			report.NetworksDeleted = append(report.NetworksDeleted, n.Spec.Name)
		}
		return ops, nil
	})
	return report, err
}

func (b *Backend) untilFilter(f filters.Args) (time.Time, error) {
	values := f.Get("until")
	switch len(values) {
	case 0:
		return time.Time{}, nil
	case 1:
	default:
		return time.Time{}, invalid("more than one until filter specified")
	}
	ts, err := timetypes.GetTimestamp(strings.TrimSpace(values[0]), b.now())
	if err != nil {
		return time.Time{}, invalid("until filter: %w", err)
	}
	sec, nsec, err := timetypes.ParseTimestamps(ts, 0)
	return time.Unix(sec, nsec), errors.Join(err)
}
