package sim

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

func slotTask(id string, at swarm.TaskState, addr string) *state.Task {
	return &state.Task{
		ID: id, ServiceID: "s", ServiceName: "web", Slot: 1, NodeID: "n1", DesiredState: swarm.TaskStateRunning, Status: swarm.TaskStatus{State: at},
		Networks: []state.Attachment{{NetworkID: "net", Addresses: []netip.Prefix{netip.MustParsePrefix(addr + "/24")}}},
	}
}

func published(id string) *state.Service {
	s := &state.Service{ID: id}
	s.Endpoint.VirtualIPs = []swarm.EndpointVirtualIP{{NetworkID: "net", Addr: "10.0.0.9/24"}}
	s.Endpoint.Ports = []swarm.PortConfig{{Protocol: "tcp", PublishedPort: 80}}
	return s
}

// TestAuditBites: the audit finds each thing that must not be, and nothing in what may be.
func TestAuditBites(t *testing.T) {
	type changes = []state.Change
	running := slotTask("a", swarm.TaskStateRunning, "10.0.0.1")
	with := func(f func(*state.Task)) *state.Task {
		c := running.Clone()
		f(c)
		return c
	}
	pair := func(was, is state.Object) state.Change { return state.Change{Old: was, New: is} }
	second := slotTask("b", swarm.TaskStateRunning, "10.0.0.2")
	for _, c := range []struct {
		name string
		list changes
		want string // "" for no complaint
	}{
		{"grows", changes{pair(running, with(func(t *state.Task) { t.Status.State = swarm.TaskStateFailed }))}, ""},
		{"observed state back", changes{pair(running, with(func(t *state.Task) { t.Status.State = swarm.TaskStateReady }))}, "state went from running back to ready"},
		{"desired state back", changes{pair(with(func(t *state.Task) { t.DesiredState = swarm.TaskStateShutdown }), running)}, "desired state went from shutdown back"},
		{"other node", changes{pair(running, with(func(t *state.Task) { t.NodeID = "n2" }))}, "moved"},
		{"two in a slot", changes{pair(nil, second)}, "2 tasks of one slot run"},
		{"one after the other", changes{pair(running, with(func(t *state.Task) { t.Status.State = swarm.TaskStateShutdown })), pair(nil, second)}, ""},
		{"address twice", changes{pair(nil, slotTask("b", swarm.TaskStateReady, "10.0.0.1"))}, "has owners"},
		{"address handed on", changes{pair(nil, slotTask("b", swarm.TaskStateReady, "10.0.0.1")), pair(running, with(func(t *state.Task) { t.Status.State = swarm.TaskStateComplete }))}, ""},
		{"VIP and port twice", changes{pair(nil, published("s1")), pair(nil, published("s2"))}, "port 80/tcp has services"},
		{"VIP of a task", changes{pair(nil, published("s1")), pair(nil, slotTask("b", swarm.TaskStateReady, "10.0.0.9"))}, "has owners"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := newAudit("m", newSuspects())
			a.commits([]state.Commit{{Index: 1, Changes: changes{pair(nil, running)}}, {Index: 2, Changes: c.list}})
			list, n := a.all()
			text := strings.Join(list, "\n")
			if (c.want == "") != (n == 0) || !strings.Contains(text, c.want) {
				t.Errorf("complaints %q, want %q", text, c.want)
			}
		})
	}
}

// TestWorldBites: the same for what really runs.
func TestWorldBites(t *testing.T) {
	one, two := slotTask("a", "", "10.0.0.1"), slotTask("b", "", "10.0.0.2")
	w := newWorld()
	w.starts(state.AssignedTask{Task: *one})
	w.stops(one.ID)
	w.starts(state.AssignedTask{Task: *two})
	if _, n := w.all(); n > 0 || len(w.overlaps) > 0 {
		t.Errorf("one after the other: %+v", w)
	}
	one.Networks = two.Networks
	one.NodeID = "n2"
	w.starts(state.AssignedTask{Task: *one})
	if _, n := w.all(); n != 1 || len(w.overlaps) != 1 {
		t.Fatalf("two with one address: %+v", w)
	}
	s := newSuspects()
	if s.excuses(w.overlaps[0]) {
		t.Error("an overlap on nodes that were always there is excused")
	}
	s.giveUp("n1")
	if !s.excuses(w.overlaps[0]) || s.falselyDown() != 1 {
		t.Error("an overlap with a node that was given up is not excused")
	}
}
