package api

import (
	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

// rollbackPrevious is the value of the rollback parameter that asks for a service's previous spec.
const rollbackPrevious = "previous"

// UpdateService implements swarm.Backend. With opts.Rollback "previous" the given spec is judged and then not used, as in
// Docker.
func (b *Backend) UpdateService(id string, version uint64, spec swarm.ServiceSpec, opts swarm.ServiceUpdateOptions, _ bool) (*swarm.ServiceUpdateResponse, error) {
	if _, err := b.manager(); err != nil {
		return nil, err
	}
	if err := checkUpdateOptions(opts); err != nil {
		return nil, err
	}
	spec, err := b.accept(spec)
	if err != nil {
		return nil, err
	}
	err = b.change(func(_ Cluster, v state.View) ([]state.Op, error) {
		old, err := findService(v, id)
		if err != nil {
			return nil, err
		}
		if old.Version.Index != version {
			return nil, outOfSequence()
		}
		s := old.Clone()
		if s.Spec, err = nextSpec(spec, old, opts); err != nil {
			return nil, err
		}
		if err := b.checkService(v, s, old); err != nil {
			return nil, err
		}
		return b.supersede(s, old, opts.Rollback == rollbackPrevious), nil
	})
	if err != nil {
		return nil, err
	}
	return &swarm.ServiceUpdateResponse{}, nil
}

func checkUpdateOptions(opts swarm.ServiceUpdateOptions) error {
	switch opts.Rollback {
	case "", "none", rollbackPrevious:
	default:
		return invalid("unrecognized rollback option %s", opts.Rollback)
	}
	switch opts.RegistryAuthFrom {
	case "", swarm.RegistryAuthFromSpec, swarm.RegistryAuthFromPreviousSpec:
	default:
		return invalid("unsupported registryAuthFrom value")
	}
	return unsupportedAuth(opts.EncodedRegistryAuth)
}

// nextSpec is the spec that a service gets by an update with the given one.
func nextSpec(spec swarm.ServiceSpec, old *state.Service, opts swarm.ServiceUpdateOptions) (swarm.ServiceSpec, error) {
	fromPrevious := opts.EncodedRegistryAuth == "" && opts.RegistryAuthFrom == swarm.RegistryAuthFromPreviousSpec
	switch {
	case modeOf(spec.Mode) != modeOf(old.Spec.Mode):
		return spec, notSupported("service mode change is not allowed")
	case spec.Name != old.Spec.Name:
		return spec, notSupported("renaming services is not supported")
	case old.PreviousSpec == nil && (fromPrevious || opts.Rollback == rollbackPrevious):
		return spec, invalid("service %s does not have a previous spec", old.ID)
	case opts.Rollback == rollbackPrevious:
		return *old.PreviousSpec, nil
	}
	return spec, nil
}

// supersede is the batch of an update. Only a change of what tasks follow makes a new revision. A job runs again, whatever
// has changed; a rebalancing that is under way ends where it is.
func (b *Backend) supersede(s, old *state.Service, rollback bool) []state.Op {
	prev, now := old.Spec, b.now()
	s.PreviousSpec, s.UpdateStatus, s.Rebalance = &prev, nil, nil
	switch {
	case s.JobStatus != nil:
		s.JobStatus = &swarm.JobStatus{JobIteration: swarm.Version{Index: old.JobStatus.JobIteration.Index + 1}, LastExecution: now}
	case rollback:
		s.UpdateStatus = &swarm.UpdateStatus{State: swarm.UpdateStateRollbackStarted, StartedAt: &now, Message: "manually requested rollback"}
	}
	ops := []state.Op{{}}
	if !sameJSON(s.Spec.TaskTemplate, old.Spec.TaskTemplate) || !sameJSON(s.Spec.EndpointSpec, old.Spec.EndpointSpec) {
		s.SpecVersion++
		ops = append(ops, state.Op{Action: state.Create, Object: revision(s)})
	}
	ops[0] = update(s, true)
	return ops
}
