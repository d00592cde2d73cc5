package dispatch

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

func TestAccept(t *testing.T) {
	at := time.Now()
	status := func(s swarm.TaskState, ms int, message string) swarm.TaskStatus {
		return swarm.TaskStatus{State: s, Timestamp: at.Add(time.Duration(ms) * time.Millisecond), Message: message}
	}
	tests := []struct {
		name   string
		stored swarm.TaskStatus
		node   string
		says   swarm.TaskStatus
		want   verdict
	}{
		{"grows", status(swarm.TaskStateAssigned, 0, ""), "n1", status(swarm.TaskStateRunning, 1, ""), verdictNews},
		{"grows with a clock that went back", status(swarm.TaskStateAssigned, 0, ""), "n1", status(swarm.TaskStateRunning, -1, ""), verdictNews},
		{"shrinks", status(swarm.TaskStateRunning, 0, ""), "n1", status(swarm.TaskStateStarting, 1, ""), verdictStale},
		{"same", status(swarm.TaskStateRunning, 0, "x"), "n1", status(swarm.TaskStateRunning, 5, "x"), verdictStale},
		{"same state, new message", status(swarm.TaskStatePreparing, 0, "x"), "n1", status(swarm.TaskStatePreparing, 5, "y"), verdictNews},
		{"same state, old message", status(swarm.TaskStatePreparing, 0, "x"), "n1", status(swarm.TaskStatePreparing, -5, "y"), verdictStale},
		{"foreign", status(swarm.TaskStateRunning, 0, ""), "n2", status(swarm.TaskStateFailed, 1, ""), verdictForeign},
		{"not assigned yet", status(swarm.TaskStatePending, 0, ""), "", status(swarm.TaskStateFailed, 1, ""), verdictForeign},
		{"ended", status(swarm.TaskStateComplete, 0, ""), "n1", status(swarm.TaskStateFailed, 1, ""), verdictStale},
		{"orphaned", status(swarm.TaskStateOrphaned, 0, ""), "n1", status(swarm.TaskStateRunning, 1, ""), verdictStale},
		{"leader's state", status(swarm.TaskStateRunning, 0, ""), "n1", status(swarm.TaskStateOrphaned, 1, ""), verdictInvalid},
		{"unknown state", status(swarm.TaskStateRunning, 0, ""), "n1", status("flying", 1, ""), verdictInvalid},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			task := &state.Task{ID: "t1", NodeID: "n1", Status: tt.stored}
			next, got := accept(task, tt.node, tt.says)
			if got != tt.want {
				t.Fatalf("%s, want %s", got, tt.want)
			}
			if got == verdictNews && (next == task || next.Status.State != tt.says.State) {
				t.Errorf("stored %+v", next)
			}
		})
	}
	if _, got := accept(nil, "n1", swarm.TaskStatus{}); got != verdictGone {
		t.Errorf("no task: %s", got)
	}
	long := status(swarm.TaskStateFailed, 1, longText(1<<20))
	long.Err = strings.Repeat("é", 1<<20)
	long.ContainerStatus = &swarm.ContainerStatus{ContainerID: longText(1 << 20)}
	next, _ := accept(&state.Task{NodeID: "n1"}, "n1", long)
	if n := len(next.Status.Message) + len(next.Status.Err) + len(next.Status.ContainerStatus.ContainerID); n > 5<<10 {
		t.Errorf("%d bytes of text are stored", n)
	}
}

