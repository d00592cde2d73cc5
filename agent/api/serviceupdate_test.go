package api

import (
	"testing"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/swarm"
)

// TestRollback: a rollback swaps a service's spec with its previous one, so that two of them change nothing.
func TestRollback(t *testing.T) {
	fc, c := startManager(t)
	id := create(t, c, spec("web"))
	updateService(t, c, id, swarm.ServiceUpdateOptions{}, func(s *swarm.ServiceSpec) {
		s.TaskTemplate.ContainerSpec.Image = "nginx:2"
		s.Mode.Replicated.Replicas = number(3)
	})
	for i, tt := range []struct {
		image, previous string
		replicas        uint64
	}{{"nginx:latest", "nginx:2", 1}, {"nginx:2", "nginx:latest", 3}} {
		s := updateService(t, c, id, swarm.ServiceUpdateOptions{Rollback: "previous", RegistryAuthFrom: "previous-spec"})
		if s.Spec.TaskTemplate.ContainerSpec.Image != tt.image || s.PreviousSpec.TaskTemplate.ContainerSpec.Image != tt.previous ||
			*s.Spec.Mode.Replicated.Replicas != tt.replicas {
			t.Errorf("rollback %d: %+v, previous %+v", i, s.Spec.TaskTemplate.ContainerSpec, s.PreviousSpec.TaskTemplate.ContainerSpec)
		}
		if u := s.UpdateStatus; u == nil || u.State != swarm.UpdateStateRollbackStarted || u.Message != "manually requested rollback" || u.StartedAt == nil {
			t.Errorf("rollback %d: update status %+v", i, u)
		}
		v := fc.store.View()
		version := v.Service(id).SpecVersion
		if r := v.Revision(id, version); version != uint64(3+i) || r == nil || r.Spec.ContainerSpec.Image != tt.image {
			t.Errorf("rollback %d: revision %d: %+v", i, version, r)
		}
	}
	s := updateService(t, c, id, swarm.ServiceUpdateOptions{}, func(s *swarm.ServiceSpec) { s.Labels = map[string]string{"a": "b"} })
	if s.UpdateStatus != nil {
		t.Errorf("an update leaves the status %+v", s.UpdateStatus)
	}
	if s = updateService(t, c, id, swarm.ServiceUpdateOptions{Rollback: "previous"}); len(s.Spec.Labels) != 0 || fc.store.View().Service(id).SpecVersion != 4 {
		t.Errorf("the rollback of a label: %v, revision %d", s.Spec.Labels, fc.store.View().Service(id).SpecVersion)
	}
}

// TestRollbackMeetsTheSwarm: what the previous spec asks for may have been taken since.
func TestRollbackMeetsTheSwarm(t *testing.T) {
	_, c := startManager(t)
	id := create(t, c, spec("web", publish(8080, "")))
	updateService(t, c, id, swarm.ServiceUpdateOptions{}, func(s *swarm.ServiceSpec) { s.EndpointSpec = nil })
	create(t, c, spec("other", publish(8080, "")))
	s := inspect(t, c, id)
	_, err := c.ServiceUpdate(t.Context(), id, s.Version, s.Spec, swarm.ServiceUpdateOptions{Rollback: "previous"})
	wantError(t, err, cerrdefs.IsInvalidArgument, "port '8080' is already in use by service 'other'")
	_, err = c.ServiceUpdate(t.Context(), id, swarm.Version{Index: 1}, s.Spec, swarm.ServiceUpdateOptions{Rollback: "previous"})
	wantError(t, err, cerrdefs.IsInternal, "update out of sequence")
}
