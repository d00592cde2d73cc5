package api

import (
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/swarm"
)

// minusOne is what a client's cast of -1 comes as.
const minusOne = uint64(math.MaxUint64)

func inContainer(f func(*swarm.ContainerSpec)) func(*swarm.ServiceSpec) {
	return func(s *swarm.ServiceSpec) { f(s.TaskTemplate.ContainerSpec) }
}

func withMount(m mount.Mount) func(*swarm.ServiceSpec) {
	return inContainer(func(c *swarm.ContainerSpec) { c.Mounts = append(c.Mounts, m) })
}

func withHealth(h container.HealthConfig) func(*swarm.ServiceSpec) {
	return inContainer(func(c *swarm.ContainerSpec) { c.Healthcheck = &h })
}

func withUpdate(u swarm.UpdateConfig) func(*swarm.ServiceSpec) {
	return func(s *swarm.ServiceSpec) { s.UpdateConfig = &u }
}

func withRollback(u swarm.UpdateConfig) func(*swarm.ServiceSpec) {
	return func(s *swarm.ServiceSpec) { s.RollbackConfig = &u }
}

func withRestart(p swarm.RestartPolicy) func(*swarm.ServiceSpec) {
	return func(s *swarm.ServiceSpec) { s.TaskTemplate.RestartPolicy = &p }
}

func withResources(r swarm.ResourceRequirements) func(*swarm.ServiceSpec) {
	return func(s *swarm.ServiceSpec) { s.TaskTemplate.Resources = &r }
}

func reserve(rs ...swarm.GenericResource) func(*swarm.ServiceSpec) {
	return withResources(swarm.ResourceRequirements{Reservations: &swarm.Resources{GenericResources: rs}})
}

func discrete(kind string, n int64) swarm.GenericResource {
	return swarm.GenericResource{DiscreteResourceSpec: &swarm.DiscreteGenericResource{Kind: kind, Value: n}}
}

func withPlacement(p swarm.Placement) func(*swarm.ServiceSpec) {
	return func(s *swarm.ServiceSpec) { s.TaskTemplate.Placement = &p }
}

func spread(over string) func(*swarm.ServiceSpec) {
	return withPlacement(swarm.Placement{Preferences: []swarm.PlacementPreference{{Spread: &swarm.SpreadOver{SpreadDescriptor: over}}}})
}

func withLabel(k, v string) func(*swarm.ServiceSpec) {
	return func(s *swarm.ServiceSpec) { s.Labels = map[string]string{k: v} }
}

