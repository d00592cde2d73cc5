package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"github.com/docker/docker/api/types/swarm"
	"github.com/docker/docker/client"
	"golang.org/x/sync/errgroup"

	"github.com/meshswarm/meshswarm/agent/api"
	"github.com/meshswarm/meshswarm/agent/dispatch"
	"github.com/meshswarm/meshswarm/agent/docker"
	"github.com/meshswarm/meshswarm/agent/rpc"
	"github.com/meshswarm/meshswarm/agent/sandbox"
	"github.com/meshswarm/meshswarm/agent/task"
	"github.com/meshswarm/meshswarm/mesh"
	"github.com/meshswarm/meshswarm/netstack"
	"github.com/meshswarm/meshswarm/raft/state"
	"github.com/meshswarm/meshswarm/sched"
	"github.com/meshswarm/meshswarm/secrets"
)

// Node is one machine's part in a swarm.
type Node struct{ cfg Config }

// New checks what can be checked without touching anything.
func New(cfg Config) (*Node, error) {
	if cfg.DataDir == "" || cfg.Socket == "" {
		return nil, errors.New("a node needs a data directory and a socket path")
	}
	return &Node{cfg: cfg}, nil
}

// Run runs the node until ctx ends (its tasks go on), `meshswarm down` (they do not), it leaves the swarm, or something
// fails that it cannot do without.
func (n *Node) Run(ctx context.Context) error {
	s, m, err := enter(ctx, n.cfg)
	if err != nil {
		return err
	}
	s.Logger = s.Logger.With("node", m.identity.NodeID())
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	p, err := build(s, m, end)
	if err != nil {
		return err
	}
	err = p.run(ctx)
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errLeft):
		return errors.Join(err, forget(s.DataDir))
	case errors.Is(cause, errDown):
		s.Logger.Info("node is down", "err", cause)
	}
	return err
}

// parts are the rooms of one running node, connected.
type parts struct {
	settings settings
	member   *member
	badge    *badge
	plane    *plane
	facts    *facts
	local    *local

	client   *rpc.Client
	renewer  *dispatch.Renewer
	netstack *netstack.Netstack
	mesh     *mesh.Mesh
	attacher *attacher
	engine   *client.Client
	executor *docker.Executor
	worker   *task.Worker
	session  *dispatch.Client
	api      *api.Server
	control  *control // nil on workers
	// removed is closed when the swarm says that this node is no member any more.
	removed chan struct{}
}

// build constructs a node's parts. Nothing runs yet, nothing is open.
func build(s settings, m *member, end func(error)) (*parts, error) {
	p := &parts{settings: s, member: m, removed: make(chan struct{}), plane: newPlane(m.identity.NodeID(), s.Logger), badge: newBadge(m.identity, s.path(certDir))}
	seal, err := secrets.NewSealer(m.identity.StorageKey())
	if err != nil {
		return nil, fmt.Errorf("the node's storage key: %w", err)
	}
	p.plane.save = func(a state.Assignments) error { return saveAssignments(s.DataDir, seal, a) }
	for _, step := range []func() error{
		p.buildClient,
		func() error { return p.buildNetwork(seal) },
		func() error { return p.buildWorker(seal) },
		func() error { return p.buildControl(seal) },
		p.buildSession,
		func() error { return p.buildAPI(end) },
	} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	cached, err := loadAssignments(s.DataDir, seal)
	if err != nil {
		s.Logger.Warn("the last assignments are lost; the leader sends them again", "err", err)
	}
	p.plane.restore(cached)
	return p, nil
}

// buildClient makes what calls managers with this node's certificate, and what renews that.
func (p *parts) buildClient() (err error) {
	if p.client, err = rpc.NewClient(rpc.ClientConfig{Identity: p.badge.get}); err != nil {
		return err
	}
	p.renewer, err = dispatch.NewRenewer(dispatch.RenewerConfig{
		RPC: p.client, Managers: p.managers, Identity: p.badge.get, Replace: p.badge.replace, Logger: p.settings.Logger,
	})
	return err
}

