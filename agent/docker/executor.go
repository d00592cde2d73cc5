package docker

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/swarm"
	"github.com/docker/docker/api/types/system"
	"github.com/docker/docker/client"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/meshswarm/meshswarm/agent/sandbox"
	"github.com/meshswarm/meshswarm/agent/task"
	"github.com/meshswarm/meshswarm/raft/state"
)

// Labels on what this node owns in its engine.
const (
	LabelSwarm = "meshswarm.swarm"
	LabelNode  = "meshswarm.node"
	// LabelTask is on both containers of a task, LabelSandbox on the sandbox only. Both hold the task's ID.
	LabelTask    = "meshswarm.task"
	LabelSandbox = "meshswarm.sandbox"
)

const (
	callTimeout = 30 * time.Second
	defaultMTU  = 1420
	sandboxDir  = "sandboxes"
)

// Network connects tasks to each other and to the world.
type Network interface {
	// Attach connects the sandbox's devices and DNS sockets. It takes ownership of the files, also when it returns an
	// error. It replaces an earlier attachment of the task.
	Attach(ctx context.Context, t state.AssignedTask, h *sandbox.Handover) error
	// Detach disconnects a task. A task that is not attached is no error.
	Detach(taskID string)
}

// Config is what an Executor needs.
type Config struct {
	// Client speaks to the engine; let it negotiate its version.
	Client                    *client.Client
	NodeID, SwarmID, Hostname string
	// Dir is the node's data folder. Sandboxes share the folder Dir/sandboxes/TASKID with the agent.
	Dir string
	// Binary is the node's own static executable, which becomes the sandbox image; /proc/self/exe when empty.
	Binary string
	// Networks finds a network of the assignment by its ID.
	Networks func(id string) (state.AssignedNetwork, bool)
	// MTU of devices in networks that have none of their own, 1420 when zero.
	MTU     int
	Network Network
	// Kind of all devices: empty for TUN where it works and packet sockets elsewhere. With KindPacket, /dev/net/tun is not
	// passed to sandboxes.
	Kind sandbox.Kind
	// SandboxTimeout is how long a sandbox that runs may keep silent before its task fails; 30 s when zero.
	SandboxTimeout time.Duration
	// RegistryAuth returns the X-Registry-Auth header for pulling an image, empty for none. Optional.
	RegistryAuth func(image string) string
	Logger       *slog.Logger
	Registry     prometheus.Registerer
}

// Executor runs tasks on one engine.
type Executor struct {
	cfg   Config
	api   *client.Client
	log   *slog.Logger
	image sandboxImage
	pulls *prometheus.CounterVec

	mu       sync.Mutex
	watchers map[string]map[chan struct{}]struct{} // by task ID
	info     *system.Info                          // nil until asked for, and again after the engine was away
}

var _ task.Executor = (*Executor)(nil)

// New checks the configuration.
func New(cfg Config) (*Executor, error) {
	switch {
	case cfg.Client == nil:
		return nil, errors.New("docker executor: no client")
	case cfg.NodeID == "" || cfg.SwarmID == "":
		return nil, errors.New("docker executor: no node or swarm ID")
	case cfg.Dir == "" || !filepath.IsAbs(cfg.Dir):
		return nil, errors.New("docker executor: the data folder must be an absolute path")
	case cfg.Network == nil || cfg.Networks == nil:
		return nil, errors.New("docker executor: no network")
	}
	if cfg.MTU == 0 {
		cfg.MTU = defaultMTU
	}
	if cfg.SandboxTimeout == 0 {
		cfg.SandboxTimeout = defaultSandboxTimeout
	}
	if cfg.Binary == "" {
		cfg.Binary = "/proc/self/exe"
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	e := &Executor{
		cfg: cfg, api: cfg.Client, log: cfg.Logger.With("component", "docker"),
		image: sandboxImage{path: cfg.Binary}, watchers: map[string]map[chan struct{}]struct{}{},
		pulls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "meshswarm_docker_pulls_total", Help: "Images pulled, by result.",
		}, []string{"result"}),
	}
	if cfg.Registry != nil {
		if err := cfg.Registry.Register(e.pulls); err != nil {
			return nil, err
		}
	}
	return e, nil
}

