package dispatch

import (
	"encoding/base64"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/agent/rpc"
	"github.com/meshswarm/meshswarm/raft/state"
	"github.com/meshswarm/meshswarm/sched"
	"github.com/meshswarm/meshswarm/secrets"
	"github.com/meshswarm/meshswarm/secrets/secretstest"
)

func TestSessionFlow(t *testing.T) {
	f := newSwarm(t)
	m := f.startManager("m1").lead()
	n := f.startNode("n1", m)
	f.becomes("n1", swarm.NodeStateReady)
	stored := f.store.View().Node("n1")
	if stored.Description.Hostname != "host-n1" || stored.Status.Addr != "127.0.0.1" || stored.MinPort != 1024 || stored.CertExpiry.IsZero() {
		t.Errorf("stored %+v", stored)
	}
	eventually(t, "full assignments", func() bool { return n.has() })

	// Deltas.
	f.addTask("t1", "n1", swarm.TaskStateAssigned)
	f.addTask("t2", "n1", swarm.TaskStateAssigned)
	f.addTask("t3", "n2", swarm.TaskStateAssigned)
	eventually(t, "two tasks", func() bool { return n.has("t1", "t2") })
	task := f.store.View().Task("t1")
	f.propose(state.Op{Action: state.Delete, Object: task})
	eventually(t, "one task", func() bool { return n.has("t2") })

	// Status up.
	n.client.Report("t2", swarm.TaskStatus{State: swarm.TaskStatePreparing, Message: "preparing"})
	n.client.Report("t2", swarm.TaskStatus{
		Timestamp: time.Now(), State: swarm.TaskStateRunning, Message: "started",
		ContainerStatus: &swarm.ContainerStatus{ContainerID: "abc", PID: 7},
	})
	eventually(t, "running", func() bool { return f.store.View().Task("t2").Status.State == swarm.TaskStateRunning })
	if got := f.store.View().Task("t2"); got.Status.ContainerStatus == nil || got.Status.ContainerStatus.ContainerID != "abc" || got.AppliedAt.IsZero() {
		t.Errorf("stored %+v", got.Status)
	}
	eventually(t, "acknowledged", func() bool { return n.client.Unreported() == 0 })
	since := f.store.View().Task("t2").RunningAt
	if since.IsZero() {
		t.Error("not stored since when the task runs")
	}
	n.client.Report("t2", swarm.TaskStatus{Timestamp: time.Now(), State: swarm.TaskStateRunning, Message: "still"})
	eventually(t, "next status", func() bool { return f.store.View().Task("t2").Status.Message == "still" })
	if got := f.store.View().Task("t2").RunningAt; !got.Equal(since) {
		t.Errorf("runs since %s, then since %s", since, got)
	}

	// A foreign status and a stale one change nothing, and are not kept forever.
	n.client.Report("t3", swarm.TaskStatus{State: swarm.TaskStateFailed})
	n.client.Report("t2", swarm.TaskStatus{State: swarm.TaskStateReady})
	n.client.Report("nonesuch", swarm.TaskStatus{State: swarm.TaskStateFailed})
	eventually(t, "dropped", func() bool { return n.client.Unreported() == 0 })
	v := f.store.View()
	if v.Task("t3").Status.State != swarm.TaskStateAssigned || v.Task("t2").Status.State != swarm.TaskStateRunning {
		t.Errorf("t3 %s, t2 %s", v.Task("t3").Status.State, v.Task("t2").Status.State)
	}

	// The end of a connection does not mark the node down.
	n.stop()
	eventually(t, "no session", func() bool { return m.dispatcher.sessionCount() == 0 })
	if s := f.nodeState("n1"); s != swarm.NodeStateReady {
		t.Errorf("node is %s at once", s)
	}
	f.becomes("n1", swarm.NodeStateDown)
	f.runNode("n1", m)
	f.becomes("n1", swarm.NodeStateReady)
}

// rawSession is a session whose messages the test writes itself.
type rawSession struct {
	t *testing.T
	*rpc.Stream
}

func (m *manager) raw(id string) *rawSession {
	m.t.Helper()
	c := m.rpcClient(secretstest.Identity(m.t, m.authority, id, secrets.RoleWorker))
	s, err := c.Open(m.t.Context(), m.addr, rpc.PathSession)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(s.Close)
	r := &rawSession{m.t, s}
	r.send(upMessage{Facts: &Facts{Description: swarm.NodeDescription{Hostname: id}}})
	r.until("welcome", func(d downMessage) bool { return d.Welcome != nil })
	return r
}

