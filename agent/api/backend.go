package api

import (
	"context"
	"errors"
	"fmt"
	"time"

	swarmrouter "github.com/docker/docker/api/server/router/swarm"
	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

// requestTimeout bounds a call to the cluster, as Docker's manager calls.
const requestTimeout = 20 * time.Second

// Backend answers Docker's swarm router from the cluster's store. It is only asked on the leader, but for the node's own
// membership (Init, Join, Leave, UnlockSwarm).
type Backend struct {
	local    Local
	engine   *engine
	now      func() time.Time
	newToken func(rootCertPEM []byte) (string, error)
	// checkConstraints and planRebalance may be nil, see Config.
	checkConstraints func(exprs []string) error
	planRebalance    func(v state.View, serviceID string, now time.Time) ([]Move, error)
}

var _ swarmrouter.Backend = (*Backend)(nil)

// manager gives the cluster, or Docker's reason why this node cannot speak for it.
func (b *Backend) manager() (Cluster, error) {
	if c, ok := b.local.Cluster(); ok {
		return c, nil
	}
	st := b.local.Status()
	switch {
	case st.State == swarm.LocalNodeStateInactive || st.State == "":
		return nil, unavailable(textNotInSwarm)
	case st.State == swarm.LocalNodeStateLocked:
		return nil, unavailable(textLocked)
	case st.State == swarm.LocalNodeStateError:
		return nil, unavailable("%s", st.Error)
	case st.Manager || st.NodeID == "":
		return nil, unavailable(textPreparing)
	}
	return nil, unavailable(textWorker)
}

// view is a snapshot of the manager's store.
func (b *Backend) view() (Cluster, state.View, error) {
	c, err := b.manager()
	if err != nil {
		return nil, state.View{}, err
	}
	return c, c.Store().View(), nil
}

// maxTries is how often a change is decided anew because somebody else changed the object meanwhile.
const maxTries = 10

// change decides on a view and proposes, again when the store moved between the two. decide returns the ops; none is
// success without a proposal.
func (b *Backend) change(decide func(c Cluster, v state.View) ([]state.Op, error)) error {
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	var err error
	for range maxTries {
		c, v, merr := b.view()
		if merr != nil {
			return merr
		}
		ops, derr := decide(c, v)
		if derr != nil || len(ops) == 0 {
			return derr
		}
		if _, err = c.Propose(ctx, state.Batch{Ops: ops, Time: b.now()}); err == nil {
			return nil
		}
		if !errors.Is(err, state.ErrSequence) {
			return proposalError(c, err)
		}
	}
	return fmt.Errorf("%s: the object keeps changing: %w", textOutOfSequence, err)
}

// proposalError gives a refused proposal its class.
func proposalError(c Cluster, err error) error {
	switch {
	case errors.Is(err, state.ErrNameConflict), errors.Is(err, state.ErrExists), errors.Is(err, state.ErrTaken):
		return conflict("%w", err)
	case errors.Is(err, state.ErrNotFound):
		return notFound("%w", err)
	case errors.Is(err, state.ErrTooLarge), errors.Is(err, state.ErrInvalid):
		return invalid("%w", err)
	case errors.Is(err, context.DeadlineExceeded):
		return unavailable("the swarm did not agree within %s; the change may still happen: %w", requestTimeout, err)
	case !c.IsLeader():
		return unavailable(textNoLeader)
	}
	return err
}

// update is the op of a changed object that was read from a view.
func update(o state.Object, specChange bool) state.Op {
	return state.Op{Action: state.Update, Object: o, Expected: o.Head().Modified, SpecChange: specChange}
}
