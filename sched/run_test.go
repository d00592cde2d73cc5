package sched

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/api/types/swarm"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/meshswarm/meshswarm/raft/rafttest"
	"github.com/meshswarm/meshswarm/raft/state"
	"github.com/meshswarm/meshswarm/sched/schedtest"
)

// live swarm: a Leader that runs, and nodes that report by themselves.
type swarmTest struct {
	t     *testing.T
	store *state.Store
	prop  *rafttest.Proposer
}

func newSwarmTest(t *testing.T) *swarmTest {
	s := state.New()
	l := &swarmTest{t: t, store: s, prop: rafttest.NewProposer(s)}
	l.apply(state.Op{Action: state.Create, Object: &state.Cluster{
		ID: "swarm", DefaultAddrPool: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, SubnetSize: 20, MeshSubnet: netip.MustParsePrefix("100.127.0.0/16"),
	}}, state.Op{Action: state.Create, Object: &state.Network{ID: "front", Spec: swarm.NetworkSpec{Annotations: swarm.Annotations{Name: "front"}}}})
	for i := range 5 {
		n := &state.Node{ID: fmt.Sprintf("n%d", i), Status: swarm.NodeStatus{State: swarm.NodeStateReady}}
		l.apply(state.Op{Action: state.Create, Object: n})
	}
	return l
}

func (l *swarmTest) apply(ops ...state.Op) {
	l.t.Helper()
	if _, err := l.prop.Propose(context.Background(), state.Batch{Ops: ops, Time: time.Now()}); err != nil {
		l.t.Fatal(err)
	}
}

// change retries an update of an object until nobody is faster.
func (l *swarmTest) change(get func(state.View) state.Object, f func(state.Object)) {
	l.t.Helper()
	for {
		is := get(l.store.View())
		if is == nil {
			return
		}
		o := is.CloneObject()
		f(o)
		_, err := l.prop.Propose(context.Background(), state.Batch{Time: time.Now(), Ops: []state.Op{{Action: state.Update, Object: o, Expected: is.Head().Modified}}})
		if !errors.Is(err, state.ErrSequence) {
			if err != nil && !errors.Is(err, state.ErrNotFound) {
				l.t.Error(err)
			}
			return
		}
	}
}

// work is one node: it takes its tasks one state further with every commit.
func (l *swarmTest) work(ctx context.Context, node string) {
	_, watch := l.store.ViewAndWatch()
	defer watch.Close()
	for {
		for _, t := range l.store.View().TasksByNode(node) {
			to := swarm.TaskStateRunning
			switch {
			case state.Terminal(t.Status.State):
				continue
			case !live(t):
				to = swarm.TaskStateShutdown
			case t.DesiredState == swarm.TaskStateReady:
				to = swarm.TaskStateReady
			}
			if state.Rank(to) <= state.Rank(t.Status.State) {
				continue
			}
			id := t.ID
			l.change(func(v state.View) state.Object {
				if t := v.Task(id); t != nil {
					return t
				}
				return nil
			}, func(o state.Object) {
				if t := o.(*state.Task); state.Rank(to) > state.Rank(t.Status.State) {
					t.Status.State, t.Status.Message = to, string(to)
				}
			})
		}
		if _, err := watch.Next(ctx); err != nil {
			return
		}
	}
}

// eventually polls until f finds nothing wrong.
func (l *swarmTest) eventually(f func(v state.View) string) {
	l.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		why := f(l.store.View())
		if why == "" {
			return
		}
		if time.Now().After(deadline) {
			l.t.Fatal(why)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		_ = l.store.WaitIndex(ctx, l.store.Index()+1)
		cancel()
	}
}

func (l *swarmTest) running(version uint64, want int) {
	l.t.Helper()
	l.eventually(func(v state.View) string {
		n := 0
		for _, t := range v.TasksByService("web") {
			if live(t) && t.Status.State == swarm.TaskStateRunning && t.SpecVersion == version {
				n++
			}
		}
		if n != want {
			return fmt.Sprintf("%d tasks of version %d run, want %d", n, version, want)
		}
		return ""
	})
}

func webSpec(replicas uint64, image string) swarm.ServiceSpec {
	delay := time.Duration(0)
	return swarm.ServiceSpec{
		Annotations: swarm.Annotations{Name: "web"},
		TaskTemplate: swarm.TaskSpec{
			ContainerSpec: &swarm.ContainerSpec{Image: image}, Networks: []swarm.NetworkAttachmentConfig{{Target: "front"}},
			RestartPolicy: &swarm.RestartPolicy{Delay: &delay},
		},
		Mode:         swarm.ServiceMode{Replicated: &swarm.ReplicatedService{Replicas: &replicas}},
		UpdateConfig: &swarm.UpdateConfig{Parallelism: 20, Monitor: time.Millisecond},
	}
}

