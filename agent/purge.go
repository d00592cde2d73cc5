package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/docker/docker/client"

	"github.com/meshswarm/meshswarm/agent/docker"
	"github.com/meshswarm/meshswarm/agent/sandbox"
	"github.com/meshswarm/meshswarm/raft/state"
	"github.com/meshswarm/meshswarm/secrets"
)

// Purge removes what a node that does not run any more has left: its tasks' containers in the engine, and its membership
// in dataDir. dockerHost is the engine it used; empty = what it remembers. A dataDir of no member is fine. The caller makes
// sure that no node runs on dataDir.
func Purge(ctx context.Context, dataDir, dockerHost string) error {
	identity, err := secrets.LoadIdentity(filepath.Join(dataDir, certDir))
	if errors.Is(err, fs.ErrNotExist) {
		return forget(dataDir)
	}
	if err != nil {
		return err
	}
	if m, err := loadMembership(dataDir); err == nil && dockerHost == "" {
		dockerHost = m.DockerHost
	}
	engine, err := newEngine(dockerHost)
	if err != nil {
		return err
	}
	defer engine.Close()
	executor, err := docker.New(docker.Config{
		Client: engine, NodeID: identity.NodeID(), SwarmID: identity.SwarmID(), Dir: dataDir, Network: noNetwork{},
		Networks: func(string) (state.AssignedNetwork, bool) { return state.AssignedNetwork{}, false },
	})
	if err != nil {
		return err
	}
	if err := removeAll(ctx, executor); err != nil {
		return err
	}
	return forget(dataDir)
}

// remover removes tasks whatever their state (docker.Executor).
type remover interface {
	Leftovers(ctx context.Context) ([]string, error)
	Remove(ctx context.Context, taskID string) error
}

// removeAll removes every task of the node from the engine.
func removeAll(ctx context.Context, r remover) error {
	tasks, err := r.Leftovers(ctx)
	if err != nil {
		return fmt.Errorf("list the node's tasks: %w", err)
	}
	var errs []error
	for _, id := range tasks {
		if err := r.Remove(ctx, id); err != nil {
			errs = append(errs, fmt.Errorf("remove task %s: %w", id, err))
		}
	}
	return errors.Join(errs...)
}

// noNetwork is for an executor that only removes.
type noNetwork struct{}

// Attach implements docker.Network.
func (noNetwork) Attach(context.Context, state.AssignedTask, *sandbox.Handover) error {
	return errors.New("a node that is being removed attaches nothing")
}

// Detach implements docker.Network.
func (noNetwork) Detach(string) {}

// newEngine makes the client of the node's container engine.
func newEngine(dockerHost string) (*client.Client, error) {
	opts := []client.Opt{client.FromEnv, client.WithAPIVersionNegotiation()}
	if dockerHost != "" {
		opts = append(opts, client.WithHost(dockerHost))
	}
	engine, err := client.NewClientWithOpts(opts...)
	if err != nil {
		return nil, fmt.Errorf("container engine: %w: check --docker-host", err)
	}
	return engine, nil
}
