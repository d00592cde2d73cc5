package dispatch

import (
	"encoding/json"
	"testing"

	"github.com/meshswarm/meshswarm/raft/state"
)

// FuzzUpMessage feeds what a node may send to what judges it.
func FuzzUpMessage(f *testing.F) {
	f.Add([]byte(`{"Facts":{"Description":{"Hostname":"a"},"MeshKey":"","Endpoint":"0.0.0.0:1","PortErrors":{"80/tcp":"held"}}}`))
	f.Add([]byte(`{"Batch":1,"Statuses":[{"TaskID":"t","Status":{"State":"running","PortStatus":{"Ports":[{}]}}}]}`))
	f.Add([]byte(`{"Refusal":{"ID":"x","Message":"\u0000"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var m upMessage
		if json.Unmarshal(data, &m) != nil {
			return
		}
		if m.Facts != nil && m.Facts.check() == nil {
			s := &session{addr: "192.0.2.1"}
			n := s.describe(&state.Node{ID: "n1"}, *m.Facts)
			if n.ControlAddr != "" || !NodeReady(n) {
				t.Fatalf("a worker became %+v", n)
			}
		}
		for _, st := range m.Statuses {
			task := &state.Task{ID: "t", NodeID: "n1"}
			if next, v := accept(task, "n1", st.Status); v == verdictNews && state.Rank(next.Status.State) < state.Rank(task.Status.State) {
				t.Fatalf("shrank to %s", next.Status.State)
			}
		}
	})
}
