package api

import (
	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

// mode is a service's mode by the name that Docker's mode filter has for it.
type mode string

const (
	modeReplicated    mode = "replicated"
	modeGlobal        mode = "global"
	modeReplicatedJob mode = "replicated-job"
	modeGlobalJob     mode = "global-job"
)

// maxTasks bounds what one service may ask for: a slip of the finger must not cost the managers' memory.
const maxTasks = 1 << 20

func modeOf(m swarm.ServiceMode) mode {
	switch {
	case m.Global != nil:
		return modeGlobal
	case m.ReplicatedJob != nil:
		return modeReplicatedJob
	case m.GlobalJob != nil:
		return modeGlobalJob
	}
	return modeReplicated
}

// job tells whether the tasks of a mode are to end by themselves.
func job(m swarm.ServiceMode) bool { return m.ReplicatedJob != nil || m.GlobalJob != nil }

// perNode tells whether a mode has a task on each node.
func perNode(m swarm.ServiceMode) bool { return m.Global != nil || m.GlobalJob != nil }

// modeDefaults refuses more than one mode and fills what one leaves out, as Docker does.
func modeDefaults(m swarm.ServiceMode) (swarm.ServiceMode, error) {
	modes := 0
	for _, set := range []bool{m.Replicated != nil, m.Global != nil, m.ReplicatedJob != nil, m.GlobalJob != nil} {
		if set {
			modes++
		}
	}
	if modes > 1 {
		return m, invalid("must specify only one service mode")
	}
	one := uint64(1)
	switch modeOf(m) {
	case modeReplicated:
		if m.Replicated == nil || m.Replicated.Replicas == nil {
			m.Replicated = &swarm.ReplicatedService{Replicas: &one}
		}
	case modeReplicatedJob:
		j := *m.ReplicatedJob
		if j.MaxConcurrent == nil {
			j.MaxConcurrent = &one
		}
		if j.TotalCompletions == nil {
			j.TotalCompletions = j.MaxConcurrent
		}
		m.ReplicatedJob = &j
	}
	return m, nil
}

// validateMode judges the numbers of a mode with its defaults.
func validateMode(m swarm.ServiceMode) error {
	if r := m.Replicated; r != nil {
		return validateCount(*r.Replicas, "Number of replicas must be non-negative", "Number of replicas")
	}
	j := m.ReplicatedJob
	if j == nil {
		return nil
	}
	if err := validateCount(*j.MaxConcurrent, "Maximum concurrent jobs must not be negative", "Maximum concurrent jobs"); err != nil {
		return err
	}
	if err := validateCount(*j.TotalCompletions, "Total completed jobs must not be negative", "Total completed jobs"); err != nil {
		return err
	}
	if *j.MaxConcurrent == 0 && *j.TotalCompletions > 0 {
		return invalid("Maximum concurrent jobs is 0, so that none of the %d would ever run: set --max-concurrent", *j.TotalCompletions)
	}
	return nil
}

// validateCount refuses a negative number that was cast (negative is Swarm's text for it) and one out of all reason.
func validateCount(n uint64, negative, what string) error {
	switch {
	case int64(n) < 0:
		return invalid("%s", negative)
	case n > maxTasks:
		return invalid("%s must be at most %d", what, maxTasks)
	}
	return nil
}

// serviceStatus counts what `service ls` shows. Only the current iteration of a job counts.
func serviceStatus(v state.View, s *state.Service) *swarm.ServiceStatus {
	st := &swarm.ServiceStatus{}
	wanted := map[string]bool{} // nodes that should have a running task of a global service
	for _, t := range v.TasksByService(s.ID) {
		switch observed := t.Status.State; {
		case s.JobStatus != nil && t.Iteration != s.JobStatus.JobIteration.Index:
			continue
		case observed == swarm.TaskStateComplete:
			st.CompletedTasks++
			continue
		case observed == swarm.TaskStateRunning && state.Rank(t.DesiredState) <= state.Rank(swarm.TaskStateComplete):
			st.RunningTasks++
		}
		if state.Rank(t.DesiredState) <= state.Rank(swarm.TaskStateComplete) {
			wanted[t.NodeID] = true
		}
	}
	switch m := s.Spec.Mode; modeOf(m) {
	case modeReplicated:
		st.DesiredTasks = *m.Replicated.Replicas
	case modeReplicatedJob:
		st.DesiredTasks = *m.ReplicatedJob.MaxConcurrent
	default:
		st.DesiredTasks = uint64(len(wanted))
	}
	return st
}
