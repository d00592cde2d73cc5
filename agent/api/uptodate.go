package api

import (
	"slices"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

// upToDate tells whether a task follows its service's spec, which is what progress displays ask for. Replicas that are to
// move to other nodes do not. Of a job the tasks of its current iteration do.
func (v *taskView) upToDate(s *state.Service, t *state.Task) bool {
	switch {
	case s.JobStatus != nil && t.Iteration != s.JobStatus.JobIteration.Index,
		s.Rebalance != nil && slices.Contains(s.Rebalance.Tasks, t.ID),
		perNode(s.Spec.Mode) && v.left(t):
		return false
	case s.JobStatus != nil || s.SpecVersion == t.SpecVersion:
		return true
	}
	key := state.RevisionKey(t.ServiceID, t.SpecVersion)
	same, ok := v.clean[key]
	if !ok {
		same = v.cleanRevision(s, t.SpecVersion)
		v.clean[key] = same
	}
	return same
}

// cleanRevision tells whether a task of an older version is up to date. It is where nothing in it that a task follows has
// changed: the rolling update leaves such a task alone, as Swarm's does. Where only the placement differs, the update
// decides node by node; what it has left when it ends is up to date.
func (v *taskView) cleanRevision(s *state.Service, version uint64) bool {
	old, now := v.Revision(s.ID, version), v.Revision(s.ID, s.SpecVersion)
	if old == nil || now == nil || !sameJSON(old.Endpoint, now.Endpoint) {
		return false
	}
	a, b := old.Spec, now.Spec
	placed := sameJSON(a.Placement, b.Placement)
	a.Placement, b.Placement = nil, nil
	return sameJSON(a, b) && (placed || updated(s))
}

// updated tells whether a service's last update went through.
func updated(s *state.Service) bool {
	u := s.UpdateStatus
	return u != nil && (u.State == swarm.UpdateStateCompleted || u.State == swarm.UpdateStateRollbackCompleted)
}

// left tells whether a task of a global service was ended because its node was drained, went down or is gone. Docker's
// progress display would wait for ever for a node to run it again.
func (v *taskView) left(t *state.Task) bool {
	n := v.Node(t.NodeID)
	return state.Rank(t.DesiredState) > state.Rank(swarm.TaskStateComplete) &&
		(n == nil || n.Status.State == swarm.NodeStateDown || n.Spec.Availability == swarm.NodeAvailabilityDrain)
}