func (r *rawSession) send(m upMessage) {
	r.t.Helper()
	if err := r.Send(m); err != nil {
		r.t.Fatal(err)
	}
}

// until receives until ok.
func (r *rawSession) until(what string, ok func(downMessage) bool) downMessage {
	r.t.Helper()
	for range 1000 {
		var m downMessage
		if err := r.Receive(&m); err != nil {
			r.t.Fatalf("%s: %v", what, err)
		}
		if ok(m) {
			return m
		}
	}
	r.t.Fatalf("%s: did not come", what)
	return downMessage{}
}

// ends reads until the leader ends the session.
func (r *rawSession) ends(what string) {
	r.t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for r.Receive(&downMessage{}) == nil {
		}
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		r.t.Fatalf("%s: session goes on", what)
	}
}

func TestResync(t *testing.T) {
	f := newSwarm(t)
	m := f.startManager("m1").lead()
	f.addNode("n1", swarm.NodeRoleWorker)
	f.addTask("t1", "n1", swarm.TaskStateAssigned)
	r := m.raw("n1")
	full := r.until("full", func(d downMessage) bool { return d.Delta != nil })
	if !full.Delta.Full || full.Delta.Seq != 1 || len(full.Delta.Set.Tasks) != 1 {
		t.Errorf("first delta %+v", full.Delta)
	}
	f.addTask("t2", "n1", swarm.TaskStateAssigned)
	next := r.until("delta", func(d downMessage) bool { return d.Delta != nil })
	if next.Delta.Full || next.Delta.Seq != 2 || len(next.Delta.Set.Tasks) != 1 {
		t.Errorf("second delta %+v", next.Delta)
	}
	r.send(upMessage{Resync: true})
	again := r.until("full again", func(d downMessage) bool { return d.Delta != nil })
	if !again.Delta.Full || again.Delta.Seq != 3 || len(again.Delta.Set.Tasks) != 2 {
		t.Errorf("after resync %+v", again.Delta)
	}
}

// A node that sees a gap asks once, and takes nothing until the full assignments come.
func TestClientNoticesGap(t *testing.T) {
	c, err := NewClient(ClientConfig{RPC: &rpc.Client{}, Managers: func() []string { return nil }, Facts: func() Facts { return Facts{} }, Handler: &node{}, Patch: sched.Patch})
	if err != nil {
		t.Fatal(err)
	}
	s := &clientSession{Client: c, ctx: t.Context(), notes: make(chan upMessage, 10)}
	tasks := func(ids ...string) state.Assignments {
		a := state.Assignments{Tasks: map[string]state.AssignedTask{}}
		for _, id := range ids {
			a.Tasks[id] = state.AssignedTask{}
		}
		return a
	}
	s.apply(state.Delta{Seq: 1, Index: 11, Full: true, Set: tasks("a")}, false)
	s.apply(state.Delta{Seq: 2, Index: 13, Set: tasks("b")}, true) // more to come
	if a, index, _ := c.assign.take(); len(a.Tasks) != 1 || index != 11 {
		t.Errorf("half a change was handed out: %v, %d", a.Tasks, index)
	}
	s.apply(state.Delta{Seq: 3, Index: 13, Set: tasks("c")}, false)
	if a, index, _ := c.assign.take(); len(a.Tasks) != 3 || index != 13 {
		t.Errorf("have %v, %d", a.Tasks, index)
	}
	s.apply(state.Delta{Seq: 5, Set: tasks("e")}, false)
	s.apply(state.Delta{Seq: 6, Set: tasks("f")}, false)
	if _, _, ok := c.assign.take(); ok || len(s.notes) != 1 || !(<-s.notes).Resync {
		t.Error("gap not noticed, or asked for more than once")
	}
	s.apply(state.Delta{Seq: 7, Index: 17, Full: true, Set: tasks("z")}, false)
	if a, index, _ := c.assign.take(); len(a.Tasks) != 1 || index != 17 {
		t.Errorf("after resync %v, %d", a.Tasks, index)
	}
}

