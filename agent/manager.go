package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meshswarm/meshswarm/agent/api"
	"github.com/meshswarm/meshswarm/agent/rpc"
	"github.com/meshswarm/meshswarm/raft"
	"github.com/meshswarm/meshswarm/raft/state"
)

// Routes between managers, beside those of package rpc.
const (
	pathQuorum      = "/v1/quorum"       // POST: the caller becomes a member of raft
	pathQuorumLeave = "/v1/quorum/leave" // POST: the caller leaves raft
)

// quorumRequest tells where the calling manager's control port is.
type quorumRequest struct {
	Addr string `json:"addr"`
}

// quorum is what a manager needs of raft.
type quorum interface {
	Propose(ctx context.Context, b state.Batch) (uint64, error)
	Leader() (id, addr string)
	IsLeader() bool
	Serves() bool
	Members() []raft.Member
	AddManager(ctx context.Context, id, addr string) error
	RemoveManager(ctx context.Context, id string) error
	TransferLeadership(ctx context.Context) error
}

// manager is a node's part in the quorum: it answers the other managers, and the API in front of the store.
type manager struct {
	nodeID string
	store  *state.Store
	raft   quorum
	logs   logSource
	log    *slog.Logger
}

// routes registers what managers ask of each other.
func (m *manager) routes(s *rpc.Server, forwarded http.Handler) {
	s.Handle("POST "+pathQuorum, rpc.AccessManager, http.HandlerFunc(m.serveQuorum))
	s.Handle("POST "+pathQuorumLeave, rpc.AccessManager, http.HandlerFunc(m.serveQuorumLeave))
	s.HandleStream(rpc.PathAPI, rpc.AccessManager, forwarded)
}

func (m *manager) serveQuorum(w http.ResponseWriter, r *http.Request) {
	peer, _ := rpc.PeerFrom(r.Context())
	var req quorumRequest
	if err := rpc.ReadJSON(r, &req); err != nil {
		rpc.WriteError(w, err)
		return
	}
	if _, err := addrPort(req.Addr, 0); err != nil || req.Addr == "" {
		rpc.WriteError(w, rpc.ErrBadRequest.With("control address %q: %v", req.Addr, err))
		return
	}
	if err := m.admit(r.Context(), peer.NodeID, req.Addr); err != nil {
		rpc.WriteError(w, err)
		return
	}
	rpc.WriteJSON(w, struct{}{})
}

// admit makes a manager a member of raft at its present address.
func (m *manager) admit(ctx context.Context, id, addr string) error {
	if !m.raft.IsLeader() {
		_, leader := m.raft.Leader()
		return rpc.NotLeader(leader)
	}
	if err := m.raft.AddManager(ctx, id, addr); err != nil {
		return fmt.Errorf("add manager %s: %w", id, err)
	}
	return m.setControlAddr(ctx, id, addr)
}

// setControlAddr notes where a manager is reached; empty when it left the quorum.
func (m *manager) setControlAddr(ctx context.Context, id, addr string) error {
	for {
		n := m.store.View().Node(id)
		if n == nil || n.ControlAddr == addr {
			return nil
		}
		next := n.Clone()
		next.ControlAddr = addr
		_, err := m.raft.Propose(ctx, state.Batch{Time: time.Now(), Ops: []state.Op{
			{Action: state.Update, Object: next, Expected: n.Modified},
		}})
		if !errors.Is(err, state.ErrSequence) {
			return err
		}
	}
}

func (m *manager) serveQuorumLeave(w http.ResponseWriter, r *http.Request) {
	peer, _ := rpc.PeerFrom(r.Context())
	if !m.raft.IsLeader() {
		_, leader := m.raft.Leader()
		rpc.WriteError(w, rpc.NotLeader(leader))
		return
	}
	if err := m.raft.RemoveManager(r.Context(), peer.NodeID); err != nil {
		rpc.WriteError(w, fmt.Errorf("remove manager %s: %w", peer.NodeID, err))
		return
	}
	if err := m.setControlAddr(r.Context(), peer.NodeID, ""); err != nil {
		m.log.Warn("forget the address of a manager that left", "node", peer.NodeID, "err", err)
	}
	rpc.WriteJSON(w, struct{}{})
}

// isMember tells whether raft knows this manager at that address.
func (m *manager) isMember(addr string) bool {
	return slices.ContainsFunc(m.raft.Members(), func(x raft.Member) bool { return x.ID == m.nodeID && x.Addr == addr })
}

// enter asks the other managers to take this one into the quorum, until raft here knows of it.
func (m *manager) enter(ctx context.Context, c caller, managers func() []string, addr string) error {
	wait := 100 * time.Millisecond
	for !m.isMember(addr) {
		if m.raft.IsLeader() {
			if err := m.admit(ctx, m.nodeID, addr); err != nil {
				m.log.Warn("change the own address in the quorum", "addr", addr, "err", err)
			}
		} else if err := callLeader(ctx, c, managers(), pathQuorum, quorumRequest{Addr: addr}); err != nil {
			m.log.Info("waiting to be taken into the quorum", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
			wait = min(2*wait, 2*time.Second)
		}
	}
	return nil
}

// caller asks a manager something (rpc.Client).
type caller interface {
	Call(ctx context.Context, addr, path string, in, out any) error
}

// callLeader asks the managers in turn, and the leader where one names it.
func callLeader(ctx context.Context, c caller, managers []string, path string, in any) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	last := errors.New("no manager is known")
	for i, tries := 0, len(managers)+2; i < len(managers) && i < tries; i++ {
		err := c.Call(ctx, managers[i], path, in, nil)
		if err == nil {
			return nil
		}
		last = err
		var refusal *rpc.Error
		if errors.As(err, &refusal) && refusal.Leader != "" && !slices.Contains(managers, refusal.Leader) {
			managers = append(slices.Clone(managers), refusal.Leader)
		}
	}
	return last
}

// lead runs the leader's loops for one term; an error from any of them ends the leadership.
func lead(ctx context.Context, loops ...func(context.Context) error) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, run := range loops {
		g.Go(func() error { return run(ctx) })
	}
	return g.Wait()
}

// clusterView is the manager as agent/api wants it.
type clusterView struct{ *manager }

// Store implements api.Cluster.
func (c clusterView) Store() *state.Store { return c.store }

// Propose implements api.Cluster.
func (c clusterView) Propose(ctx context.Context, b state.Batch) (uint64, error) {
	return c.raft.Propose(ctx, b)
}

// Leader implements api.Cluster.
func (c clusterView) Leader() (id, addr string) { return c.raft.Leader() }

// IsLeader implements api.Cluster. A leader that has not caught up yet would answer with an old state of the swarm.
func (c clusterView) IsLeader() bool { return c.raft.Serves() }

// Members implements api.Cluster.
func (c clusterView) Members() []api.Member {
	members := c.raft.Members()
	out := make([]api.Member, len(members))
	for i, m := range members {
		out[i] = api.Member{ID: m.ID, Addr: m.Addr, Voter: m.Voter}
	}
	return out
}
