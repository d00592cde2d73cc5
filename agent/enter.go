package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/meshswarm/meshswarm/agent/rpc"
	"github.com/meshswarm/meshswarm/raft"
	"github.com/meshswarm/meshswarm/secrets"
)

// member is a node's place in a swarm: who it is, and what it needs to come back.
type member struct {
	// mu is held while the membership changes and is written; its Managers never change.
	mu sync.Mutex
	membership
	identity *secrets.Identity
	// created is set while the swarm is new and its first log entry is not written yet.
	created *newSwarm
	resumed bool
}

// enter finds the node's place: the one on disk, a new one in the swarm it is told to join, or the first one of a new swarm.
// cfg comes back with what an earlier start said where this one is silent.
func enter(ctx context.Context, cfg Config) (settings, *member, error) {
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return settings{}, nil, fmt.Errorf("data directory: %w: choose another with --data-dir", err)
	}
	old, err := loadMembership(cfg.DataDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return settings{}, nil, err
	}
	s, err := settle(old.withFlags(cfg))
	if err != nil {
		return s, nil, err
	}
	identity, err := secrets.LoadIdentity(s.path(certDir))
	switch {
	case err == nil:
		m, err := resume(s, old, identity)
		return s, m, err
	case !errors.Is(err, fs.ErrNotExist):
		return s, nil, err
	}
	// Without an identity whatever else lies here is of a start that did not end: nobody knows this node.
	if err := forget(s.DataDir); err != nil {
		return s, nil, fmt.Errorf("clear the data directory: %w", err)
	}
	if s.Join != "" {
		m, err := joinSwarm(ctx, s)
		return s, m, err
	}
	created, err := createSwarm(time.Now())
	if err != nil {
		return s, nil, err
	}
	return s, &member{identity: created.identity, created: created}, nil
}

func resume(s settings, old membership, identity *secrets.Identity) (*member, error) {
	if s.Join != "" && !slices.Contains(old.Managers, s.Join) {
		s.Logger.Info("this node is a member already: --join and --token are not used", "node", identity.NodeID())
	}
	if err := identity.CheckTime(time.Now()); err != nil {
		return nil, fmt.Errorf("node certificate: %w", err)
	}
	m := &member{membership: old, identity: identity, resumed: true}
	if identity.Role() == secrets.RoleManager && old.RaftMember && !raft.Exists(s.path(raftDir)) {
		return nil, fmt.Errorf("the cluster's state is missing from %s: restore it, or `meshswarm leave --force` and join again", s.path(raftDir))
	}
	return m, nil
}

// joinSwarm asks a manager for membership and keeps it on disk before anything else happens.
func joinSwarm(ctx context.Context, s settings) (*member, error) {
	identity, resp, err := rpc.Join(ctx, s.Join, s.Token, rpc.JoinRequest{
		Hostname: s.Hostname, Labels: nil, ControlAddr: s.advertise.String(),
	})
	if err != nil {
		return nil, err
	}
	m := &member{identity: identity, membership: membership{Managers: resp.Managers}}
	if !slices.Contains(m.Managers, s.Join) {
		m.Managers = append(m.Managers, s.Join)
	}
	return m, m.save(s)
}

// keepFlags makes the membership durable with this start's command line.
func (m *member) keepFlags(s settings) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.remember(s.Config)
	if err := m.membership.save(s.DataDir); err != nil {
		return fmt.Errorf("keep the membership: %w", err)
	}
	return nil
}

// joined notes that the node is in the quorum.
func (m *member) joined() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.RaftMember = true
}

// save makes the membership durable: from here on the node resumes.
func (m *member) save(s settings) error {
	if err := m.keepFlags(s); err != nil {
		return err
	}
	if err := m.identity.Save(s.path(certDir)); err != nil {
		return fmt.Errorf("keep the node's certificate: %w", err)
	}
	return nil
}