func TestHeartbeatLossMarksDown(t *testing.T) {
	f := newSwarm(t)
	clk := newClock()
	m := f.startManager("m1", func(c *Config) { c.Clock = clk }).lead()
	f.addNode("n1", swarm.NodeRoleWorker)
	r := m.raw("n1")
	f.becomes("n1", swarm.NodeStateReady)
	beats := func() time.Time {
		t := m.dispatcher.term
		t.mu.Lock()
		defer t.mu.Unlock()
		return t.deadlines["n1"]
	}
	for range 8 { // six seconds of life
		clk.step(DefaultPeriod)
		if err := r.Send(nil); err != nil {
			t.Fatal(err)
		}
		eventually(t, "heartbeat taken", func() bool { return beats().Equal(clk.Now().Add(DefaultTimeout)) })
	}
	clk.step(2400 * time.Millisecond)
	if s := f.nodeState("n1"); s != swarm.NodeStateReady {
		t.Fatalf("node is %s before the time", s)
	}
	clk.step(150 * time.Millisecond)
	f.becomes("n1", swarm.NodeStateDown)
	n := f.store.View().Node("n1")
	if n.Status.Message != "heartbeat failure" || n.Down.IsZero() {
		t.Errorf("%+v, down since %s", n.Status, n.Down)
	}
	if len(n.Downs) != 1 || !n.Downs[0].Equal(n.Down) {
		t.Errorf("noted downs %v, last %s", n.Downs, n.Down)
	}
	if late := n.Down.Sub(beats()); !beats().IsZero() && late > 500*time.Millisecond {
		t.Errorf("marked %s late", late)
	}
	r.ends("silent node")
}

// Of a node that comes and goes only the latest times are kept.
func TestDownsAreBounded(t *testing.T) {
	f := newSwarm(t)
	f.addNode("n1", swarm.NodeRoleWorker)
	m := f.startManager("m1").lead()
	first := time.Now().Add(-time.Hour).UTC().Round(0)
	change(f, f.store.View().Node("n1"), func(n *state.Node) {
		n.Status.State = swarm.NodeStateReady
		for i := range state.MaxDowns {
			n.Downs = append(n.Downs, first.Add(time.Duration(i)*time.Minute))
		}
	})
	term, err := m.dispatcher.current()
	if err != nil {
		t.Fatal(err)
	}
	if err := term.markDown(t.Context(), []string{"n1"}); err != nil {
		t.Fatal(err)
	}
	n := f.store.View().Node("n1")
	if len(n.Downs) != state.MaxDowns || !n.Downs[0].Equal(first.Add(time.Minute)) || !n.Downs[state.MaxDowns-1].Equal(n.Down) {
		t.Errorf("noted downs %v, last %s", n.Downs, n.Down)
	}
}

// A new leader gives every node that was ready six periods.
func TestGraceOfNewLeader(t *testing.T) {
	f := newSwarm(t)
	f.addNode("n1", swarm.NodeRoleWorker)
	change(f, f.store.View().Node("n1"), func(n *state.Node) { n.Status.State = swarm.NodeStateReady })
	clk := newClock()
	m := f.startManager("m1", func(c *Config) { c.Clock = clk }).lead()
	eventually(t, "deadline set", func() bool {
		m.dispatcher.term.mu.Lock()
		defer m.dispatcher.term.mu.Unlock()
		return len(m.dispatcher.term.deadlines) == 1
	})
	clk.step(4400 * time.Millisecond)
	if s := f.nodeState("n1"); s != swarm.NodeStateReady {
		t.Fatalf("node is %s before the grace ends", s)
	}
	clk.step(200 * time.Millisecond)
	f.becomes("n1", swarm.NodeStateDown)
}

// Whatever marks a node down while it has a session, its session sets that right.
func TestSessionKeepsNodeReady(t *testing.T) {
	f := newSwarm(t)
	m := f.startManager("m1").lead()
	f.startNode("n1", m)
	f.becomes("n1", swarm.NodeStateReady)
	change(f, f.store.View().Node("n1"), func(n *state.Node) { n.Status.State = swarm.NodeStateDown })
	f.becomes("n1", swarm.NodeStateReady)
}

func TestNewerSessionReplaces(t *testing.T) {
	f := newSwarm(t)
	m := f.startManager("m1").lead()
	f.addNode("n1", swarm.NodeRoleWorker)
	first := m.raw("n1")
	second := m.raw("n1")
	first.ends("older session")
	f.addTask("t1", "n1", swarm.TaskStateAssigned)
	second.until("task", func(d downMessage) bool { return d.Delta != nil && len(d.Delta.Set.Tasks) == 1 })
}

