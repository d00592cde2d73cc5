package swarmkitbench

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/docker/docker/api/types/swarm"
	"github.com/moby/swarmkit/v2/api"
	"github.com/moby/swarmkit/v2/identity"
	swarmkitscheduler "github.com/moby/swarmkit/v2/manager/scheduler"
	swarmkitstate "github.com/moby/swarmkit/v2/manager/state"
	"github.com/moby/swarmkit/v2/manager/state/store"

	"github.com/meshswarm/meshswarm/raft/rafttest"
	"github.com/meshswarm/meshswarm/raft/state"
	"github.com/meshswarm/meshswarm/sched"
)

var (
	long  = flag.Bool("long", false, "also the runs of swarmkit that take minutes")
	huge  = flag.Bool("huge", false, "also a million tasks")
	coded = flag.Bool("coded", false, "ours with batches encoded and decoded as for a raft log, which swarmkit's are not here")
)

// load is a cluster with tasks that wait for a node.
type load struct {
	nodes, tasks int
	// alone: each task is of another service, so that nothing is shared between tasks. This is what swarmkit's own
	// benchmark does. Otherwise all are of one service.
	alone bool
	// constrained: a placement constraint that every third node satisfies.
	constrained bool
}

func (l load) String() string {
	s := fmt.Sprintf("%dx%d", l.nodes, l.tasks)
	if l.constrained {
		s += "-constrained"
	}
	if l.alone {
		return s + "-alone"
	}
	return s + "-service"
}

var loads = []load{
	{nodes: 1000, tasks: 1000},
	{nodes: 1000, tasks: 10_000},
	{nodes: 1000, tasks: 100_000},
	{nodes: 5000, tasks: 100_000, constrained: true},
	{nodes: 10_000, tasks: 1_000_000},
	{nodes: 1000, tasks: 1000, alone: true},
	{nodes: 1000, tasks: 10_000, alone: true},
	{nodes: 1000, tasks: 100_000, alone: true},
	{nodes: 5000, tasks: 100_000, alone: true, constrained: true},
}

// BenchmarkSwarmkit is the time from when the tasks are in swarmkit's store until all are assigned there.
func BenchmarkSwarmkit(b *testing.B) {
	for _, l := range loads {
		b.Run(l.String(), func(b *testing.B) {
			if l.alone && l.nodes*l.tasks > 50_000_000 && !*long || l.tasks > 200_000 && !*huge {
				b.Skip("takes long: -long, -huge")
			}
			m := &meter{B: b}
			for range b.N {
				b.StopTimer()
				l.swarmkit(m)
			}
			m.report(l)
		})
	}
}

// BenchmarkMeshswarm is the time from when the tasks are in our store, with the leader beginning to read it, until all
// are assigned there.
func BenchmarkMeshswarm(b *testing.B) {
	for _, l := range loads {
		b.Run(l.String(), func(b *testing.B) {
			if l.tasks > 200_000 && !*huge {
				b.Skip("takes long: -huge")
			}
			m := &meter{B: b}
			for range b.N {
				b.StopTimer()
				l.meshswarm(m)
			}
			m.report(l)
		})
	}
}

// meter measures processor time besides wall time: it does not depend on what else the machine does.
type meter struct {
	*testing.B
	from, cpu time.Duration
}

func (m *meter) start() {
	runtime.GC() // what it took to load is not part of it
	m.from = cpuTime()
	m.StartTimer()
}

func (m *meter) stop() {
	m.StopTimer()
	m.cpu += cpuTime() - m.from
}

func (m *meter) report(l load) {
	m.ReportMetric(float64(m.Elapsed().Nanoseconds())/1000/float64(m.N*l.tasks), "µs/task")
	m.ReportMetric(float64(m.cpu.Nanoseconds())/1000/float64(m.N*l.tasks), "cpu-µs/task")
}

