package sim

import (
	"errors"
	"fmt"
	"net"
	netrpc "net/rpc"
	"net/rpc/jsonrpc"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/meshswarm/meshswarm/raft/state"
	"github.com/meshswarm/meshswarm/secrets"
	"github.com/meshswarm/meshswarm/secrets/secretstest"
)

// nodesEnv names the socket at which the process with the managers waits for that with the nodes.
const nodesEnv = "MESHSWARM_SIM_NODES"

// TestNodes is the process of the nodes, started by TestControlLoop. It does nothing by itself.
func TestNodes(t *testing.T) {
	path := os.Getenv(nodesEnv)
	if path == "" {
		t.Skip("TestControlLoop runs this in a process of its own")
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	n := &Nodes{t: t, world: newWorld()}
	done := make(chan struct{})
	var sampled sync.WaitGroup
	sampled.Go(func() { n.sampler.run(done) })
	defer sampled.Wait()
	defer close(done)
	server := netrpc.NewServer()
	if err := server.Register(n); err != nil {
		t.Fatal(err)
	}
	server.ServeCodec(jsonrpc.NewServerCodec(conn)) // until the other process closes it, or ends
	if err := n.stop(); err != nil {
		t.Error(err)
	}
}

// Nodes are all simulated nodes. Its exported methods are called by the process with the managers.
type Nodes struct {
	t       *testing.T
	world   *world
	sampler sampler
	down    *downlink

	mu     sync.Mutex
	agents []*agent
}

// Plan says which nodes to make.
type Plan struct {
	Agents, Witnesses, Slack int
	Downlink                 float64 // bytes per second, of all nodes together
	Managers                 []string
	Cert, Key                []byte // of the authority
}

// Make makes the nodes; none lives yet.
func (n *Nodes) Make(p Plan, _ *struct{}) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	authority, err := secrets.ParseAuthority(p.Cert, p.Key)
	if err != nil {
		return err
	}
	n.down = &downlink{rate: p.Downlink}
	every := max(1, p.Agents/max(1, p.Witnesses))
	for i := range p.Agents {
		identity := secretstest.Identity(n.t, authority, agentID(i), secrets.RoleWorker)
		n.agents = append(n.agents, newAgent(i, identity, p.Managers, n.world, n.down, i%every == 0 && p.Witnesses > 0, time.Duration(p.Slack)))
	}
	return nil
}

// Deed is what happens to some nodes.
type Deed struct {
	Kind  string
	Nodes []int // numbers
}

// Kinds of deeds.
const (
	startNodes = "start"
	cutNodes   = "cut"  // their lines fall silent
	healNodes  = "heal" // and are whole again
	crashNodes = "crash"
)

// Do does something to nodes, all at once.
func (n *Nodes) Do(d Deed, _ *struct{}) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	errs := make([]error, len(d.Nodes))
	var all sync.WaitGroup
	for k, i := range d.Nodes {
		all.Go(func() {
			a := n.agents[i]
			switch d.Kind {
			case startNodes:
				errs[k] = a.start()
			case cutNodes:
				a.line.cut()
			case healNodes:
				a.line.heal()
			case crashNodes:
				errs[k] = a.crash()
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// Failure is a fault to inject: every nth slot's operation on tasks of a service fails a number of times.
type Failure struct {
	Op, Service, Text string
	Every, Times      int
}

// Inject makes operations fail.
func (n *Nodes) Inject(f Failure, _ *struct{}) error {
	n.world.inject(f.Op, f.Service, errors.New(f.Text), f.Every, f.Times)
	return nil
}

// StartFirst says that a service's slots may run twice during its update.
func (n *Nodes) StartFirst(service string, _ *struct{}) error {
	n.world.mu.Lock()
	defer n.world.mu.Unlock()
	n.world.startFirst[service] = true
	return nil
}

// Look tells how the nodes are.
func (n *Nodes) Look(_ struct{}, l *Look) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	l.Sessions = map[string]int{}
	for _, a := range n.agents {
		if a.stop == nil {
			continue
		}
		l.Alive++
		l.Sessions[a.session()]++
		l.Unreported += a.unreported()
	}
	l.CPU, l.Received = cpuTime(), n.down.received()
	return nil
}

// Look is how the nodes are.
type Look struct {
	Alive      int
	Sessions   map[string]int // by manager; "" for nodes without one
	Unreported int
	CPU        float64
	Received   int64 // bytes
}

// Truth tells what runs, and what went wrong on the machines.
func (n *Nodes) Truth(_ struct{}, t *Truth) error {
	t.Running = n.world.tasks()
	t.Complaints, t.More = n.world.all()
	t.More -= len(t.Complaints)
	n.world.mu.Lock()
	defer n.world.mu.Unlock()
	t.Overlaps = append(t.Overlaps, n.world.overlaps...)
	t.Memory = n.sampler.read()
	return nil
}

// Truth is what the machines say.
type Truth struct {
	Running    map[string]string // node by task
	Complaints []string
	More       int
	Overlaps   []overlap
	Memory     processMemory
}

// Told tells what the witnesses were told last, by node.
func (n *Nodes) Told(_ struct{}, told *map[string]state.Assignments) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	*told = map[string]state.Assignments{}
	for _, a := range n.agents {
		if a.witness {
			(*told)[a.id] = a.assignments()
		}
	}
	return nil
}

// stop ends all lives.
func (n *Nodes) stop() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var errs []error
	for _, a := range n.agents {
		if a.stop != nil {
			if err := a.stop(); err != nil {
				errs = append(errs, fmt.Errorf("%s ended with: %w", a.id, err))
			}
		}
	}
	return errors.Join(errs...)
}