// buildNetwork makes the data plane: the fabric and the mesh below it.
func (p *parts) buildNetwork(seal *secrets.Sealer) (err error) {
	s := p.settings
	key, err := loadMeshKey(s.DataDir, seal)
	if err != nil {
		return err
	}
	p.facts = newFacts(s, key.Public(), p.member.identity.Role() == secrets.RoleManager)
	p.netstack, err = netstack.New(netstack.Config{
		MTU: DefaultMTU, PublishAddr: s.publish, PortsChanged: p.facts.setPorts, Logger: s.Logger, Registry: s.Registry,
	})
	if err != nil {
		return err
	}
	p.mesh, err = mesh.New(mesh.Config{Key: key, Listen: s.meshBind, Device: p.netstack.Device(), Logger: s.Logger, Registry: s.Registry})
	if err != nil {
		return err
	}
	p.plane.tables, p.plane.peers = p.netstack.SetTables, p.mesh.SetPeers
	p.attacher = &attacher{
		fabric: p.netstack, networks: p.plane.network, tasks: map[string]*attachment{},
		sockets: func(ctx context.Context, task string) ([]sandbox.Socket, error) {
			return sandbox.Sockets(ctx, s.path(sandboxesDir, task))
		},
	}
	return nil
}

// buildWorker makes what runs tasks on the engine.
func (p *parts) buildWorker(seal *secrets.Sealer) (err error) {
	s := p.settings
	if p.engine, err = newEngine(s.DockerHost); err != nil {
		return err
	}
	p.executor, err = docker.New(docker.Config{
		Client: p.engine, NodeID: p.member.identity.NodeID(), SwarmID: p.member.identity.SwarmID(), Hostname: s.Hostname,
		Dir: s.DataDir, Networks: p.plane.network, MTU: DefaultMTU, Network: p.attacher, Kind: s.kind,
		Logger: s.Logger, Registry: s.Registry,
	})
	if err != nil {
		return err
	}
	p.facts.describer = p.executor
	drains := drainer{
		known: p.plane.known, quiet: p.netstack.Quiet,
		traffic: func(ctx context.Context, task string) (sandbox.Traffic, error) {
			return sandbox.AskTraffic(ctx, s.path(sandboxesDir, task))
		},
	}
	p.worker, err = task.NewWorker(task.Config{
		Executor: p.executor, Drain: drains.drain, Dir: s.path(tasksDir), Sealer: seal, Logger: s.Logger, Registry: s.Registry,
		Report: func(id string, st swarm.TaskStatus) { p.session.Report(id, st) },
	})
	p.plane.tasks = p.worker.Assign
	return err
}

// buildControl makes the manager's half, on managers.
func (p *parts) buildControl(seal *secrets.Sealer) (err error) {
	if p.member.identity.Role() == secrets.RoleManager {
		p.control, err = newControl(p.settings, p.member, p.client, p.badge.get, seal, p.managers)
	}
	return err
}

// buildSession makes the node's connection to the leader.
func (p *parts) buildSession() (err error) {
	p.session, err = dispatch.NewClient(dispatch.ClientConfig{
		RPC: p.client, Managers: p.managers, Facts: p.facts.get, Handler: sessionHandler{p.plane, p.executor},
		Patch: sched.Patch, Renew: p.renewer.Renew, Logger: p.settings.Logger,
	})
	if err != nil {
		return err
	}
	p.facts.changed, p.badge.replaced, p.plane.common = p.session.Refresh, p.session.Reconnect, p.session.Known
	return nil
}

// buildAPI makes the socket's server.
func (p *parts) buildAPI(end func(error)) (err error) {
	p.local = &local{settings: p.settings, member: p.member, plane: p.plane, worker: p.worker, executor: p.executor, client: p.client, end: end}
	if p.control != nil {
		p.local.manager = p.control.manager
	}
	p.api, err = api.New(api.Config{
		Socket: p.settings.Socket, Local: p.local, Engine: p.engine, Forward: forwarder{p.client}, NewToken: newToken,
		CheckConstraints: sched.CheckConstraints, Explain: explain, PlanRebalance: planRebalance,
		Version: p.settings.Version, Logger: p.settings.Logger, Registry: p.settings.Registry,
	})
	return err
}

// managers are the control addresses to try, the own one first.
func (p *parts) managers() []string {
	var out []string
	if p.control != nil {
		out = append(out, p.settings.advertise.String())
	}
	out = append(out, p.plane.managers()...)
	out = append(out, p.member.Managers...)
	slices.Sort(out[min(1, len(out)):])
	return slices.Compact(out)
}

