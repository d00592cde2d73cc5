package agent

import (
	"errors"
	"time"

	"github.com/docker/docker/errdefs"

	"github.com/meshswarm/meshswarm/agent/api"
	"github.com/meshswarm/meshswarm/raft/state"
	"github.com/meshswarm/meshswarm/sched"
)

// planRebalance is sched.PlanRebalance in the API's words: api.Config.PlanRebalance.
func planRebalance(v state.View, serviceID string, now time.Time) ([]api.Move, error) {
	plan, err := sched.PlanRebalance(v, serviceID, now)
	switch {
	case errors.Is(err, sched.ErrUpdateUnfinished):
		return nil, errdefs.Conflict(err)
	case errors.Is(err, sched.ErrNotReplicated):
		return nil, errdefs.InvalidParameter(err)
	case err != nil:
		return nil, err
	}
	moves := make([]api.Move, 0, len(plan))
	for _, m := range plan {
		moves = append(moves, api.Move(m))
	}
	return moves, nil
}

// explain is sched.Explain with any result: api.Config.Explain.
func explain(v state.View, serviceID string, now time.Time) (any, error) {
	return sched.Explain(v, serviceID, now)
}