// cpuTime is what this process has used of all processors.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// swarmkit follows swarmkit's own benchmark (manager/scheduler, benchScheduler).
func (l load) swarmkit(b *meter) {
	s := store.NewMemoryStore(nil)
	defer s.Close()
	scheduler := swarmkitscheduler.New(s)
	watch, cancel := swarmkitstate.Watch(s.WatchQueue(), api.EventUpdateTask{})
	defer cancel()
	go func() { _ = scheduler.Run(context.Background()) }()
	defer scheduler.Stop()
	err := s.Update(func(tx store.Tx) error {
		for i := range l.nodes {
			n := &api.Node{
				ID:          identity.NewID(),
				Spec:        api.NodeSpec{Annotations: api.Annotations{Name: fmt.Sprint("node", i), Labels: map[string]string{"zone": fmt.Sprint("z", i%3)}}},
				Status:      api.NodeStatus{State: api.NodeStatus_READY},
				Description: &api.NodeDescription{Engine: &api.EngineDescription{}},
			}
			if err := store.CreateNode(tx, n); err != nil {
				return err
			}
		}
		for i := range l.tasks {
			t := &api.Task{
				ID: fmt.Sprint("task", i), ServiceID: "service", SpecVersion: &api.Version{Index: 1}, DesiredState: api.TaskStateRunning,
				Status: api.TaskStatus{State: api.TaskStatePending},
			}
			if l.alone {
				t.ServiceID = fmt.Sprint("service", i)
			}
			if l.constrained {
				t.Spec.Placement = &api.Placement{Constraints: []string{"node.labels.zone==z0"}}
			}
			if err := store.CreateTask(tx, t); err != nil {
				return err
			}
		}
		b.start()
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	for range l.tasks {
		<-watch
	}
	b.stop()
}

// meshswarm does the same with our leader.
func (l load) meshswarm(b *meter) {
	s := state.New()
	ops := []state.Op{create(&state.Cluster{ID: "swarm"})}
	for i := range l.nodes {
		n := &state.Node{ID: state.NewID(), Status: swarm.NodeStatus{State: swarm.NodeStateReady}}
		n.Spec.Labels = map[string]string{"zone": fmt.Sprint("z", i%3)}
		ops = append(ops, create(n))
	}
	service := func(id string, replicas uint64) {
		spec := swarm.ServiceSpec{Annotations: swarm.Annotations{Name: id}, Mode: swarm.ServiceMode{Replicated: &swarm.ReplicatedService{Replicas: &replicas}}}
		if l.constrained {
			spec.TaskTemplate.Placement = &swarm.Placement{Constraints: []string{"node.labels.zone==z0"}}
		}
		ops = append(ops, create(&state.Service{
			ID: id, Spec: spec, SpecVersion: 1, Endpoint: swarm.Endpoint{Spec: swarm.EndpointSpec{Mode: swarm.ResolutionModeVIP}}, // allocated already
		}), create(&state.Revision{ServiceID: id, SpecVersion: 1, Spec: spec.TaskTemplate}))
	}
	if !l.alone {
		service("service", uint64(l.tasks))
	}
	for i := range l.tasks {
		t := &state.Task{
			ID: fmt.Sprint("task", i), ServiceID: "service", SpecVersion: 1, Slot: i + 1, DesiredState: swarm.TaskStateRunning,
			Status: swarm.TaskStatus{State: swarm.TaskStatePending},
		}
		if l.alone {
			t.ServiceID, t.Slot = fmt.Sprint("service", i), 1
			service(t.ServiceID, 1)
		}
		ops = append(ops, create(t))
	}
	if err := s.Apply(1, state.Batch{Ops: ops, Time: time.Now()}); err != nil {
		b.Fatal(err)
	}
	p := &proposer{store: s, coded: rafttest.NewProposer(s), wait: l.tasks, done: make(chan struct{})}
	leader, err := sched.New(sched.Config{Store: s, Proposer: p, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	b.start()
	go func() { ended <- leader.Run(ctx) }()
	select {
	case <-p.done:
	case err := <-ended:
		b.Fatalf("leader ended: %v", err)
	}
	b.stop()
	cancel()
	<-ended
}

func create(o state.Object) state.Op { return state.Op{Action: state.Create, Object: o} }

// proposer applies batches to the store as swarmkit's store without a raft does: in memory, as they are. It counts the
// tasks that got a node.
type proposer struct {
	store *state.Store
	coded *rafttest.Proposer
	mu    sync.Mutex
	wait  int
	done  chan struct{}
}

// Propose implements sched.Proposer.
func (p *proposer) Propose(ctx context.Context, batch state.Batch) (uint64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var index uint64
	var err error
	if *coded {
		index, err = p.coded.Propose(ctx, batch)
	} else {
		index = p.store.Index() + 1
		err = p.store.Apply(index, batch)
	}
	if err != nil {
		return index, err
	}
	for _, op := range batch.Ops {
		if t, ok := op.Object.(*state.Task); ok && t.NodeID != "" {
			p.wait--
		}
	}
	if p.wait == 0 {
		close(p.done)
		p.wait = -1
	}
	return index, nil
}