// run runs all parts until ctx ends or one of them fails.
func (p *parts) run(ctx context.Context) error {
	if err := p.checkEngine(ctx); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	run := func(fn func(context.Context) error) { g.Go(func() error { return fn(ctx) }) }
	run(p.netstack.Run)
	run(p.runMesh)
	run(p.executor.Run)
	run(p.worker.Run)
	run(p.plane.run)
	run(p.facts.run)
	run(p.renewer.Run)
	if p.control != nil {
		run(func(ctx context.Context) error { return p.control.run(ctx, p.api.Handler()) })
	}
	run(p.runSession)
	run(p.api.Run)
	run(p.announce)
	err := g.Wait()
	p.attacher.Close()
	p.client.Close()
	return errors.Join(err, p.engine.Close())
}

func (p *parts) runMesh(ctx context.Context) error {
	err := p.mesh.Run(ctx)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%w: another node or program holds it; choose another with --data-path-port", err)
	}
	return err
}

// runSession keeps the session. A node that was removed stops its tasks, closes its published ports and says so; its socket
// goes on, so that a person can see why and make it leave.
func (p *parts) runSession(ctx context.Context) error {
	err := p.session.Run(ctx)
	if !errors.Is(err, rpc.ErrRemoved) {
		return err
	}
	p.settings.Logger.Error("this node was removed from the swarm", "err", err)
	p.local.fail(err.Error())
	close(p.removed)
	return errors.Join(p.worker.Stop(ctx), p.plane.clear(p.settings.path(assignmentsFile)))
}

// checkEngine refuses a first start without an engine: the address is wrong, or there is none. Later on a node waits for
// an engine that is away.
func (p *parts) checkEngine(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, engineTimeout)
	defer cancel()
	_, err := p.engine.Ping(ctx)
	if err == nil {
		return nil
	}
	if p.member.resumed {
		p.settings.Logger.Warn("the container engine does not answer: tasks wait for it", "addr", p.engine.DaemonHost(), "err", err)
		return nil
	}
	// The text only: the command line takes the client's own errors for those of a meshswarm node that does not answer.
	return fmt.Errorf("no container engine answers at %s: %v: start one, or name another with --docker-host", p.engine.DaemonHost(), err)
}

const (
	engineTimeout = 10 * time.Second
	// readyTimeout is how long a node that comes back waits for a manager before it calls itself ready without one.
	readyTimeout = 15 * time.Second
	// startTimeout is how long a first start may take.
	startTimeout = time.Minute
)

// announce tells that the node is ready: the leader has told it what to do, or, for one that comes back, nobody did.
func (p *parts) announce(ctx context.Context) error {
	limit := startTimeout
	if p.member.resumed {
		limit = readyTimeout
	}
	late := time.NewTimer(limit)
	defer late.Stop()
	select {
	case <-ctx.Done():
		return nil
	case <-late.C:
		if !p.member.resumed {
			return fmt.Errorf("no manager took this node in within %v: do the others reach it, and it itself, at %s? Check --advertise-addr and --listen-addr",
				limit, p.settings.advertise)
		}
		p.settings.Logger.Warn("no manager answers yet: going on with what the leader said last")
	case <-p.plane.synced:
	case <-p.removed:
		p.ready(p.local.Status().Error)
		return nil
	}
	if p.member.resumed {
		// What this start was told differently holds from now on, for it went well.
		if err := p.member.keepFlags(p.settings); err != nil {
			return err
		}
	}
	p.settings.Logger.Info("node is ready", "addr", p.settings.advertise.String())
	p.ready("")
	return nil
}

// ready tells whoever started the node that it serves its socket.
func (p *parts) ready(problem string) {
	if p.settings.Ready == nil {
		return
	}
	id := p.member.identity
	p.settings.Ready(Info{
		NodeID: id.NodeID(), SwarmID: id.SwarmID(), Manager: p.control != nil, Socket: p.settings.Socket, Problem: problem,
		AdvertiseAddr: p.settings.advertise.String(), Created: p.member.created != nil, Resumed: p.member.resumed,
	})
}
