package api

import (
	"errors"
	"strings"
	"testing"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/swarm"
	"github.com/docker/docker/client"

	"github.com/meshswarm/meshswarm/raft/state"
)

func spec(name string, edits ...func(*swarm.ServiceSpec)) swarm.ServiceSpec {
	s := swarm.ServiceSpec{
		Annotations:  swarm.Annotations{Name: name},
		TaskTemplate: swarm.TaskSpec{ContainerSpec: &swarm.ContainerSpec{Image: "nginx:latest"}},
	}
	for _, e := range edits {
		e(&s)
	}
	return s
}

func publish(port uint32, mode swarm.PortConfigPublishMode) func(*swarm.ServiceSpec) {
	return func(s *swarm.ServiceSpec) {
		if s.EndpointSpec == nil {
			s.EndpointSpec = &swarm.EndpointSpec{}
		}
		s.EndpointSpec.Ports = append(s.EndpointSpec.Ports, swarm.PortConfig{TargetPort: 80, PublishedPort: port, PublishMode: mode})
	}
}

func create(t *testing.T, c *client.Client, s swarm.ServiceSpec) string {
	t.Helper()
	r, err := c.ServiceCreate(t.Context(), s, swarm.ServiceCreateOptions{})
	if err != nil {
		t.Fatalf("create %s: %v", s.Name, err)
	}
	return r.ID
}

func inspect(t *testing.T, c *client.Client, id string) swarm.Service {
	t.Helper()
	s, _, err := c.ServiceInspectWithRaw(t.Context(), id, swarm.ServiceInspectOptions{})
	if err != nil {
		t.Fatalf("inspect %s: %v", id, err)
	}
	return s
}

