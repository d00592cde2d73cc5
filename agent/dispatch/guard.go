package dispatch

import (
	"context"
	"log/slog"

	"github.com/meshswarm/meshswarm/agent/rpc"
	"github.com/meshswarm/meshswarm/raft/state"
	"github.com/meshswarm/meshswarm/secrets"
)

// Guard decides by this manager's store who is a member. Its Allowed is what rpc.ServerConfig asks for; its Run cuts
// the connections of nodes that are removed or lose their role.
type Guard struct {
	store *state.Store
	cut   func(nodeID string) int
	log   *slog.Logger
}

// NewGuard returns a Guard; cut closes a node's connections (rpc.Server.Cut).
func NewGuard(store *state.Store, cut func(nodeID string) int, logger *slog.Logger) *Guard {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return &Guard{store: store, cut: cut, log: logger.With("component", "guard")}
}

// Allowed decides about a peer whose certificate is valid. Its errors are *rpc.Error.
//
// Raft streams are the exception to "must be known": a manager that was away does not know whom the others have taken in
// meanwhile, and must take the log from whoever leads now. Raft itself refuses votes to strangers.
func (g *Guard) Allowed(p secrets.Peer, access rpc.Access) error {
	view := g.store.View()
	cluster, node := view.Cluster(), view.Node(p.NodeID)
	if cluster != nil {
		if _, removed := cluster.RemovedNodes[p.NodeID]; removed {
			return rpc.ErrRemoved
		}
	}
	switch {
	case access == rpc.AccessRaft:
		if node != nil && !isManager(node.Role) && !isManager(node.Spec.Role) {
			return rpc.ErrForbidden.With("the node is no manager any more")
		}
	case cluster == nil:
		return rpc.ErrUnavailable.With("it is still catching up")
	case node == nil:
		return rpc.ErrUnknownNode
	case access == rpc.AccessManager && !isManager(node.Spec.Role):
		return rpc.ErrForbidden.With("the node is no manager any more")
	}
	return nil
}

// Run follows the store until ctx ends.
func (g *Guard) Run(ctx context.Context) error {
	return g.store.Follow(ctx, func(view state.View) {
		if c := view.Cluster(); c != nil {
			for id := range c.RemovedNodes {
				g.cutOff(id, "removed")
			}
		}
	}, func(commits []state.Commit) {
		for _, c := range commits {
			for _, change := range c.Changes {
				g.judge(change)
			}
		}
	})
}

func (g *Guard) judge(c state.Change) {
	if cluster, ok := c.New.(*state.Cluster); ok {
		old, _ := c.Old.(*state.Cluster)
		for id := range cluster.RemovedNodes {
			if old == nil || old.RemovedNodes[id].IsZero() {
				g.cutOff(id, "removed")
			}
		}
		return
	}
	old, ok := c.Old.(*state.Node)
	if !ok {
		return
	}
	switch next, _ := c.New.(*state.Node); {
	case next == nil:
		g.cutOff(old.ID, "removed")
	case isManager(old.Spec.Role) && !isManager(next.Spec.Role):
		g.cutOff(old.ID, "demoted")
	}
}

func (g *Guard) cutOff(node, why string) {
	if n := g.cut(node); n > 0 {
		g.log.Info("connections of node cut", "node", node, "state", why, "count", n)
	}
}
