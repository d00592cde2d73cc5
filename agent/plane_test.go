package agent

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/meshswarm/meshswarm/mesh"
	"github.com/meshswarm/meshswarm/netstack"
	"github.com/meshswarm/meshswarm/raft/state"
)

// recorded is a plane whose ends only note what they were told last.
type recorded struct {
	*plane
	order  []string
	tables *netstack.Tables
	peers  []mesh.Peer
	tasks  map[string]state.AssignedTask
	saved  state.Assignments
}

func newRecorded() *recorded {
	r := &recorded{plane: newPlane("n1", slog.New(slog.DiscardHandler))}
	r.plane.tables = func(t *netstack.Tables) { r.tables, r.order = t, append(r.order, "tables") }
	r.plane.peers = func(p []mesh.Peer) error { r.peers, r.order = p, append(r.order, "peers"); return nil }
	r.plane.tasks = func(t map[string]state.AssignedTask) { r.tasks, r.order = t, append(r.order, "tasks") }
	r.plane.save = func(a state.Assignments) error { r.saved, r.order = a, append(r.order, "save"); return nil }
	return r
}

// A task must be on disk before it runs, and its packets must have a way before it starts.
func TestPlaneOrder(t *testing.T) {
	r := newRecorded()
	a := sample(t).Assignments
	a.Tasks = map[string]state.AssignedTask{"w1": {Task: state.Task{ID: "w1"}}}
	r.assign(a, func() { r.order = append(r.order, "in force") })
	want := []string{"tables", "peers", "in force", "save", "tasks"}
	if len(r.order) != len(want) {
		t.Fatalf("order %v, want %v", r.order, want)
	}
	for i := range want {
		if r.order[i] != want[i] {
			t.Fatalf("order %v, want %v", r.order, want)
		}
	}
	if len(r.saved.Tasks) != 1 || len(r.tasks) != 1 || len(r.peers) != 1 || len(r.tables.Networks) != 2 {
		t.Errorf("saved %d tasks, told of %d tasks, %d peers, %d networks", len(r.saved.Tasks), len(r.tasks), len(r.peers), len(r.tables.Networks))
	}
	select {
	case <-r.synced:
	default:
		t.Error("the first assignments of a session do not count as synced")
	}
}

// A node that was removed carries nothing any more, now and after a restart.
func TestPlaneClear(t *testing.T) {
	r := newRecorded()
	r.assign(sample(t).Assignments, func() {})
	path := filepath.Join(t.TempDir(), assignmentsFile)
	if err := os.WriteFile(path, []byte("sealed"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.clear(path); err != nil {
		t.Fatal(err)
	}
	if len(r.tables.Networks) != 0 || len(r.tables.Ports) != 0 || len(r.peers) != 0 || len(r.tasks) != 0 {
		t.Errorf("left: %+v, %d peers, %d tasks", r.tables, len(r.peers), len(r.tasks))
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("assignments on disk: %v", err)
	}
	if err := r.clear(path); err != nil {
		t.Errorf("a second time: %v", err)
	}
}
