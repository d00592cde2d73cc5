package dispatch

import (
	"encoding/json"
	"fmt"
	"reflect"
	"testing"

	"github.com/docker/docker/api/types/swarm"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/meshswarm/meshswarm/agent/rpc"
	"github.com/meshswarm/meshswarm/raft/state"
	"github.com/meshswarm/meshswarm/sched"
)

// What the node puts together from deltas is what sched.Assign says.
func TestSessionTellsAssignments(t *testing.T) {
	f := newSwarm(t)
	m := f.startManager("m1").lead()
	n := f.startNode("n1", m)
	f.becomes("n1", swarm.NodeStateReady)
	for i, id := range []string{"t1", "t2", "t3"} {
		f.addTask(id, "n1", swarm.TaskStateAssigned)
		eventually(t, "task "+id, func() bool { n.mu.Lock(); defer n.mu.Unlock(); return len(n.last.Tasks) == i+1 })
	}
	f.propose(state.Op{Action: state.Delete, Object: f.store.View().Task("t2")})
	want := sched.Assign(f.store.View(), "n1")
	eventually(t, "same assignments", func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		return len(n.last.Tasks) == 2 && reflect.DeepEqual(n.last.Nodes, want.Nodes)
	})
}

// An update travels in parts that a client puts together again; a client that misses one takes none of it.
func TestParcel(t *testing.T) {
	big := func(i int) []byte {
		return fmt.Appendf(nil, `"n%d":{"ID":"n%d","Hostname":%q}`, i, i, longText(100<<10))
	}
	full := &sched.Update{Index: 7, Full: true, Set: sched.Rows{Tasks: [][]byte{[]byte(`"t":{"Task":{"ID":"t"}}`)}}}
	for i := range 9 {
		full.Set.Nodes = append(full.Set.Nodes, big(i))
	}
	delta := &sched.Update{Index: 9, Set: sched.Rows{Nodes: [][]byte{big(9)}}, Remove: state.Removals{Tasks: []string{"t"}}}
	for i := range 9 {
		delta.Remove.Nodes = append(delta.Remove.Nodes, fmt.Sprint("n", i))
	}
	delta.Remove.Nodes = append(delta.Remove.Nodes, longText(maxPart))

	var sent []downMessage
	p := parcel{seq: 5, send: func(data []byte) error {
		var m downMessage
		if err := json.Unmarshal(data, &m); err != nil {
			t.Fatalf("%v: %.200s", err, data)
		}
		sent = append(sent, m)
		return nil
	}}
	for _, u := range []*sched.Update{full, delta, {Index: 11, Full: true}} {
		if err := p.pack(u); err != nil {
			t.Fatal(err)
		}
	}
	c, err := NewClient(ClientConfig{RPC: &rpc.Client{}, Managers: func() []string { return nil }, Facts: func() Facts { return Facts{} }, Handler: &node{}, Patch: sched.Patch})
	if err != nil {
		t.Fatal(err)
	}
	s := &clientSession{Client: c, ctx: t.Context(), notes: make(chan upMessage, 10)}
	var got []state.Assignments
	for i, m := range sent {
		if m.Delta.Seq != uint64(6+i) || m.Delta.Full != (i == 0 || i == len(sent)-1) {
			t.Errorf("message %d: seq %d, full %v", i, m.Delta.Seq, m.Delta.Full)
		}
		s.apply(*m.Delta, m.More)
		a, index, ok := c.assign.take()
		if ok == m.More || (ok && index != m.Delta.Index) {
			t.Errorf("message %d: handed out %v at %d, more %v", i, ok, index, m.More)
		}
		if ok {
			got = append(got, a)
		}
	}
	if len(sent) < 7 || len(got) != 3 {
		t.Fatalf("%d messages, %d changes", len(sent), len(got))
	}
	if len(got[0].Nodes) != 9 || len(got[0].Tasks) != 1 || len(got[0].Nodes["n3"].Hostname) != 100<<10 {
		t.Errorf("first: %d nodes, %d tasks", len(got[0].Nodes), len(got[0].Tasks))
	}
	if d := cmp.Diff(map[string]int{"n9": 100 << 10}, map[string]int{"n9": len(got[1].Nodes["n9"].Hostname)}); d != "" || len(got[1].Nodes) != 1 || len(got[1].Tasks) != 0 {
		t.Errorf("then %d nodes, %d tasks: %s", len(got[1].Nodes), len(got[1].Tasks), d)
	}
	if d := cmp.Diff(state.Assignments{}, got[2], cmpopts.EquateEmpty()); d != "" {
		t.Error(d)
	}
	huge := &sched.Update{Set: sched.Rows{Nodes: [][]byte{make([]byte, rpc.MaxDown)}}}
	if err := p.pack(huge); err == nil {
		t.Error("an object that fits no message was sent")
	}
}