// Controller implements task.Executor.
func (e *Executor) Controller(t state.AssignedTask) (task.Controller, error) {
	if err := checkSpec(t); err != nil {
		return nil, err
	}
	return &controller{
		e: e, id: t.Task.ID, task: t, name: t.Task.Name(),
		log: e.log.With("task", t.Task.ID, "service", t.Task.ServiceName, "slot", t.Task.Slot),
	}, nil
}

// Describe implements task.Executor.
func (e *Executor) Describe(ctx context.Context) (swarm.NodeDescription, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	info, err := e.api.Info(ctx)
	if err != nil {
		return swarm.NodeDescription{}, wrap("ask the engine about itself", err)
	}
	e.setInfo(&info)
	d := swarm.NodeDescription{
		Hostname:  e.cfg.Hostname,
		Platform:  swarm.Platform{Architecture: info.Architecture, OS: info.OSType},
		Resources: swarm.Resources{NanoCPUs: int64(info.NCPU) * 1e9, MemoryBytes: info.MemTotal},
		Engine:    swarm.EngineDescription{EngineVersion: info.ServerVersion, Labels: map[string]string{}},
	}
	if d.Hostname == "" {
		d.Hostname = info.Name
	}
	for _, l := range info.Labels {
		k, v, _ := strings.Cut(l, "=")
		d.Engine.Labels[k] = v
	}
	d.Resources.GenericResources = info.GenericResources
	d.Engine.Plugins = e.plugins(ctx, info)
	return d, nil
}

// Leftovers implements task.Executor.
func (e *Executor) Leftovers(ctx context.Context) ([]string, error) {
	list, err := e.list(ctx, "")
	if err != nil {
		return nil, err
	}
	found := map[string]bool{}
	for _, c := range list {
		found[c.Labels[LabelTask]] = true
	}
	entries, err := os.ReadDir(filepath.Join(e.cfg.Dir, sandboxDir))
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	for _, entry := range entries {
		found[entry.Name()] = true
	}
	var ids []string
	for id := range found {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids, nil
}

// Remove implements task.Executor.
func (e *Executor) Remove(ctx context.Context, taskID string) error {
	e.cfg.Network.Detach(taskID)
	list, err := e.list(ctx, taskID)
	if err != nil {
		return err
	}
	// The task's container first: it lives in the sandbox's namespace.
	slices.SortFunc(list, func(a, b container.Summary) int { return cmp.Compare(a.Labels[LabelSandbox], b.Labels[LabelSandbox]) })
	for _, c := range list {
		if err := e.removeContainer(ctx, c.ID); err != nil {
			return err
		}
	}
	return e.removeDir(taskID)
}

// list finds containers of this node, of one task or (with "") of all.
func (e *Executor) list(ctx context.Context, taskID string) ([]container.Summary, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	f := e.mine()
	f.Add("label", LabelTask)
	if taskID != "" {
		f.Add("label", LabelTask+"="+taskID)
	}
	list, err := e.api.ContainerList(ctx, container.ListOptions{All: true, Filters: f})
	return list, wrap("list containers", err)
}

// mine is the filter for what this node owns.
func (e *Executor) mine() filters.Args {
	return filters.NewArgs(filters.Arg("label", LabelSwarm+"="+e.cfg.SwarmID), filters.Arg("label", LabelNode+"="+e.cfg.NodeID))
}

// owns tells whether a container with these labels is this node's and of the task.
func (e *Executor) owns(labels map[string]string, taskID string) bool {
	return labels[LabelSwarm] == e.cfg.SwarmID && labels[LabelNode] == e.cfg.NodeID && labels[LabelTask] == taskID
}

func (e *Executor) dir(taskID string) string {
	return filepath.Join(e.cfg.Dir, sandboxDir, taskID)
}

func (e *Executor) setInfo(info *system.Info) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.info = info
}

// engine tells what the engine can do. It asks once per connection.
func (e *Executor) engine(ctx context.Context) (system.Info, error) {
	e.mu.Lock()
	known := e.info
	e.mu.Unlock()
	if known != nil {
		return *known, nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	info, err := e.api.Info(ctx)
	if err != nil {
		return system.Info{}, wrap("ask the engine about itself", err)
	}
	e.setInfo(&info)
	return info, nil
}
