package api

import (
	"context"
	"net/http"

	"github.com/docker/docker/api/server/httputils"
	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

// The routes about services that Docker's API does not have. They are answered on the leader, as Docker's own are.
//
//	GET  /meshswarm/services/{id}/explain    200 with what Config.Explain gives; 404
//	POST /meshswarm/services/{id}/rebalance  200 {"Moves":[{"TaskID","Slot","From"}]}, empty when there is nothing to do;
//	                                         400 for a service that is not replicated, 404, 409 while an update is under
//	                                         way or paused, or an earlier rebalancing
//
// Both answer 503 as Docker's routes do, on a worker and without a leader.

// Move is a replica that is to run on another node.
type Move struct {
	TaskID string
	Slot   int
	// From is the ID of the node that it leaves.
	From string
}

// RebalanceResponse answers a rebalance request.
type RebalanceResponse struct {
	// Moves that have been ordered. Empty: the spread is as good as it can be.
	Moves []Move
}

func (s *Server) explainService(_ context.Context, w http.ResponseWriter, _ *http.Request, vars map[string]string) error {
	_, v, err := s.backend.view()
	if err != nil {
		return err
	}
	svc, err := findService(v, vars["id"])
	if err != nil {
		return err
	}
	if s.cfg.Explain == nil {
		return notSupported("explaining where the tasks of a service run is not supported here")
	}
	out, err := s.cfg.Explain(v, svc.ID, s.cfg.Now())
	if err != nil {
		return err
	}
	return httputils.WriteJSON(w, http.StatusOK, out)
}

func (s *Server) rebalanceService(_ context.Context, w http.ResponseWriter, _ *http.Request, vars map[string]string) error {
	moves, err := s.backend.rebalance(vars["id"])
	if err != nil {
		return err
	}
	return httputils.WriteJSON(w, http.StatusOK, RebalanceResponse{Moves: moves})
}

// rebalance orders the fewest moves that make a service's spread even, by the rules of its updates.
func (b *Backend) rebalance(term string) ([]Move, error) {
	if _, err := b.manager(); err != nil {
		return nil, err
	}
	if b.planRebalance == nil {
		return nil, notSupported("rebalancing services is not supported here")
	}
	var moves []Move
	err := b.change(func(_ Cluster, v state.View) ([]state.Op, error) {
		moves = []Move{}
		old, err := findService(v, term)
		if err != nil {
			return nil, err
		}
		if err := checkRebalance(old); err != nil {
			return nil, err
		}
		now := b.now()
		plan, err := b.planRebalance(v, old.ID, now)
		if err != nil || len(plan) == 0 {
			return nil, err
		}
		moves = plan
		s := old.Clone()
		s.Rebalance = &state.Rebalance{Requested: now}
		for _, m := range plan {
			s.Rebalance.Tasks = append(s.Rebalance.Tasks, m.TaskID)
		}
		// Not a change of the spec: a user's update under way must not be out of sequence for it.
		return []state.Op{update(s, false)}, nil
	})
	return moves, err
}

// checkRebalance refuses while the service's tasks are about to be replaced anyway.
func checkRebalance(s *state.Service) error {
	name := s.Spec.Name
	if m := modeOf(s.Spec.Mode); m != modeReplicated {
		return invalid("service %s is in %s mode: only replicated services can be rebalanced", name, m)
	}
	if s.Rebalance != nil {
		return conflict("service %s is being rebalanced already: %d tasks are to move", name, len(s.Rebalance.Tasks))
	}
	if s.UpdateStatus == nil {
		return nil
	}
	switch s.UpdateStatus.State {
	case swarm.UpdateStateUpdating, swarm.UpdateStateRollbackStarted:
		return conflict("service %s is being updated: rebalance it when that is over", name)
	case swarm.UpdateStatePaused, swarm.UpdateStateRollbackPaused:
		return conflict("the last update of service %s is paused (%s): update it again or roll it back, then rebalance it", name, s.UpdateStatus.Message)
	}
	return nil
}
