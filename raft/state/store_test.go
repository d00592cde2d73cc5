package state_test

import (
	"testing"
	"time"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

func TestSmoke(t *testing.T) {
	s := state.New()
	svc := &state.Service{ID: "svc1"}
	svc.Spec.Name = "Web"
	v, w := s.ViewAndWatch()
	defer w.Close()
	if v.ServiceByName("web") != nil {
		t.Fatal("not empty")
	}
	b := state.Batch{Time: time.Now(), Ops: []state.Op{{Action: state.Create, Object: svc}, {Action: state.Create, Object: &state.Task{ID: "t1", ServiceID: "svc1", Slot: 2, DesiredState: swarm.TaskStateRunning}}}}
	data, err := b.Encode()
	if err != nil {
		t.Fatal(err)
	}
	b, err = state.DecodeBatch(data)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Apply(7, b); err != nil {
		t.Fatal(err)
	}
	v = s.View()
	if v.ServiceByName("web") == nil || len(v.TasksByService("svc1")) != 1 || len(v.TasksByNode("")) != 1 || len(v.TasksBySlot("svc1", 2)) != 1 || len(v.Tasks()) != 1 || len(v.ByIDPrefix(state.KindTask, "t", 5)) != 1 {
		t.Fatal("not found")
	}
	cs, err := w.Next(t.Context())
	if err != nil || len(cs) != 1 || cs[0].Index != 7 {
		t.Fatal(cs, err)
	}
	t.Log(state.NewID())
}
