package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/docker/docker/api/types/container"
	"golang.org/x/sync/errgroup"

	"github.com/meshswarm/meshswarm/agent/api"
	"github.com/meshswarm/meshswarm/agent/dispatch"
	"github.com/meshswarm/meshswarm/agent/rpc"
	"github.com/meshswarm/meshswarm/raft"
	"github.com/meshswarm/meshswarm/raft/state"
	"github.com/meshswarm/meshswarm/sched"
	"github.com/meshswarm/meshswarm/secrets"
)

// control is the manager's half of a node: the control port, raft, and the leader's loops.
type control struct {
	settings   settings
	member     *member
	store      *state.Store
	server     *rpc.Server
	stream     *rpc.RaftStream
	raft       *raft.Raft
	guard      *dispatch.Guard
	dispatcher *dispatch.Dispatcher
	leader     *sched.Leader
	manager    *manager
	client     *rpc.Client
	managers   func() []string
}

// newControl constructs a manager's parts.
func newControl(s settings, m *member, c *rpc.Client, identity func() *secrets.Identity, seal *secrets.Sealer, managers func() []string) (*control, error) {
	k := &control{settings: s, member: m, store: state.New(), client: c, managers: managers}
	k.manager = &manager{nodeID: m.identity.NodeID(), store: k.store, log: s.Logger}
	var err error
	k.server, err = rpc.NewServer(rpc.ServerConfig{Identity: identity, Allowed: func(p secrets.Peer, a rpc.Access) error { return k.guard.Allowed(p, a) }, Logger: s.Logger, Registry: s.Registry})
	if err != nil {
		return nil, err
	}
	k.guard = dispatch.NewGuard(k.store, k.server.Cut, s.Logger)
	k.stream = k.server.RaftStream(s.advertise.String(), c)
	k.raft, err = raft.New(raft.Config{
		NodeID: m.identity.NodeID(), Addr: s.advertise.String(), Dir: s.path(raftDir), Store: k.store, Stream: k.stream,
		Sealer: seal, Bootstrap: m.created != nil, Logger: s.Logger, Registry: s.Registry,
	})
	if err != nil {
		return nil, err
	}
	k.manager.raft = k.raft
	k.dispatcher, err = dispatch.New(dispatch.Config{
		Store: k.store, Proposer: k.raft,
		Leader: func() string { _, addr := k.raft.Leader(); return addr },
		Logger: s.Logger, Registry: s.Registry,
	})
	if err != nil {
		return nil, err
	}
	k.manager.logs = k.dispatcher
	if k.leader, err = sched.New(sched.Config{Store: k.store, Proposer: k.raft, Logger: s.Logger, Registry: s.Registry}); err != nil {
		return nil, err
	}
	k.dispatcher.Register(k.server)
	joiner, err := dispatch.NewJoiner(dispatch.JoinerConfig{
		Store: k.store, Proposer: k.raft, Logger: s.Logger,
		Leader: func() (string, bool) { _, addr := k.raft.Leader(); return addr, k.raft.IsLeader() },
	})
	if err != nil {
		return nil, err
	}
	joiner.Register(k.server)
	return k, nil
}

// run serves the control port and takes part in raft until ctx ends.
func (k *control) run(ctx context.Context, forwarded http.Handler) error {
	k.manager.routes(k.server, forwarded)
	ln, err := rpc.Listen(k.settings.listen.String())
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return k.server.Run(ctx, ln) })
	g.Go(func() error { return k.raft.Run(ctx) })
	g.Go(func() error {
		if err := k.raft.Lead(ctx, k.term); !errors.Is(err, raft.ErrStopped) {
			return err
		}
		return nil
	})
	g.Go(func() error { return k.join(ctx) })
	g.Go(func() error { return k.guard.Run(ctx) })
	return g.Wait()
}

// join gets this manager into the quorum, where it is not the first one.
func (k *control) join(ctx context.Context) error {
	select {
	case <-k.raft.Ready():
	case <-ctx.Done():
		return nil
	}
	if k.member.created != nil {
		return nil
	}
	if err := k.manager.enter(ctx, k.client, k.managers, k.settings.advertise.String()); err != nil || ctx.Err() != nil {
		return err
	}
	if k.member.RaftMember {
		return nil
	}
	k.member.joined()
	return k.member.save(k.settings)
}

// term is one term of leadership.
func (k *control) term(ctx context.Context, _ uint64) error {
	if k.store.View().Cluster() == nil {
		if err := k.found(ctx); err != nil {
			return err
		}
	}
	return lead(ctx, k.leader.Run, k.dispatcher.Run)
}

// found writes the swarm's first log entry, and only then makes this node a member on disk: a start that ends before
// leaves nothing that could be resumed.
func (k *control) found(ctx context.Context) error {
	if k.member.created == nil {
		return errors.New("the cluster's state is empty, and this node did not create the swarm")
	}
	batch, err := k.member.created.batch(k.settings, time.Now())
	if err != nil {
		return err
	}
	if _, err := k.raft.Propose(ctx, batch); err != nil {
		return fmt.Errorf("create the swarm: %w", err)
	}
	k.member.joined()
	return k.member.save(k.settings)
}

// RemoveManager implements api.Cluster.
func (c clusterView) RemoveManager(ctx context.Context, id string) error {
	return c.raft.RemoveManager(ctx, id)
}

// logSource reads a task's output from its node (dispatch.Dispatcher).
type logSource interface {
	Logs(ctx context.Context, nodeID string, req dispatch.LogRequest) (io.ReadCloser, error)
}

// Logs implements api.Cluster.
func (c clusterView) Logs(ctx context.Context, nodeID, taskID string, o api.LogOptions) (io.ReadCloser, bool, error) {
	t := c.store.View().Task(taskID)
	if t == nil {
		return nil, false, fmt.Errorf("task %s: %w", taskID, state.ErrNotFound)
	}
	tty := false
	if r := c.store.View().Revision(t.ServiceID, t.SpecVersion); r != nil && r.Spec.ContainerSpec != nil {
		tty = r.Spec.ContainerSpec.TTY
	}
	out, err := c.logs.Logs(ctx, nodeID, dispatch.LogRequest{TaskID: taskID, Options: container.LogsOptions{
		ShowStdout: o.Stdout, ShowStderr: o.Stderr, Follow: o.Follow, Timestamps: o.Timestamps, Since: o.Since, Tail: o.Tail,
	}})
	return out, tty, err
}

// forwarder carries requests to other managers with this node's certificate: api.Config.Forward.
type forwarder struct{ client *rpc.Client }

// RoundTrip implements http.RoundTripper.
func (f forwarder) RoundTrip(r *http.Request) (*http.Response, error) {
	if _, _, err := net.SplitHostPort(r.URL.Host); err != nil {
		return nil, err
	}
	return f.client.Do(r.URL.Host, r)
}
