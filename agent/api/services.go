package api

import (
	"slices"
	"strings"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

// GetServices implements swarm.Backend.
func (b *Backend) GetServices(opts swarm.ServiceListOptions) ([]swarm.Service, error) {
	_, v, err := b.view()
	if err != nil {
		return nil, err
	}
	f := opts.Filters
	if err := f.Validate(keySet("id", "label", "mode", "name", "runtime")); err != nil {
		return nil, err
	}
	out := []swarm.Service{}
	for _, s := range v.Services() {
		if !visibleService(s) || !matchPrefix(f, "name", s.Spec.Name) || !matchPrefix(f, "id", s.ID) ||
			!matchLabels(f, "label", s.Spec.Labels) || !matchAny(f, "mode", string(modeOf(s.Spec.Mode))) ||
			!matchAny(f, "runtime", string(swarm.RuntimeContainer)) {
			continue
		}
		svc := toService(s)
		if opts.Status {
			svc.ServiceStatus = serviceStatus(v, s)
		}
		out = append(out, svc)
	}
	return out, nil
}

// GetService implements swarm.Backend.
func (b *Backend) GetService(id string, insertDefaults bool) (swarm.Service, error) {
	_, v, err := b.view()
	if err != nil {
		return swarm.Service{}, err
	}
	s, err := findService(v, id)
	if err != nil {
		return swarm.Service{}, err
	}
	out := toService(s)
	if insertDefaults {
		out.Spec = withDefaults(out.Spec)
	}
	return out, nil
}

// CreateService implements swarm.Backend.
func (b *Backend) CreateService(spec swarm.ServiceSpec, encodedAuth string, _ bool) (*swarm.ServiceCreateResponse, error) {
	if _, err := b.manager(); err != nil {
		return nil, err
	}
	if err := unsupportedAuth(encodedAuth); err != nil {
		return nil, err
	}
	spec, err := b.accept(spec)
	if err != nil {
		return nil, err
	}
	id := state.NewID()
	err = b.change(func(_ Cluster, v state.View) ([]state.Op, error) {
		s := &state.Service{ID: id, Spec: spec, SpecVersion: 1}
		if job(spec.Mode) {
			s.JobStatus = &swarm.JobStatus{LastExecution: b.now()}
		}
		if err := b.checkService(v, s, nil); err != nil {
			return nil, err
		}
		return []state.Op{
			{Action: state.Create, Object: s},
			{Action: state.Create, Object: revision(s)},
		}, nil
	})
	if err != nil {
		return nil, err
	}
	return &swarm.ServiceCreateResponse{ID: id}, nil
}

func revision(s *state.Service) *state.Revision {
	return &state.Revision{ServiceID: s.ID, SpecVersion: s.SpecVersion, Spec: s.Spec.TaskTemplate, Endpoint: s.Spec.EndpointSpec}
}

// accept fills a spec's defaults and judges it by itself.
func (b *Backend) accept(spec swarm.ServiceSpec) (swarm.ServiceSpec, error) {
	spec, err := normalize(spec)
	if err != nil {
		return spec, err
	}
	return spec, b.placementConstraints(&spec)
}

// checkService judges a new or changed service against the rest of the swarm, and resolves its networks to IDs. Ports
// that the service had already (old, may be nil) are not judged again.
func (b *Backend) checkService(v state.View, s, old *state.Service) error {
	if other := v.ServiceByName(s.Spec.Name); other != nil && other.ID != s.ID {
		return conflict("service %s: %s: it is the name of service %s", s.Spec.Name, textNameConflict, other.ID)
	}
	networks, err := b.resolveNetworks(v, s.Spec.TaskTemplate.Networks)
	if err != nil {
		return err
	}
	s.Spec.TaskTemplate.Networks = networks
	ports := newPorts(s, old)
	if err := checkIngress(v, ports); err != nil {
		return err
	}
	if err := checkPrivileged(v, ports); err != nil {
		return err
	}
	return checkPortConflicts(v, s.ID, ports)
}

// RemoveService implements swarm.Backend. The service disappears at once; its tasks stop, and then the leader deletes it.
func (b *Backend) RemoveService(id string) error {
	return b.change(func(_ Cluster, v state.View) ([]state.Op, error) {
		old, err := findService(v, id)
		if err != nil {
			return nil, err
		}
		s := old.Clone()
		s.PendingDelete = true
		return []state.Op{update(s, false)}, nil
	})
}

// resolveNetworks puts network IDs where a spec has names.
func (b *Backend) resolveNetworks(v state.View, in []swarm.NetworkAttachmentConfig) ([]swarm.NetworkAttachmentConfig, error) {
	var out []swarm.NetworkAttachmentConfig
	for _, a := range in {
		n, err := findNetwork(v, a.Target)
		if err != nil {
			return nil, b.whyNoNetwork(a.Target, err)
		}
		if n.Spec.Ingress {
			return nil, invalid("Service cannot be explicitly attached to the ingress network %q", n.Spec.Name)
		}
		if slices.ContainsFunc(out, func(o swarm.NetworkAttachmentConfig) bool { return o.Target == n.ID }) {
			return nil, invalid("network %s is listed twice", n.Spec.Name)
		}
		a.Target = n.ID
		out = append(out, a)
	}
	return out, nil
}

// whyNoNetwork tells a network of the engine from one that does not exist.
func (b *Backend) whyNoNetwork(name string, err error) error {
	if predefinedNetwork(name) {
		return notSupported("attaching a service to the predefined network %q of each node is not supported yet: create an overlay network (network create -d overlay NAME) and use that", name)
	}
	if b.engine.hasNetwork(name) {
		return forbidden("The network %s cannot be used with services. Only networks scoped to the swarm can be used, such as those created with the overlay driver.", name)
	}
	if strings.Contains(err.Error(), "ambiguous") {
		return err
	}
	return plain(err)
}