func TestBadNodes(t *testing.T) {
	f := newSwarm(t)
	m := f.startManager("m1").lead()
	many := make([]TaskStatus, maxOps+1)
	labels := map[string]string{}
	for i := range maxLabels + 1 {
		labels[fmt.Sprint(i)] = "x"
	}
	for name, message := range map[string]upMessage{
		"too many statuses": {Batch: 1, Statuses: many},
		"hostname":          {Facts: &Facts{Description: swarm.NodeDescription{Hostname: "a\nb"}}},
		"labels":            {Facts: &Facts{Description: swarm.NodeDescription{Engine: swarm.EngineDescription{Labels: labels}}}},
		"resources":         {Facts: &Facts{Description: swarm.NodeDescription{Resources: swarm.Resources{NanoCPUs: -1}}}},
		"mesh key":          {Facts: &Facts{MeshKey: "c2hvcnQ="}},
		"control address":   {Facts: &Facts{ControlAddr: "nonsense"}},
	} {
		t.Run(name, func(t *testing.T) {
			id := state.NewID()
			f.addNode(id, swarm.NodeRoleWorker)
			r := m.raw(id)
			r.t = t
			r.send(message)
			r.ends(name)
		})
	}
	t.Run("flood", func(t *testing.T) {
		f.addNode("n1", swarm.NodeRoleWorker)
		r := m.raw("n1")
		go func() {
			for r.Send(upMessage{Resync: true}) == nil {
			}
		}()
		r.ends("flood")
	})
}

func TestFactsAreStoredOnlyWhenChanged(t *testing.T) {
	f := newSwarm(t)
	m := f.startManager("m1").lead()
	f.addNode("n1", swarm.NodeRoleWorker)
	r := m.raw("n1")
	r.until("full", func(d downMessage) bool { return d.Delta != nil })
	key := base64.StdEncoding.EncodeToString(make([]byte, meshKeySize))
	facts := Facts{
		Description: swarm.NodeDescription{Hostname: "n1", Engine: swarm.EngineDescription{Labels: map[string]string{"a": "b"}}},
		MeshKey:     key, Endpoint: netip.MustParseAddrPort("0.0.0.0:51820"), PortErrors: map[string]string{"80/tcp": longText(2 * maxText)},
	}
	r.send(upMessage{Facts: &facts})
	eventually(t, "stored", func() bool { return f.store.View().Node("n1").Mesh.PublicKey == key })
	n := f.store.View().Node("n1")
	if n.Mesh.Endpoint != netip.MustParseAddrPort("127.0.0.1:51820") || len(n.PortErrors["80/tcp"]) > maxText+3 || n.ControlAddr != "" {
		t.Errorf("stored %+v", n)
	}
	index := f.store.Index()
	for range 3 {
		r.send(upMessage{Facts: &facts})
	}
	r.send(upMessage{Resync: true})
	r.until("full", func(d downMessage) bool { return d.Delta != nil && d.Delta.Full })
	if f.store.Index() != index {
		t.Error("same facts were stored again")
	}

	f.addNode("n2", swarm.NodeRoleWorker)
	twin := m.raw("n2")
	twin.send(upMessage{Facts: &facts})
	twin.ends("node with another's mesh key")
}

func TestRemovedNode(t *testing.T) {
	f := newSwarm(t)
	m := f.startManager("m1").lead()
	n := f.startNode("n1", m)
	f.becomes("n1", swarm.NodeStateReady)
	v := f.store.View()
	cluster := v.Cluster().Clone()
	cluster.RemovedNodes = map[string]time.Time{"n1": time.Now().Add(time.Hour)}
	f.propose(
		state.Op{Action: state.Update, Object: cluster, Expected: v.Cluster().Modified},
		state.Op{Action: state.Delete, Object: v.Node("n1")},
	)
	eventually(t, "client is told", func() bool { return n.asked.Load() == -1 })
}

func TestRoleChangeAsksForRenewal(t *testing.T) {
	f := newSwarm(t)
	m := f.startManager("m1").lead()
	n := f.startNode("n1", m)
	f.becomes("n1", swarm.NodeStateReady)
	change(f, f.store.View().Node("n1"), func(n *state.Node) { n.Spec.Role = swarm.NodeRoleManager })
	eventually(t, "asked to renew", func() bool { return n.asked.Load() == 1 })
}
