package api

import (
	"strings"
	"time"

	"github.com/docker/docker/api/types/swarm"
)

// What only meshswarm's orchestration knows is told by a service's labels.
const (
	labelPrefix = "meshswarm."
	// labelUpdateTimeout is how long a new task of an update may take to run.
	labelUpdateTimeout = "meshswarm.update.timeout"
	// labelRebalance: auto or off (default).
	labelRebalance = "meshswarm.rebalance"

	minUpdateTimeout = time.Second
)

// validateUpdates judges how a service is to be updated and rolled back.
func validateUpdates(s *swarm.ServiceSpec) error {
	if job(s.Mode) {
		switch {
		case s.UpdateConfig != nil:
			return invalid("Jobs may not have an update config")
		case s.RollbackConfig != nil:
			return invalid("Jobs may not have a rollback config")
		}
		return nil
	}
	if r := s.RollbackConfig; r != nil && r.FailureAction == swarm.UpdateFailureActionRollback {
		return invalid("RollbackConfig: a rollback that fails cannot be rolled back: use failure action %s or %s",
			swarm.UpdateFailureActionPause, swarm.UpdateFailureActionContinue)
	}
	if err := validateUpdate(s, s.UpdateConfig, "update"); err != nil {
		return err
	}
	return validateUpdate(s, s.RollbackConfig, "rollback")
}

func validateUpdate(s *swarm.ServiceSpec, u *swarm.UpdateConfig, what string) error {
	if u == nil {
		return nil
	}
	switch u.FailureAction {
	case "", swarm.UpdateFailureActionPause, swarm.UpdateFailureActionContinue, swarm.UpdateFailureActionRollback:
	default:
		return invalid("unrecognized update failure action %s", u.FailureAction)
	}
	switch u.Order {
	case "", swarm.UpdateOrderStopFirst, swarm.UpdateOrderStartFirst:
	default:
		return invalid("unrecognized update order %s", u.Order)
	}
	switch {
	case int64(u.Parallelism) < 0:
		return invalid("TaskSpec: %s-parallelism cannot be negative", what)
	case u.Delay < 0:
		return invalid("TaskSpec: %s-delay cannot be negative", what)
	case u.Monitor < 0:
		return invalid("TaskSpec: %s-monitor cannot be negative", what)
	case u.MaxFailureRatio < 0 || u.MaxFailureRatio > 1:
		return invalid("TaskSpec: %s-maxfailureratio cannot be less than 0 or bigger than 1", what)
	case u.Order == swarm.UpdateOrderStartFirst && perNode(s.Mode):
		return checkStartFirst(s.EndpointSpec, what)
	}
	return nil
}

// checkStartFirst refuses start-first for a service with a task on each node that holds a port there: the new task would
// wait for the port that the old one keeps until the new one runs.
func checkStartFirst(e *swarm.EndpointSpec, what string) error {
	if e == nil {
		return nil
	}
	for _, p := range e.Ports {
		if !ingress(p) {
			return invalid("%s order start-first cannot work for a global service that publishes port %d in host mode: a node's old task holds the port until the new one runs; use stop-first",
				what, p.PublishedPort)
		}
	}
	return nil
}

// validateOwnLabels judges the labels that mean something to meshswarm. Others with its prefix are refused: a misspelt one
// would be silently of no effect.
func validateOwnLabels(s *swarm.ServiceSpec) error {
	for k, value := range s.Labels {
		switch {
		case !strings.HasPrefix(k, labelPrefix):
		case k == labelUpdateTimeout:
			if d, err := time.ParseDuration(value); err != nil || d < minUpdateTimeout {
				return invalid("invalid label %s=%q: must be a duration of at least %s, such as 10m", k, value, minUpdateTimeout)
			}
		case k == labelRebalance:
			if value != "auto" && value != "off" {
				return invalid(`invalid label %s=%q: must be "auto" or "off"`, k, value)
			}
			if value == "auto" && s.Mode.Replicated == nil {
				return invalid("invalid label %s=%q: only replicated services can be rebalanced", k, value)
			}
		default:
			return invalid("unknown label %s: of those that start with %q there are %s and %s", k, labelPrefix, labelRebalance, labelUpdateTimeout)
		}
	}
	return nil
}
