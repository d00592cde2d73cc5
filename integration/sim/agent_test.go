package sim

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"time"

	"github.com/docker/docker/api/types/swarm"
	"golang.org/x/sync/errgroup"

	"github.com/meshswarm/meshswarm/agent/dispatch"
	"github.com/meshswarm/meshswarm/agent/rpc"
	"github.com/meshswarm/meshswarm/agent/task"
	"github.com/meshswarm/meshswarm/raft/state"
	"github.com/meshswarm/meshswarm/sched"
	"github.com/meshswarm/meshswarm/secrets"
)

// Resources of a simulated node.
const (
	nodeCPUs   = 64e9
	nodeMemory = 256 << 30
)

// agent is a simulated node: a real session client and a real worker over a simulated engine.
type agent struct {
	id       string
	identity *secrets.Identity
	managers []string // control addresses, in the order in which this node tries them
	engine   *engine
	line     *line
	facts    dispatch.Facts
	witness  bool // keeps all it is told
	slack    time.Duration

	stop func() error // of the present life; nil while there is none

	mu        sync.Mutex
	client    *dispatch.Client
	worker    *task.Worker
	connected string // the manager that it has a session with
	told      state.Assignments
	heard     int // assignments heard of
}

// agentID is the ID of node number i.
func agentID(i int) string { return fmt.Sprintf("node%05d", i) }

func newAgent(i int, identity *secrets.Identity, managers []string, w *world, down *downlink, witness bool, slack time.Duration) *agent {
	a := &agent{id: agentID(i), identity: identity, engine: newEngine(w), line: newLine(i, down), witness: witness, slack: slack}
	for k := range managers {
		a.managers = append(a.managers, managers[(i+k)%len(managers)])
	}
	var key [32]byte
	_, _ = rand.Read(key[:])
	a.facts = dispatch.Facts{
		Description: swarm.NodeDescription{
			Hostname: a.id, Platform: swarm.Platform{OS: "linux", Architecture: "x86_64"},
			Resources: swarm.Resources{NanoCPUs: nodeCPUs, MemoryBytes: nodeMemory},
			Engine:    swarm.EngineDescription{EngineVersion: "simulated"},
		},
		MeshKey: base64.StdEncoding.EncodeToString(key[:]), MinPort: 1024,
		Endpoint: netip.AddrPortFrom(netip.IPv4Unspecified(), 51820),
	}
	return a
}

// start begins a life of the node's agent.
func (a *agent) start() error {
	conn, err := rpc.NewClient(rpc.ClientConfig{Identity: func() *secrets.Identity { return a.identity }, Dial: a.line.dial})
	if err != nil {
		return err
	}
	client, err := dispatch.NewClient(dispatch.ClientConfig{
		RPC: conn, Managers: func() []string { return a.managers }, Facts: func() dispatch.Facts { return a.facts },
		Handler: a, Patch: a.patch, Connected: a.noteConnected,
		Period: a.slack * dispatch.DefaultPeriod, Timeout: a.slack * dispatch.DefaultTimeout,
	})
	if err != nil {
		return err
	}
	// Every stop waits until all nodes know of it, as in the product.
	drain := func(ctx context.Context, t state.AssignedTask) error { return client.Known(ctx, t.Task.Modified) }
	worker, err := task.NewWorker(task.Config{Executor: a.engine, Report: client.Report, Drain: drain})
	if err != nil {
		return err
	}
	a.mu.Lock()
	a.client, a.worker = client, worker
	a.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return client.Run(ctx) })
	g.Go(func() error { return worker.Run(ctx) })
	a.stop = func() error {
		a.stop = nil
		cancel()
		err := g.Wait()
		a.line.hangUp()
		return err
	}
	return nil
}

// crash is a power cut.
func (a *agent) crash() error {
	err := a.stop()
	a.engine.crash()
	return err
}

// patch is sched.Patch for witnesses. The others keep their tasks only: what a thousand nodes know about each other's tasks
// would not fit into one machine.
func (a *agent) patch(old state.Assignments, d state.Delta) state.Assignments {
	if !a.witness {
		d.Set = state.Assignments{Tasks: d.Set.Tasks}
		d.Remove = state.Removals{Tasks: d.Remove.Tasks}
	}
	return sched.Patch(old, d)
}

// Assign implements dispatch.Handler.
func (a *agent) Assign(as state.Assignments, inForce func()) {
	inForce()
	a.mu.Lock()
	a.told = as
	a.heard++
	w := a.worker
	a.mu.Unlock()
	w.Assign(as.Tasks)
}

// Logs implements dispatch.Handler.
func (a *agent) Logs(context.Context, dispatch.LogRequest) (io.ReadCloser, error) {
	return nil, errors.New("simulated tasks say nothing")
}

func (a *agent) noteConnected(addr string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.connected = addr
}

// session is the manager that the node has a session with, "" for none.
func (a *agent) session() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.connected
}

// unreported is the number of statuses that no manager has taken yet.
func (a *agent) unreported() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.client.Unreported()
}

// assignments is what the node was told last.
func (a *agent) assignments() state.Assignments {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.told
}