func TestServiceLife(t *testing.T) {
	fc, c := startManager(t)
	id := create(t, c, spec("web", publish(8080, "")))
	if len(id) != 25 {
		t.Errorf("ID %q", id)
	}
	s := inspect(t, c, "web")
	if *s.Spec.Mode.Replicated.Replicas != 1 || s.Spec.EndpointSpec.Mode != swarm.ResolutionModeVIP ||
		s.Spec.TaskTemplate.Runtime != swarm.RuntimeContainer || s.Spec.Labels == nil ||
		s.Spec.EndpointSpec.Ports[0].Protocol != "tcp" || s.Spec.EndpointSpec.Ports[0].PublishMode != "ingress" {
		t.Errorf("defaults are missing: %+v", s.Spec)
	}
	if r := fc.store.View().Revision(id, 1); r == nil || r.Spec.ContainerSpec.Image != "nginx:latest" || r.Endpoint == nil {
		t.Errorf("revision 1: %+v", r)
	}

	// Scaling makes no revision.
	three := uint64(3)
	s.Spec.Mode.Replicated.Replicas = &three
	if _, err := c.ServiceUpdate(t.Context(), id, s.Version, s.Spec, swarm.ServiceUpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := fc.store.View().Service(id); got.SpecVersion != 1 || *got.PreviousSpec.Mode.Replicated.Replicas != 1 {
		t.Errorf("after scaling: SpecVersion %d, previous %+v", got.SpecVersion, got.PreviousSpec)
	}
	// The old version is stale now.
	_, err := c.ServiceUpdate(t.Context(), id, s.Version, s.Spec, swarm.ServiceUpdateOptions{})
	wantError(t, err, cerrdefs.IsInternal, "update out of sequence")

	// An image makes a revision; what the system changes meanwhile is not the user's business.
	s = inspect(t, c, id[:6])
	moved := fc.store.View().Service(id).Clone()
	moved.Endpoint.Ports = s.Spec.EndpointSpec.Ports
	fc.before = func() { fc.change(t, moved) }
	s.Spec.TaskTemplate.ContainerSpec.Image = "nginx:1"
	if _, err := c.ServiceUpdate(t.Context(), id, s.Version, s.Spec, swarm.ServiceUpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	got := fc.store.View().Service(id)
	if got.SpecVersion != 2 || len(got.Endpoint.Ports) != 1 || fc.store.View().Revision(id, 2).Spec.ContainerSpec.Image != "nginx:1" {
		t.Errorf("after the image update: %+v", got)
	}

	// A user's change in between is an error.
	s = inspect(t, c, id)
	other := fc.store.View().Service(id).Clone()
	fc.before = func() {
		fc.apply(t, state.Op{Action: state.Update, Object: other, Expected: other.Modified, SpecChange: true})
	}
	_, err = c.ServiceUpdate(t.Context(), id, s.Version, s.Spec, swarm.ServiceUpdateOptions{})
	wantError(t, err, cerrdefs.IsInternal, "update out of sequence")

	if err := c.ServiceRemove(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	wantError(t, c.ServiceRemove(t.Context(), "web"), cerrdefs.IsNotFound, "service web not found")
	if list, err := c.ServiceList(t.Context(), swarm.ServiceListOptions{}); err != nil || len(list) != 0 {
		t.Errorf("list after removal: %v, %v", list, err)
	}
	create(t, c, spec("web", publish(8080, ""))) // name and port are free at once
}

func TestServiceDefaultsOnRequest(t *testing.T) {
	_, c := startManager(t)
	id := create(t, c, spec("web"))
	s, _, err := c.ServiceInspectWithRaw(t.Context(), id, swarm.ServiceInspectOptions{InsertDefaults: true})
	if err != nil {
		t.Fatal(err)
	}
	if *s.Spec.TaskTemplate.ContainerSpec.StopGracePeriod != 10*time.Second || s.Spec.TaskTemplate.RestartPolicy.Condition != "any" ||
		s.Spec.UpdateConfig.Order != "stop-first" || s.Spec.UpdateConfig.Parallelism != 1 || s.Spec.RollbackConfig == nil {
		t.Errorf("defaults: %+v", s.Spec)
	}
	if plain := inspect(t, c, id); plain.Spec.UpdateConfig != nil || plain.Spec.TaskTemplate.ContainerSpec.StopGracePeriod != nil {
		t.Errorf("defaults without asking: %+v", plain.Spec)
	}
}

func TestCreateServiceRefused(t *testing.T) {
	fc, c := startManager(t)
	create(t, c, spec("taken", publish(9000, "ingress"), publish(9001, "host")))
	fc.apply(t, state.Op{Action: state.Create, Object: &state.Network{ID: "netidaaaaaaaaaaaaaaaaaaaa", Spec: swarm.NetworkSpec{Annotations: swarm.Annotations{Name: "back"}}}})
	container := func(f func(*swarm.ContainerSpec)) func(*swarm.ServiceSpec) {
		return func(s *swarm.ServiceSpec) { f(s.TaskTemplate.ContainerSpec) }
	}
	attach := func(names ...string) func(*swarm.ServiceSpec) {
		return func(s *swarm.ServiceSpec) {
			for _, n := range names {
				s.TaskTemplate.Networks = append(s.TaskTemplate.Networks, swarm.NetworkAttachmentConfig{Target: n})
			}
		}
	}
	negative := -time.Second
	for _, tt := range []struct {
		name string
		spec swarm.ServiceSpec
		is   func(error) bool
		text string
	}{
		{"name", spec("a b"), cerrdefs.IsInvalidArgument, "DNS name component"},
		{"long name", spec(strings.Repeat("a", 64)), cerrdefs.IsInvalidArgument, "63 characters or fewer"},
		{"name taken", spec("taken"), cerrdefs.IsConflict, "name conflicts with an existing object"},
		{"name taken in another case", spec("Taken"), cerrdefs.IsConflict, "name conflicts with an existing object"},
		{"no image", spec("x", container(func(c *swarm.ContainerSpec) { c.Image = "" })), cerrdefs.IsInvalidArgument, "image reference must be provided"},
		{"bad image", spec("x", container(func(c *swarm.ContainerSpec) { c.Image = "A B" })), cerrdefs.IsInvalidArgument, "is not a valid repository/tag"},
		{"no container", swarm.ServiceSpec{Annotations: swarm.Annotations{Name: "x"}}, cerrdefs.IsInvalidArgument, "image reference must be provided"},
		{"mounts", spec("x", container(func(c *swarm.ContainerSpec) {
			c.Mounts = []mount.Mount{{Source: "/x", Target: "/a"}, {Source: "/y", Target: "/a"}}
		})), cerrdefs.IsInvalidArgument, "duplicate mount point: /a"},
		{"template", spec("x", container(func(c *swarm.ContainerSpec) { c.Env = []string{"A={{"} })), cerrdefs.IsInvalidArgument, "invalid template"},
		{"cpu", spec("x", func(s *swarm.ServiceSpec) {
			s.TaskTemplate.Resources = &swarm.ResourceRequirements{Limits: &swarm.Limit{NanoCPUs: 5}}
		}), cerrdefs.IsInvalidArgument, "Must be at least 0.001"},
		{"memory", spec("x", func(s *swarm.ServiceSpec) {
			s.TaskTemplate.Resources = &swarm.ResourceRequirements{Limits: &swarm.Limit{MemoryBytes: 5}}
		}), cerrdefs.IsInvalidArgument, "Must be at least 4MiB"},
		{"delay", spec("x", func(s *swarm.ServiceSpec) { s.TaskTemplate.RestartPolicy = &swarm.RestartPolicy{Delay: &negative} }), cerrdefs.IsInvalidArgument, "restart-delay cannot be negative"},
		{"update delay", spec("x", func(s *swarm.ServiceSpec) { s.UpdateConfig = &swarm.UpdateConfig{Delay: negative} }), cerrdefs.IsInvalidArgument, "update-delay cannot be negative"},
		{"dnsrr", spec("x", publish(8080, "ingress"), func(s *swarm.ServiceSpec) { s.EndpointSpec.Mode = "dnsrr" }), cerrdefs.IsInvalidArgument, "can't be used with dnsrr mode"},
		{"mode", spec("x", func(s *swarm.ServiceSpec) { s.EndpointSpec = &swarm.EndpointSpec{Mode: "best"} }), cerrdefs.IsInvalidArgument, "invalid resolution mode"},
		{"duplicate port", spec("x", publish(8080, ""), publish(8080, "")), cerrdefs.IsInvalidArgument, "duplicate published ports"},
		{"target port", spec("x", func(s *swarm.ServiceSpec) {
			s.EndpointSpec = &swarm.EndpointSpec{Ports: []swarm.PortConfig{{PublishedPort: 8080}}}
		}), cerrdefs.IsInvalidArgument, "invalid target port 0"},
		{"port taken", spec("x", publish(9000, "")), cerrdefs.IsInvalidArgument, "port '9000' is already in use by service 'taken'"},
		{"host port over ingress", spec("x", publish(9000, "host")), cerrdefs.IsInvalidArgument, "as an ingress port"},
		{"ingress port over host", spec("x", publish(9001, "")), cerrdefs.IsInvalidArgument, "as a host-published port"},
		{"privileged port", spec("x", publish(80, "")), cerrdefs.IsInvalidArgument, "port 80 needs privileges on node node1: publish 8080, or lower net.ipv4.ip_unprivileged_port_start"},
		{"unknown network", spec("x", attach("nope")), cerrdefs.IsInternal, "network nope not found"},
		{"ingress network", spec("x", attach("ingress")), cerrdefs.IsInvalidArgument, "explicitly attached to the ingress network"},
		{"same network", spec("x", attach("back", "netid")), cerrdefs.IsInvalidArgument, "listed twice"},
		{"bridge", spec("x", attach("bridge")), cerrdefs.IsNotImplemented, "predefined network"},
		{"two modes", spec("x", func(s *swarm.ServiceSpec) {
			s.Mode = swarm.ServiceMode{Global: &swarm.GlobalService{}, Replicated: &swarm.ReplicatedService{}}
		}), cerrdefs.IsInvalidArgument, "only one service mode"},
		{"host port of the node's choice", spec("x", publish(0, "host")), cerrdefs.IsNotImplemented, "without naming the published port (published=PORT) is not supported yet"},
		{"secret", spec("x", container(func(c *swarm.ContainerSpec) { c.Secrets = []*swarm.SecretReference{{}} })), cerrdefs.IsNotImplemented, "secrets"},
		{"constraint", spec("x", func(s *swarm.ServiceSpec) {
			s.TaskTemplate.Placement = &swarm.Placement{Constraints: []string{"node.role==worker"}}
		}), cerrdefs.IsNotImplemented, "constraints"},
		{"cluster volume", spec("x", container(func(c *swarm.ContainerSpec) {
			c.Mounts = []mount.Mount{{Type: mount.TypeCluster, Target: "/a"}}
		})), cerrdefs.IsNotImplemented, "cluster volume"},
		{"sctp", spec("x", func(s *swarm.ServiceSpec) {
			s.EndpointSpec = &swarm.EndpointSpec{Ports: []swarm.PortConfig{{Protocol: "sctp", TargetPort: 1}}}
		}), cerrdefs.IsNotImplemented, "SCTP"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := c.ServiceCreate(t.Context(), tt.spec, swarm.ServiceCreateOptions{})
			wantError(t, err, tt.is, tt.text)
		})
	}
	if n := len(fc.store.View().Services()); n != 1 {
		t.Errorf("%d services after refusals", n)
	}
	create(t, c, spec("host2", publish(9001, "host"))) // host ports of two services may meet
}

func TestUpdateServiceRefused(t *testing.T) {
	_, c := startManager(t)
	id := create(t, c, spec("web"))
	for _, tt := range []struct {
		name string
		edit func(*swarm.ServiceSpec)
		opts swarm.ServiceUpdateOptions
		is   func(error) bool
		text string
	}{
		{"rename", func(s *swarm.ServiceSpec) { s.Name = "other" }, swarm.ServiceUpdateOptions{}, cerrdefs.IsNotImplemented, "renaming services is not supported"},
		{"mode", func(s *swarm.ServiceSpec) { s.Mode = swarm.ServiceMode{Global: &swarm.GlobalService{}} }, swarm.ServiceUpdateOptions{}, cerrdefs.IsNotImplemented, "service mode change is not allowed"},
		{"rollback of nothing", func(*swarm.ServiceSpec) {}, swarm.ServiceUpdateOptions{Rollback: "previous"}, cerrdefs.IsInvalidArgument, "service " + id + " does not have a previous spec"},
		{"no spec to take credentials from", func(*swarm.ServiceSpec) {}, swarm.ServiceUpdateOptions{RegistryAuthFrom: "previous-spec"}, cerrdefs.IsInvalidArgument, "does not have a previous spec"},
		{"unknown rollback", func(*swarm.ServiceSpec) {}, swarm.ServiceUpdateOptions{Rollback: "next"}, cerrdefs.IsInvalidArgument, "unrecognized rollback option next"},
		{"unknown credentials", func(*swarm.ServiceSpec) {}, swarm.ServiceUpdateOptions{RegistryAuthFrom: "me"}, cerrdefs.IsInvalidArgument, "unsupported registryAuthFrom value"},
		{"invalid", func(s *swarm.ServiceSpec) { s.TaskTemplate.ContainerSpec.Image = "" }, swarm.ServiceUpdateOptions{}, cerrdefs.IsInvalidArgument, "image reference must be provided"},
		{"auth", func(*swarm.ServiceSpec) {}, swarm.ServiceUpdateOptions{EncodedRegistryAuth: "eyJ1c2VybmFtZSI6Im1lIn0="}, cerrdefs.IsNotImplemented, "--with-registry-auth"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := inspect(t, c, id)
			tt.edit(&s.Spec)
			_, err := c.ServiceUpdate(t.Context(), id, s.Version, s.Spec, tt.opts)
			wantError(t, err, tt.is, tt.text)
		})
	}
	code, _, text := raw(t, socketOf(c), "POST", "/services/"+id+"/update", `{}`)
	if code != 400 || !strings.Contains(text, "invalid service version") {
		t.Errorf("update without a version: %d %s", code, text)
	}
}

func TestServiceNetworksAreStoredByID(t *testing.T) {
	fc, c := startManager(t)
	n, err := c.NetworkCreate(t.Context(), "back", network.CreateOptions{Driver: "overlay"})
	if err != nil {
		t.Fatal(err)
	}
	id := create(t, c, spec("web", func(s *swarm.ServiceSpec) {
		s.Networks = []swarm.NetworkAttachmentConfig{{Target: "back", Aliases: []string{"www"}}} //lint:ignore SA1019 old clients use it
	}))
	s := fc.store.View().Service(id)
	//lint:ignore SA1019 it must be empty
	if a := s.Spec.TaskTemplate.Networks; len(a) != 1 || a[0].Target != n.ID || a[0].Aliases[0] != "www" || len(s.Spec.Networks) != 0 {
		t.Errorf("networks: %+v", s.Spec)
	}
}

func TestServiceListFiltersAndStatus(t *testing.T) {
	fc, c := startManager(t)
	web := create(t, c, spec("web", func(s *swarm.ServiceSpec) { s.Labels = map[string]string{"tier": "front"} }))
	create(t, c, spec("webhook"))
	create(t, c, spec("db"))
	addTask(t, fc, web, "task1", 1, swarm.TaskStateRunning, swarm.TaskStateRunning)
	addTask(t, fc, web, "task2", 1, swarm.TaskStateRunning, swarm.TaskStateShutdown)
	for _, tt := range []struct {
		field, value string
		want         string
	}{
		{"name", "web", "web webhook"}, {"name", "webh", "webhook"}, {"id", web[:10], "web"}, {"label", "tier", "web"},
		{"label", "tier=front", "web"}, {"label", "tier=back", ""}, {"mode", "replicated", "db web webhook"}, {"mode", "global", ""},
		{"runtime", "plugin", ""},
	} {
		list, err := c.ServiceList(t.Context(), swarm.ServiceListOptions{Filters: filters.NewArgs(filters.Arg(tt.field, tt.value)), Status: true})
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, s := range list {
			names = append(names, s.Spec.Name)
			if s.ID == web && (s.ServiceStatus.RunningTasks != 1 || s.ServiceStatus.DesiredTasks != 1) {
				t.Errorf("status: %+v", s.ServiceStatus)
			}
		}
		if got := sorted(names); got != tt.want {
			t.Errorf("%s=%s: %q, want %q", tt.field, tt.value, got, tt.want)
		}
	}
	_, err := c.ServiceList(t.Context(), swarm.ServiceListOptions{Filters: filters.NewArgs(filters.Arg("color", "red"))})
	wantError(t, err, cerrdefs.IsInvalidArgument, "invalid filter 'color'")
}

func TestConstraintsAreJudgedByTheScheduler(t *testing.T) {
	fc := newFakeCluster(t)
	check := func(exprs []string) error {
		if exprs[0] == "bad" {
			return errors.New("invalid constraint: bad")
		}
		return nil
	}
	_, c := start(t, Config{Local: managerNode(fc), CheckConstraints: check})
	constrained := func(name, expr string) swarm.ServiceSpec {
		return spec(name, func(s *swarm.ServiceSpec) { s.TaskTemplate.Placement = &swarm.Placement{Constraints: []string{expr}} })
	}
	create(t, c, constrained("good", "node.role==worker"))
	_, err := c.ServiceCreate(t.Context(), constrained("x", "bad"), swarm.ServiceCreateOptions{})
	wantError(t, err, cerrdefs.IsInvalidArgument, "invalid constraint: bad")
}

// TestOldPortsStay: a node with fewer rights that joins later must not block updates of a service that was there before.
func TestOldPortsStay(t *testing.T) {
	fc, c := startManager(t)
	setMinPort := func(p uint16) {
		for _, n := range fc.store.View().Nodes() {
			n = n.Clone()
			n.MinPort = p
			fc.change(t, n)
		}
	}
	setMinPort(1)
	id := create(t, c, spec("web", publish(80, "")))
	setMinPort(1024)
	s := inspect(t, c, id)
	s.Spec.TaskTemplate.ForceUpdate++
	if _, err := c.ServiceUpdate(t.Context(), id, s.Version, s.Spec, swarm.ServiceUpdateOptions{}); err != nil {
		t.Errorf("update with an old port: %v", err)
	}
	s = inspect(t, c, id)
	publish(443, "")(&s.Spec)
	_, err := c.ServiceUpdate(t.Context(), id, s.Version, s.Spec, swarm.ServiceUpdateOptions{})
	wantError(t, err, cerrdefs.IsInvalidArgument, "port 443 needs privileges on node node1: publish 8443")
}
