package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/agent/api"
	"github.com/meshswarm/meshswarm/raft/state"
)

// Causes of a node's end that are no failures.
var (
	errDown = errors.New("stopped by `meshswarm down`")
	errLeft = errors.New("left the swarm")
)

// stopper stops what a node runs (task.Worker).
type stopper interface {
	Stop(ctx context.Context) error
}

// local is the life of a running node as its API sees it (api.Local).
type local struct {
	settings settings
	member   *member
	plane    *plane
	worker   stopper
	executor remover
	manager  *manager // nil on workers
	client   caller
	// end stops the node; the cause tells what has to be done after.
	end func(cause error)

	mu  sync.Mutex
	err string // why the node is not active
}

// Status implements api.Local.
func (l *local) Status() api.Status {
	l.mu.Lock()
	problem := l.err
	l.mu.Unlock()
	st := api.Status{
		State: swarm.LocalNodeStateActive, NodeID: l.member.identity.NodeID(), NodeAddr: l.settings.advertise.Addr().String(),
		Hostname: l.settings.Hostname, Manager: l.manager != nil, Error: problem,
	}
	if problem != "" {
		st.State = swarm.LocalNodeStateError
	}
	for id, n := range l.plane.get().Nodes {
		if n.ControlAddr != "" {
			st.Managers = append(st.Managers, swarm.Peer{NodeID: id, Addr: n.ControlAddr})
		}
	}
	slices.SortFunc(st.Managers, func(a, b swarm.Peer) int { return cmp.Compare(a.NodeID, b.NodeID) })
	return st
}

// fail notes why the node is not what it should be; empty when it is again.
func (l *local) fail(problem string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = problem
}

// Cluster implements api.Local.
func (l *local) Cluster() (api.Cluster, bool) {
	if l.manager == nil || l.manager.store.View().Cluster() == nil {
		return nil, false
	}
	return clusterView{l.manager}, true
}

// Assignments implements api.Local.
func (l *local) Assignments() state.Assignments { return l.plane.get() }

// Init implements api.Local. A running node is always a member.
func (l *local) Init(context.Context, swarm.InitRequest) (string, error) {
	return "", errors.New("this node is part of a swarm already: `meshswarm leave` it first")
}

// Join implements api.Local.
func (l *local) Join(context.Context, swarm.JoinRequest) error {
	return errors.New("this node is part of a swarm already: `meshswarm leave` it first")
}

// Leave implements api.Local: the tasks stop, a manager leaves the quorum, the node forgets who it was and ends.
func (l *local) Leave(ctx context.Context, force bool) error {
	if err := l.leaveQuorum(ctx); err != nil && !force {
		return fmt.Errorf("leave the quorum: %w", err)
	}
	if err := l.worker.Stop(ctx); err != nil && !force {
		return fmt.Errorf("stop the node's tasks: %w", err)
	}
	if err := removeAll(ctx, l.executor); err != nil && !force {
		return err
	}
	l.end(errLeft)
	return nil
}

// leaveQuorum takes a manager out of raft, unless it is the only one.
func (l *local) leaveQuorum(ctx context.Context) error {
	if l.manager == nil {
		return nil
	}
	var others []string
	for _, m := range l.manager.raft.Members() {
		if m.ID != l.manager.nodeID {
			others = append(others, m.Addr)
		}
	}
	if len(others) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if l.manager.raft.IsLeader() {
		if err := l.manager.raft.TransferLeadership(ctx); err != nil {
			return err
		}
	}
	return callLeader(ctx, l.client, others, pathQuorumLeave, struct{}{})
}

// Down stops the node and its tasks; the membership stays.
func (l *local) Down(ctx context.Context) error {
	if err := l.worker.Stop(ctx); err != nil {
		return fmt.Errorf("stop the node's tasks: %w", err)
	}
	l.end(errDown)
	return nil
}
