package raft

import (
	"context"
	"errors"
	"fmt"
	"time"

	hraft "github.com/hashicorp/raft"
)

// ErrLastManager refuses the removal of the only manager.
var ErrLastManager = errors.New("the last manager cannot be removed: the swarm would be lost with it")

// answerTimeout is how long a new manager may take for its first answer.
const answerTimeout = 10 * time.Second

// Member is one manager in the configuration.
type Member struct {
	ID   string
	Addr string
	// Voter is false while a manager is being added.
	Voter bool
}

// Members lists the managers, by the newest configuration that this one knows; nil before Ready, and on a manager that
// waits to be added.
func (r *Raft) Members() []Member {
	if !r.isReady() {
		return nil
	}
	var out []Member
	for _, s := range r.node.GetConfiguration().Configuration().Servers {
		out = append(out, Member{ID: string(s.ID), Addr: string(s.Address), Voter: s.Suffrage == hraft.Voter})
	}
	return out
}

func (r *Raft) member(id string) (Member, bool) {
	for _, m := range r.Members() {
		if m.ID == id {
			return m, true
		}
	}
	return Member{}, false
}

func (r *Raft) voters() int {
	n := 0
	for _, m := range r.Members() {
		if m.Voter {
			n++
		}
	}
	return n
}

// AddManager takes a manager in, or changes the address of one that is in. Only the leader can. A new manager gets its
// vote only after it has answered, because a vote of one that is not there could cost the cluster its majority; if it does
// not answer in time it is taken out again.
func (r *Raft) AddManager(ctx context.Context, id, addr string) error {
	if id == "" {
		return errors.New("add manager: no node ID")
	}
	if err := checkAddr(addr); err != nil {
		return fmt.Errorf("add manager %s: %w", id, err)
	}
	if err := r.mustLead(); err != nil {
		return fmt.Errorf("add manager %s: %w", id, err)
	}
	for _, m := range r.Members() {
		if m.Addr == addr && m.ID != id {
			return fmt.Errorf("add manager %s: address %s belongs to manager %s: remove that one first", id, addr, m.ID)
		}
	}
	m, known := r.member(id)
	if known && m.Voter && m.Addr == addr {
		return nil
	}
	if !known || !m.Voter {
		if err := r.introduce(ctx, id, addr); err != nil {
			return fmt.Errorf("add manager %s: %w", id, err)
		}
	}
	err := r.change(ctx, func() hraft.IndexFuture {
		return r.node.AddVoter(hraft.ServerID(id), hraft.ServerAddress(addr), 0, enqueueTimeout)
	})
	if err != nil {
		return fmt.Errorf("add manager %s: %w", id, err)
	}
	r.log.Info("manager added", "peer", id, "addr", addr)
	return nil
}

// introduce adds a manager without a vote and waits until it answers.
func (r *Raft) introduce(ctx context.Context, id, addr string) error {
	wait, cancel := context.WithTimeoutCause(ctx, answerTimeout,
		fmt.Errorf("no answer from %s within %s: its control port must be reachable from this manager", addr, answerTimeout))
	defer cancel()
	err := r.change(wait, func() hraft.IndexFuture {
		return r.node.AddNonvoter(hraft.ServerID(id), hraft.ServerAddress(addr), 0, enqueueTimeout)
	})
	if err == nil {
		err = r.stream.awaitAnswer(wait, addr)
	}
	if err == nil {
		return nil
	}
	undo, stop := context.WithTimeout(context.WithoutCancel(ctx), enqueueTimeout)
	defer stop()
	if undoErr := r.RemoveManager(undo, id); undoErr != nil {
		return errors.Join(err, undoErr)
	}
	return err
}

// RemoveManager takes a manager out; one that is not in is none to remove. Only the leader can, also itself: then it steps
// down at once.
func (r *Raft) RemoveManager(ctx context.Context, id string) error {
	if err := r.mustLead(); err != nil {
		return fmt.Errorf("remove manager %s: %w", id, err)
	}
	m, ok := r.member(id)
	if !ok {
		return nil
	}
	if m.Voter && r.voters() == 1 {
		return fmt.Errorf("remove manager %s: %w", id, ErrLastManager)
	}
	err := r.change(ctx, func() hraft.IndexFuture {
		return r.node.RemoveServer(hraft.ServerID(id), 0, enqueueTimeout)
	})
	if err != nil {
		return fmt.Errorf("remove manager %s: %w", id, err)
	}
	r.log.Info("manager removed", "peer", id)
	return nil
}

func (r *Raft) change(ctx context.Context, op func() hraft.IndexFuture) error {
	return r.await(ctx, func() error { return op().Error() })
}

// correctAddr tells the others when this manager came back with another address. It is called by a new leader; a follower
// whose address changed is corrected by the leader's AddManager.
func (r *Raft) correctAddr() {
	m, ok := r.member(r.cfg.NodeID)
	if !ok || m.Addr == r.cfg.Addr || !r.gate.enter() {
		return
	}
	r.log.Info("own address changed", "addr", r.cfg.Addr)
	go func() {
		defer r.gate.leave()
		f := r.node.AddVoter(hraft.ServerID(r.cfg.NodeID), hraft.ServerAddress(r.cfg.Addr), 0, enqueueTimeout)
		if err := f.Error(); err != nil && !errors.Is(err, hraft.ErrLeadershipLost) && !errors.Is(err, hraft.ErrRaftShutdown) {
			r.log.Warn("own address not changed in the configuration", "addr", r.cfg.Addr, "err", err)
		}
	}()
}