// TestRun has a leader and five nodes work at once, through scaling, an update, a dead node and a change of leader.
func TestRun(t *testing.T) {
	l := newSwarmTest(t)
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	for i := range 5 {
		all.Go(func() { l.work(ctx, fmt.Sprintf("n%d", i)) })
	}
	registry := prometheus.NewRegistry()
	lead := func() (stop func()) {
		leader, err := New(Config{Store: l.store, Proposer: l.prop, Registry: registry})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() { done <- leader.Run(ctx) }()
		return func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Run: %v", err)
			}
		}
	}
	stop := lead()
	spec := webSpec(300, "app:1")
	l.apply(state.Op{Action: state.Create, Object: &state.Service{ID: "web", SpecVersion: 1, Spec: spec}},
		state.Op{Action: state.Create, Object: &state.Revision{ServiceID: "web", SpecVersion: 1, Spec: spec.TaskTemplate}})
	l.running(1, 300)
	service := func(v state.View) state.Object { return v.Service("web") }
	l.apply(state.Op{Action: state.Create, Object: &state.Revision{ServiceID: "web", SpecVersion: 2, Spec: webSpec(0, "app:2").TaskTemplate}})
	l.change(service, func(o state.Object) {
		s := o.(*state.Service)
		s.Spec, s.SpecVersion = webSpec(200, "app:2"), 2
	})
	l.change(func(v state.View) state.Object { return v.Node("n3") }, func(o state.Object) {
		n := o.(*state.Node)
		n.Status.State, n.Down = swarm.NodeStateDown, time.Now()
	})
	l.eventually(func(v state.View) string {
		if n := len(v.TasksByService("web")); n == 0 || v.Service("web").UpdateStatus == nil {
			return "the update does not begin"
		}
		return ""
	})
	stop()
	stop = lead()
	l.running(2, 200)
	for _, task := range l.store.View().TasksByNode("n3") {
		if live(task) {
			t.Errorf("task %s is left on the dead node", task.ID)
		}
	}
	l.eventually(func(v state.View) string {
		if u := v.Service("web").UpdateStatus; u.State != swarm.UpdateStateCompleted {
			return fmt.Sprintf("update: %+v", u)
		}
		return ""
	})
	l.apply(state.Op{Action: state.Delete, Object: l.store.View().Node("n3")})
	l.change(service, func(o state.Object) { o.(*state.Service).PendingDelete = true })
	l.eventually(func(v state.View) string {
		if n := len(v.Tasks()); n > 0 || v.Service("web") != nil {
			return fmt.Sprintf("%d tasks left", n)
		}
		return ""
	})
	stop()
}

// TestRunEnds: an error of the store ends the term with that error; an end of the term is none.
func TestRunEnds(t *testing.T) {
	l := newSwarmTest(t)
	lost := errors.New("leadership lost")
	l.prop.Fail(lost)
	leader, err := New(Config{Store: l.store, Proposer: l.prop})
	if err != nil {
		t.Fatal(err)
	}
	if err := leader.Run(t.Context()); !errors.Is(err, lost) {
		t.Errorf("Run: %v, want %v", err, lost)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := leader.Run(ctx); err != nil {
		t.Errorf("Run after the end of the term: %v", err)
	}
	if _, err := New(Config{}); err == nil {
		t.Error("New takes a Config without anything")
	}
}

// TestRunLagged: a leader whose watch ends reads the store anew.
func TestRunLagged(t *testing.T) {
	l := newSwarmTest(t)
	leader, err := New(Config{Store: l.store, Proposer: l.prop, Clock: schedtest.NewClock(epoch)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- leader.Run(ctx) }()
	allocated := func(v state.View) string {
		for _, n := range v.Networks() {
			if n.IPAM == nil {
				return "no subnet for " + n.ID
			}
		}
		return ""
	}
	l.eventually(allocated)
	var snapshot bytes.Buffer
	if err := l.store.View().Snapshot(&snapshot); err != nil {
		t.Fatal(err)
	}
	if err := l.store.Restore(&snapshot); err != nil {
		t.Fatal(err)
	}
	l.apply(state.Op{Action: state.Create, Object: &state.Network{ID: "late", Spec: swarm.NetworkSpec{Annotations: swarm.Annotations{Name: "late"}}}})
	l.eventually(allocated)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
