package docker

import (
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/swarm"
	"github.com/docker/docker/api/types/system"

	"github.com/meshswarm/meshswarm/raft/state"
)

func TestCheckLimits(t *testing.T) {
	limits := &swarm.ResourceRequirements{Limits: &swarm.Limit{MemoryBytes: 1 << 20, NanoCPUs: 1e9, Pids: 5}}
	rootless := system.Info{CgroupVersion: "1", CgroupDriver: "none"}
	err := checkLimits(limits, rootless)
	if err == nil || !strings.Contains(err.Error(), "cannot limit memory and CPU and process (cgroup v1, driver none)") {
		t.Errorf("rootless on cgroup v1: %v", err)
	}
	if err := checkLimits(limits, system.Info{MemoryLimit: true, CPUCfsQuota: true, PidsLimit: true}); err != nil {
		t.Errorf("with all limits: %v", err)
	}
	if err := checkLimits(nil, rootless); err != nil {
		t.Errorf("no limits asked for: %v", err)
	}
	if err := checkLimits(&swarm.ResourceRequirements{Reservations: &swarm.Resources{MemoryBytes: 1}}, rootless); err != nil {
		t.Errorf("reservations are the scheduler's: %v", err)
	}
}

func TestCheckSpec(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*swarm.TaskSpec)
		want   string
	}{
		{"good", func(*swarm.TaskSpec) {}, ""},
		{"plugin", func(s *swarm.TaskSpec) { s.Runtime = swarm.RuntimePlugin }, "only services that run containers"},
		{"no image", func(s *swarm.TaskSpec) { s.ContainerSpec.Image = "" }, "names no image"},
		{"secret", func(s *swarm.TaskSpec) { s.ContainerSpec.Secrets = []*swarm.SecretReference{{}} }, "secrets are not supported yet"},
		{"config", func(s *swarm.TaskSpec) { s.ContainerSpec.Configs = []*swarm.ConfigReference{{}} }, "configs are not supported yet"},
		{"cluster volume", func(s *swarm.TaskSpec) { s.ContainerSpec.Mounts = []mount.Mount{{Type: mount.TypeCluster}} }, `mounts of type "cluster"`},
		{"hyperv", func(s *swarm.TaskSpec) { s.ContainerSpec.Isolation = "hyperv" }, "Windows"},
	} {
		t.Run(c.name, func(t *testing.T) {
			spec := swarm.TaskSpec{ContainerSpec: &swarm.ContainerSpec{Image: "web"}}
			c.change(&spec)
			err := checkSpec(state.AssignedTask{Spec: spec})
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestGenericEnv(t *testing.T) {
	named := func(kind, value string) swarm.GenericResource {
		return swarm.GenericResource{NamedResourceSpec: &swarm.NamedGenericResource{Kind: kind, Value: value}}
	}
	got := genericEnv([]swarm.GenericResource{
		named("GPU", "UUID2"), {DiscreteResourceSpec: &swarm.DiscreteGenericResource{Kind: "ssd", Value: 3}}, named("GPU", "UUID1"),
	})
	if want := []string{"DOCKER_RESOURCE_GPU=UUID2,UUID1", "DOCKER_RESOURCE_SSD=3"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A task of a global service is its node's: in its name, and for templates.
func TestGlobalTask(t *testing.T) {
	at := state.AssignedTask{
		Task: state.Task{ID: "task1", ServiceID: "service1", ServiceName: "web", NodeID: "node1"},
		Spec: swarm.TaskSpec{ContainerSpec: &swarm.ContainerSpec{Image: "web", Hostname: "{{.Service.Name}}-{{.Task.Slot}}"}},
	}
	e := &Executor{cfg: Config{NodeID: "node1", Hostname: "host1"}, info: &system.Info{OSType: "linux", Architecture: "x86_64"}, log: slog.New(slog.DiscardHandler)}
	made, err := e.Controller(at)
	if err != nil {
		t.Fatal(err)
	}
	c := made.(*controller)
	spec, err := c.expand(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if c.name != "web.node1.task1" || spec.Hostname != "web-node1" || c.labels(spec)["com.docker.swarm.task.name"] != "web.node1.task1" {
		t.Errorf("name %s, hostname %s, labels %v", c.name, spec.Hostname, c.labels(spec))
	}
}

func TestImageName(t *testing.T) {
	for in, want := range map[string]string{
		"nginx": "nginx:latest", "nginx:1": "nginx:1", "docker.io/library/nginx": "nginx:latest", "Not A Name": "Not A Name",
		"example.org:5000/a/b": "example.org:5000/a/b:latest",
	} {
		if got := imageName(in); got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
}

func TestSecurityOptions(t *testing.T) {
	got := securityOptions(&swarm.Privileges{
		NoNewPrivileges: true,
		SELinuxContext:  &swarm.SELinuxContext{Level: "s0", Type: "t"},
		Seccomp:         &swarm.SeccompOpts{Mode: swarm.SeccompModeCustom, Profile: []byte("{}")},
		AppArmor:        &swarm.AppArmorOpts{Mode: swarm.AppArmorModeDisabled},
	})
	want := []string{"label=level:s0", "label=type:t", "seccomp={}", "apparmor=unconfined", "no-new-privileges=true"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestTemplates(t *testing.T) {
	var d placeholders
	d.Task.Slot = "3"
	spec := swarm.ContainerSpec{
		Hostname: "{{.Task.Slot}}", Env: []string{"{{A}}={{.Task.Slot}}", "B"},
		Mounts: []mount.Mount{{Source: "v-{{.Task.Slot}}", Target: "/t", VolumeOptions: &mount.VolumeOptions{Labels: map[string]string{"k": "{{.Task.Slot}}"}}}},
	}
	kept := spec.Mounts[0].VolumeOptions
	if err := d.expandInto(&spec); err != nil {
		t.Fatal(err)
	}
	if spec.Hostname != "3" || !slices.Equal(spec.Env, []string{"{{A}}=3", "B"}) || spec.Mounts[0].Source != "v-3" || spec.Mounts[0].VolumeOptions.Labels["k"] != "3" {
		t.Errorf("expanded: %+v", spec)
	}
	if kept.Labels["k"] != "{{.Task.Slot}}" {
		t.Error("expanding changed the assignment")
	}
}