func TestOutbox(t *testing.T) {
	o := newOutbox()
	running := swarm.TaskStatus{State: swarm.TaskStateRunning}
	o.put("a", swarm.TaskStatus{State: swarm.TaskStateStarting})
	o.put("a", running)
	o.put("a", swarm.TaskStatus{State: swarm.TaskStatePreparing}) // less: dropped
	o.put("b", running)
	n, got := o.take()
	if n != 1 || len(got) != 2 || got[0].TaskID != "a" || got[0].Status.State != swarm.TaskStateRunning {
		t.Fatalf("batch %d: %+v", n, got)
	}
	if _, more := o.take(); more != nil {
		t.Error("a second batch before the answer to the first")
	}
	o.put("a", swarm.TaskStatus{State: swarm.TaskStateFailed})
	o.ack(7) // not ours
	o.ack(1)
	if o.size() != 1 {
		t.Errorf("%d statuses left", o.size())
	}
	if n, got = o.take(); n != 2 || len(got) != 1 || got[0].Status.State != swarm.TaskStateFailed {
		t.Errorf("batch %d: %+v", n, got)
	}
	o.reset() // the session broke: again
	if n, got = o.take(); n != 3 || len(got) != 1 {
		t.Errorf("batch %d: %+v", n, got)
	}
	o.ack(2) // of the broken session
	o.ack(3)
	if o.size() != 0 {
		t.Errorf("%d statuses left", o.size())
	}
	for range 3 * maxOps {
		o.put(state.NewID(), swarm.TaskStatus{State: swarm.TaskStateFailed, Err: longText(10 << 10)})
	}
	if _, got = o.take(); len(got) > maxOps || len(got) == 0 {
		t.Errorf("batch of %d", len(got))
	}
}

// Statuses survive a proposal that has to be decided again, and a term that ends before they are stored.
func TestStatusesSurvive(t *testing.T) {
	f := newSwarm(t)
	m := f.startManager("m1").lead()
	n := f.startNode("n1", m)
	f.becomes("n1", swarm.NodeStateReady)
	f.addTask("t1", "n1", swarm.TaskStateAssigned)
	m.stopTerm()
	n.client.Report("t1", swarm.TaskStatus{State: swarm.TaskStateRunning})
	eventually(t, "no session", func() bool { return m.dispatcher.sessionCount() == 0 })
	if n.client.Unreported() != 1 {
		t.Error("status was forgotten")
	}
	m.lead()
	eventually(t, "running", func() bool { return f.store.View().Task("t1").Status.State == swarm.TaskStateRunning })
	eventually(t, "acknowledged", func() bool { return n.client.Unreported() == 0 })
}

func TestManyStatuses(t *testing.T) {
	f := newSwarm(t)
	m := f.startManager("m1").lead()
	const nodes, tasks = 3, maxOps + 50
	var ns []*node
	for i := range nodes {
		id := string(rune('a' + i))
		for j := range tasks {
			f.addTask(id+state.NewID()[:10]+string(rune('a'+j%26)), id, swarm.TaskStateAssigned)
		}
		ns = append(ns, f.startNode(id, m))
	}
	for i, n := range ns {
		id := string(rune('a' + i))
		for _, task := range f.store.View().TasksByNode(id) {
			n.client.Report(task.ID, swarm.TaskStatus{State: swarm.TaskStateRunning})
		}
	}
	before := f.store.Index()
	eventually(t, "all running", func() bool {
		for _, task := range f.store.View().Tasks() {
			if task.Status.State != swarm.TaskStateRunning {
				return false
			}
		}
		return true
	})
	if n := f.store.Index() - before; n > 50 {
		t.Errorf("%d proposals for %d statuses", n, nodes*tasks)
	}
}

// What the store refuses for good ends the term: leadership without a store makes no sense.
func TestProposerFailureEndsTerm(t *testing.T) {
	f := newSwarm(t)
	f.addNode("n1", swarm.NodeRoleWorker)
	change(f, f.store.View().Node("n1"), func(n *state.Node) { n.Status.State = swarm.NodeStateReady })
	lost := errors.New("no quorum")
	clk := newClock()
	d, err := New(Config{Store: f.store, Proposer: f.proposer, Leader: func() string { return "" }, Clock: clk})
	if err != nil {
		t.Fatal(err)
	}
	f.proposer.Fail(lost)
	done := make(chan error, 1)
	go func() { done <- d.Run(t.Context()) }()
	eventually(t, "ends", func() bool {
		clk.step(time.Second)
		select {
		case err := <-done:
			if !errors.Is(err, lost) {
				t.Errorf("ended with %v", err)
			}
			return true
		default:
			return false
		}
	})
}