// TestServiceSpecs has what Swarm's control API refuses, with its texts, and what is of no use by our own judgement.
func TestServiceSpecs(t *testing.T) {
	fc := newFakeCluster(t)
	_, c := start(t, Config{Local: managerNode(fc), CheckConstraints: func(exprs []string) error {
		if strings.HasPrefix(exprs[0], "node.rol ") {
			return errors.New("unknown key node.rol: did you mean node.role?")
		}
		return nil
	}})
	type edits = []func(*swarm.ServiceSpec)
	second, negative, short := time.Second, -time.Second, 100*time.Microsecond
	for _, tt := range []struct {
		name  string
		edits edits
		code  int
		text  string // a part of the message of a refusal
	}{
		{"two modes", edits{withMode(swarm.ServiceMode{Global: &swarm.GlobalService{}, GlobalJob: &swarm.GlobalJob{}})}, 400, "must specify only one service mode"},
		{"negative replicas", edits{withMode(swarm.ServiceMode{Replicated: &swarm.ReplicatedService{Replicas: number(minusOne)}})}, 400, "Number of replicas must be non-negative"},
		{"too many replicas", edits{withMode(swarm.ServiceMode{Replicated: &swarm.ReplicatedService{Replicas: number(maxTasks + 1)}})}, 400, "Number of replicas must be at most 1048576"},
		{"no replicas", edits{withMode(swarm.ServiceMode{Replicated: &swarm.ReplicatedService{Replicas: number(0)}})}, 201, ""},
		{"negative concurrency", edits{jobMode(number(minusOne), nil)}, 400, "Maximum concurrent jobs must not be negative"},
		{"negative completions", edits{jobMode(nil, number(minusOne))}, 400, "Total completed jobs must not be negative"},
		{"no concurrency", edits{jobMode(number(0), number(5))}, 400, "none of the 5 would ever run: set --max-concurrent"},
		{"update config of a job", edits{jobMode(nil, nil), withUpdate(swarm.UpdateConfig{})}, 400, "Jobs may not have an update config"},
		{"update config of a global job", edits{globalJobMode(), withUpdate(swarm.UpdateConfig{})}, 400, "Jobs may not have an update config"},
		{"rollback config of a job", edits{jobMode(nil, nil), withRollback(swarm.UpdateConfig{})}, 400, "Jobs may not have a rollback config"},

		{"cpu limit", edits{withResources(swarm.ResourceRequirements{Limits: &swarm.Limit{NanoCPUs: 5}})}, 400, "invalid cpu value 5e-09: Must be at least 0.001"},
		{"cpu reservation", edits{withResources(swarm.ResourceRequirements{Reservations: &swarm.Resources{NanoCPUs: -5}})}, 400, "Must be at least 0.001"},
		{"memory limit", edits{withResources(swarm.ResourceRequirements{Limits: &swarm.Limit{MemoryBytes: 5}})}, 400, "invalid memory value 5: Must be at least 4MiB"},
		{"memory reservation", edits{withResources(swarm.ResourceRequirements{Reservations: &swarm.Resources{MemoryBytes: -5}})}, 400, "Must be at least 4MiB"},
		{"pids", edits{withResources(swarm.ResourceRequirements{Limits: &swarm.Limit{Pids: -1}})}, 400, "invalid pids limit -1"},
		{"least resources", edits{withResources(swarm.ResourceRequirements{Limits: &swarm.Limit{NanoCPUs: 1e6, MemoryBytes: 4 << 20}})}, 201, ""},
		{"generic resource", edits{reserve(discrete("GPU", 2), discrete("nvidia.com/gpu", 0))}, 201, ""},
		{"named generic resource", edits{reserve(swarm.GenericResource{NamedResourceSpec: &swarm.NamedGenericResource{Kind: "GPU", Value: "UUID1"}})}, 400, "invalid argument for resource GPU"},
		{"negative generic resource", edits{reserve(discrete("GPU", -1))}, 400, "invalid argument for resource GPU: -1 must not be negative"},
		{"generic resource of no kind", edits{reserve(discrete("", 1))}, 400, `invalid kind ""`},
		{"generic resource of a strange kind", edits{reserve(discrete("A=B", 1))}, 400, `invalid kind "A=B"`},
		{"empty generic resource", edits{reserve(swarm.GenericResource{})}, 400, "no amount is given"},
		{"generic resource twice", edits{reserve(discrete("GPU", 1), discrete("GPU", 2))}, 400, "generic resource GPU is listed twice"},

		{"restart delay", edits{withRestart(swarm.RestartPolicy{Delay: &negative})}, 400, "TaskSpec: restart-delay cannot be negative"},
		{"restart window", edits{withRestart(swarm.RestartPolicy{Window: &negative})}, 400, "TaskSpec: restart-window cannot be negative"},
		{"restart condition", edits{withRestart(swarm.RestartPolicy{Condition: "sometimes"})}, 400, `invalid RestartCondition: "sometimes"`},
		{"restart attempts", edits{withRestart(swarm.RestartPolicy{MaxAttempts: number(minusOne)})}, 400, "TaskSpec: restart-max-attempts cannot be negative"},

		{"update delay", edits{withUpdate(swarm.UpdateConfig{Delay: negative})}, 400, "TaskSpec: update-delay cannot be negative"},
		{"update monitor", edits{withUpdate(swarm.UpdateConfig{Monitor: negative})}, 400, "TaskSpec: update-monitor cannot be negative"},
		{"update ratio", edits{withUpdate(swarm.UpdateConfig{MaxFailureRatio: 1.1})}, 400, "TaskSpec: update-maxfailureratio cannot be less than 0 or bigger than 1"},
		{"negative update ratio", edits{withUpdate(swarm.UpdateConfig{MaxFailureRatio: -0.1})}, 400, "TaskSpec: update-maxfailureratio cannot be less than 0 or bigger than 1"},
		{"update parallelism", edits{withUpdate(swarm.UpdateConfig{Parallelism: minusOne})}, 400, "TaskSpec: update-parallelism cannot be negative"},
		{"update action", edits{withUpdate(swarm.UpdateConfig{FailureAction: "weep"})}, 400, "unrecognized update failure action weep"},
		{"update order", edits{withUpdate(swarm.UpdateConfig{Order: "both-first"})}, 400, "unrecognized update order both-first"},
		{"rolling back by itself", edits{withUpdate(swarm.UpdateConfig{FailureAction: "rollback"})}, 201, ""},
		{"rollback delay", edits{withRollback(swarm.UpdateConfig{Delay: negative})}, 400, "TaskSpec: rollback-delay cannot be negative"},
		{"rollback ratio", edits{withRollback(swarm.UpdateConfig{MaxFailureRatio: 2})}, 400, "TaskSpec: rollback-maxfailureratio cannot be"},
		{"rollback order", edits{withRollback(swarm.UpdateConfig{Order: "both-first"})}, 400, "unrecognized update order both-first"},
		{"rollback of a rollback", edits{withRollback(swarm.UpdateConfig{FailureAction: "rollback"})}, 400, "a rollback that fails cannot be rolled back"},
		{"start-first over a host port on each node", edits{globalMode(), publish(9100, "host"), withUpdate(swarm.UpdateConfig{Order: "start-first"})}, 400,
			"update order start-first cannot work for a global service that publishes port 9100 in host mode"},
		{"rollback start-first over a host port on each node", edits{globalMode(), publish(9100, "host"), withRollback(swarm.UpdateConfig{Order: "start-first"})}, 400, "rollback order start-first cannot work"},
		{"start-first over host ports", edits{publish(9100, "host"), withUpdate(swarm.UpdateConfig{Order: "start-first"})}, 201, ""},
		{"start-first on each node", edits{globalMode(), publish(9200, ""), withUpdate(swarm.UpdateConfig{Order: "start-first"})}, 201, ""},

		{"unknown constraint", edits{withPlacement(swarm.Placement{Constraints: []string{"node.rol == worker"}})}, 400, "unknown key node.rol: did you mean node.role?"},
		{"max replicas of a global service", edits{globalMode(), withPlacement(swarm.Placement{MaxReplicas: 1})}, 400, "replicas-max-per-node can only be used with replicated or replicated-job mode"},
		{"max replicas of a global job", edits{globalJobMode(), withPlacement(swarm.Placement{MaxReplicas: 1})}, 400, "replicas-max-per-node can only be used with replicated or replicated-job mode"},
		{"max replicas of a job", edits{jobMode(nil, nil), withPlacement(swarm.Placement{MaxReplicas: 1})}, 201, ""},
		{"negative max replicas", edits{withPlacement(swarm.Placement{MaxReplicas: minusOne})}, 400, "replicas-max-per-node must not be negative"},
		{"spread", edits{spread("node.labels.rack")}, 201, ""},
		{"spread over engine labels", edits{spread("Engine.Labels.zone")}, 201, ""},
		{"spread over the unknown", edits{spread("node.label.rack")}, 400, "spread=node.label.rack: replicas are spread over node.labels.NAME or engine.labels.NAME"},
		{"spread over a label without a name", edits{spread("node.labels.")}, 400, "replicas are spread over"},
		{"preference of nothing", edits{withPlacement(swarm.Placement{Preferences: []swarm.PlacementPreference{{}}})}, 400, "spread is the only kind"},

		{"health interval", edits{withHealth(container.HealthConfig{Interval: short})}, 400, "ContainerSpec: Interval in HealthConfig cannot be less than 1ms"},
		{"health timeout", edits{withHealth(container.HealthConfig{Timeout: negative})}, 400, "ContainerSpec: Timeout in HealthConfig cannot be less than 1ms"},
		{"health start period", edits{withHealth(container.HealthConfig{StartPeriod: short})}, 400, "ContainerSpec: StartPeriod in HealthConfig cannot be less than 1ms"},
		{"health start interval", edits{withHealth(container.HealthConfig{StartInterval: short})}, 400, "ContainerSpec: StartInterval in HealthConfig cannot be less than 1ms"},
		{"health retries", edits{withHealth(container.HealthConfig{Retries: -1})}, 400, "ContainerSpec: Retries in HealthConfig cannot be negative"},
		{"health", edits{withHealth(container.HealthConfig{Interval: second})}, 201, ""},
		{"grace", edits{inContainer(func(c *swarm.ContainerSpec) { c.StopGracePeriod = &negative })}, 400, "stop-grace-period cannot be negative"},
		{"isolation", edits{inContainer(func(c *swarm.ContainerSpec) { c.Isolation = container.IsolationHyperV })}, 501, `isolation "hyperv"`},
		{"seccomp", edits{inContainer(func(c *swarm.ContainerSpec) {
			c.Privileges = &swarm.Privileges{Seccomp: &swarm.SeccompOpts{Mode: "loose"}}
		})}, 400, `invalid seccomp mode: "loose"`},
		{"seccomp without a profile", edits{inContainer(func(c *swarm.ContainerSpec) {
			c.Privileges = &swarm.Privileges{Seccomp: &swarm.SeccompOpts{Mode: swarm.SeccompModeCustom}}
		})}, 400, "a seccomp profile goes with"},
		{"apparmor", edits{inContainer(func(c *swarm.ContainerSpec) {
			c.Privileges = &swarm.Privileges{AppArmor: &swarm.AppArmorOpts{Mode: "loose"}}
		})}, 400, `invalid AppArmor mode: "loose"`},
		{"template", edits{inContainer(func(c *swarm.ContainerSpec) { c.Env = []string{"A={{.Service.Color}}"} })}, 400, `invalid template "A={{.Service.Color}}"`},
		{"template of labels", edits{withLabel("color", "red"), inContainer(func(c *swarm.ContainerSpec) {
			c.Env = []string{`A={{.Service.Labels.color}}-{{.Task.Slot}}`}
		})}, 201, ""},

		{"bind", edits{withMount(mount.Mount{Type: mount.TypeBind, Source: "/a", Target: "/b", BindOptions: &mount.BindOptions{Propagation: mount.PropagationRShared}})}, 201, ""},
		{"bind of the node's choice", edits{withMount(mount.Mount{Type: mount.TypeBind, Source: "{{.Node.Hostname}}", Target: "{{.Service.Name}}"})}, 201, ""},
		{"bind by default", edits{withMount(mount.Mount{Source: "data", Target: "/b"})}, 400, "invalid bind mount source, must be an absolute path: data"},
		{"bind of nothing", edits{withMount(mount.Mount{Type: mount.TypeBind, Target: "/b"})}, 400, "invalid bind mount source, must be an absolute path"},
		{"relative target", edits{withMount(mount.Mount{Type: mount.TypeVolume, Source: "data", Target: "b"})}, 400, "invalid mount target, must be an absolute path: b"},
		{"no target", edits{withMount(mount.Mount{Type: mount.TypeVolume, Source: "data"})}, 400, "invalid mount target"},
		{"volume of a path", edits{withMount(mount.Mount{Type: mount.TypeVolume, Source: "/a", Target: "/b"})}, 400, "invalid volume mount source, must not be an absolute path: /a"},
		{"tmpfs of a source", edits{withMount(mount.Mount{Type: mount.TypeTmpfs, Source: "a", Target: "/b"})}, 400, "invalid tmpfs source, source must be empty"},
		{"mount type", edits{withMount(mount.Mount{Type: "nfs", Source: "a", Target: "/b"})}, 400, `invalid MountType: "nfs"`},
		{"mount propagation", edits{withMount(mount.Mount{Type: mount.TypeBind, Source: "/a", Target: "/b", BindOptions: &mount.BindOptions{Propagation: "wild"}})}, 400, `invalid MountPropagation: "wild"`},
		{"volume options of a bind", edits{withMount(mount.Mount{Type: mount.TypeBind, Source: "/a", Target: "/b", VolumeOptions: &mount.VolumeOptions{NoCopy: true}})}, 400,
			`invalid mount config for type "bind": field VolumeOptions must not be specified`},
		{"empty options of another type", edits{withMount(mount.Mount{Type: mount.TypeVolume, Source: "a", Target: "/b",
			BindOptions: &mount.BindOptions{}, TmpfsOptions: &mount.TmpfsOptions{}})}, 201, ""},

		{"update timeout", edits{withLabel("meshswarm.update.timeout", "90s")}, 201, ""},
		{"short update timeout", edits{withLabel("meshswarm.update.timeout", "900ms")}, 400, "must be a duration of at least 1s"},
		{"strange update timeout", edits{withLabel("meshswarm.update.timeout", "soon")}, 400, `invalid label meshswarm.update.timeout="soon"`},
		{"rebalance", edits{withLabel("meshswarm.rebalance", "auto")}, 201, ""},
		{"no rebalance of a global service", edits{globalMode(), withLabel("meshswarm.rebalance", "off")}, 201, ""},
		{"rebalance of a global service", edits{globalMode(), withLabel("meshswarm.rebalance", "auto")}, 400, "only replicated services can be rebalanced"},
		{"strange rebalance", edits{withLabel("meshswarm.rebalance", "always")}, 400, `must be "auto" or "off"`},
		{"unknown label of ours", edits{withLabel("meshswarm.rebalanced", "auto")}, 400, "unknown label meshswarm.rebalanced"},
		{"label of others", edits{withLabel("meshswarmish.rebalanced", "auto")}, 201, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			body, err := json.Marshal(spec("x", tt.edits...))
			if err != nil {
				t.Fatal(err)
			}
			code, _, text := raw(t, socketOf(c), http.MethodPost, "/services/create", string(body))
			var answer struct{ Message string }
			if err := json.Unmarshal([]byte(text), &answer); err != nil || code != tt.code || !strings.Contains(answer.Message, tt.text) {
				t.Errorf("%d %s, want %d %s", code, text, tt.code, tt.text)
			}
			if code == http.StatusCreated {
				if err := c.ServiceRemove(t.Context(), "x"); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// TestNumbersThatAreNone: what does not fit a field is the client's mistake.
func TestNumbersThatAreNone(t *testing.T) {
	_, c := startManager(t)
	for name, mode := range map[string]string{
		"negative": `{"Replicated":{"Replicas":-1}}`, "fraction": `{"Replicated":{"Replicas":1.5}}`, "text": `{"Replicated":{"Replicas":"many"}}`,
	} {
		code, _, text := raw(t, socketOf(c), http.MethodPost, "/services/create",
			`{"Name":"x","TaskTemplate":{"ContainerSpec":{"Image":"a"}},"Mode":`+mode+`}`)
		if code != http.StatusBadRequest {
			t.Errorf("%s: %d %s", name, code, text)
		}
	}
}

// TestMountDefaults: what is stored is what Docker would show.
func TestMountDefaults(t *testing.T) {
	_, c := startManager(t)
	id := create(t, c, spec("web", withMount(mount.Mount{Source: "/a", Target: "/b"}), withMount(mount.Mount{
		Type: mount.TypeVolume, Source: "a", Target: "/c", BindOptions: &mount.BindOptions{}, VolumeOptions: &mount.VolumeOptions{},
	})))
	m := inspect(t, c, id).Spec.TaskTemplate.ContainerSpec.Mounts
	if m[0].Type != mount.TypeBind || m[1].BindOptions != nil || m[1].VolumeOptions == nil {
		t.Errorf("mounts: %+v", m)
	}
}
