package agent

import (
	"fmt"
	"testing"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

// TestPlanRebalance: two replicas on one of two nodes, one of them moves; and what cannot be planned has a class.
func TestPlanRebalance(t *testing.T) {
	store := state.New()
	apply := func(ops ...state.Op) {
		t.Helper()
		if err := store.Apply(store.Index()+1, state.Batch{Ops: ops, Time: time.Now()}); err != nil {
			t.Fatal(err)
		}
	}
	replicas := uint64(2)
	template := swarm.TaskSpec{ContainerSpec: &swarm.ContainerSpec{Image: "nginx"}}
	service := &state.Service{ID: "web", SpecVersion: 1, Spec: swarm.ServiceSpec{
		Annotations: swarm.Annotations{Name: "web"}, TaskTemplate: template,
		Mode: swarm.ServiceMode{Replicated: &swarm.ReplicatedService{Replicas: &replicas}},
	}}
	apply(state.Op{Action: state.Create, Object: service},
		state.Op{Action: state.Create, Object: &state.Revision{ServiceID: "web", SpecVersion: 1, Spec: template}},
		state.Op{Action: state.Create, Object: &state.Service{ID: "each", SpecVersion: 1, Spec: swarm.ServiceSpec{
			Annotations: swarm.Annotations{Name: "each"}, Mode: swarm.ServiceMode{Global: &swarm.GlobalService{}},
		}}})
	for i := range 2 {
		apply(state.Op{Action: state.Create, Object: &state.Node{
			ID: fmt.Sprintf("node%d", i), Role: swarm.NodeRoleWorker, Status: swarm.NodeStatus{State: swarm.NodeStateReady},
			Spec: swarm.NodeSpec{Role: swarm.NodeRoleWorker, Availability: swarm.NodeAvailabilityActive},
		}}, state.Op{Action: state.Create, Object: &state.Task{
			ID: fmt.Sprintf("task%d", i), ServiceID: "web", ServiceName: "web", SpecVersion: 1, Slot: i + 1, NodeID: "node0",
			DesiredState: swarm.TaskStateRunning, Status: swarm.TaskStatus{State: swarm.TaskStateRunning},
		}})
	}
	moves, err := planRebalance(store.View(), "web", time.Now())
	if err != nil || len(moves) != 1 || moves[0].From != "node0" || moves[0].Slot == 0 {
		t.Errorf("moves %+v, %v", moves, err)
	}
	if _, err := planRebalance(store.View(), "each", time.Now()); !cerrdefs.IsInvalidArgument(err) {
		t.Errorf("a global service: %v", err)
	}
	updating := store.View().Service("web").Clone()
	updating.UpdateStatus = &swarm.UpdateStatus{State: swarm.UpdateStateUpdating}
	apply(state.Op{Action: state.Update, Object: updating, Expected: updating.Modified})
	if _, err := planRebalance(store.View(), "web", time.Now()); !cerrdefs.IsConflict(err) {
		t.Errorf("during an update: %v", err)
	}
}
