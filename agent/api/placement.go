package api

import (
	"strings"

	"github.com/docker/docker/api/types/swarm"
)

// spreadKeys are what replicas can be spread over, with the label's name behind it.
var spreadKeys = []string{"node.labels.", "engine.labels."}

func validatePlacement(s *swarm.ServiceSpec) error {
	p := s.TaskTemplate.Placement
	if p == nil {
		return nil
	}
	switch {
	case p.MaxReplicas > 0 && perNode(s.Mode):
		return invalid("replicas-max-per-node can only be used with replicated or replicated-job mode")
	case int64(p.MaxReplicas) < 0:
		return invalid("replicas-max-per-node must not be negative")
	}
	for _, pref := range p.Preferences {
		if pref.Spread == nil {
			return invalid("placement preference without a spread: spread is the only kind of preference")
		}
		if !spreadKey(pref.Spread.SpreadDescriptor) {
			return invalid("placement preference spread=%s: replicas are spread over node.labels.NAME or engine.labels.NAME", pref.Spread.SpreadDescriptor)
		}
	}
	return nil
}

func spreadKey(descriptor string) bool {
	for _, key := range spreadKeys {
		if len(descriptor) > len(key) && strings.EqualFold(descriptor[:len(key)], key) {
			return true
		}
	}
	return false
}

// placementConstraints refuses what the scheduler cannot read.
func (b *Backend) placementConstraints(s *swarm.ServiceSpec) error {
	p := s.TaskTemplate.Placement
	switch {
	case p == nil || len(p.Constraints) == 0:
		return nil
	case b.checkConstraints == nil:
		return notSupported("service %s: placement by constraints (--constraint)%s", s.Name, notYet)
	}
	if err := b.checkConstraints(p.Constraints); err != nil {
		return invalid("%w", err)
	}
	return nil
}
