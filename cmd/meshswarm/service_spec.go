package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/docker/cli/opts"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/swarm"
)

// networkFinder turns names of networks into IDs.
type networkFinder interface {
	NetworkInspect(ctx context.Context, name string, o network.InspectOptions) (network.Inspect, error)
}

// spec makes the ServiceSpec of service create; set tells which flags were given. What it sends for a command line
// is what the docker command sends for the same one.
func (o *serviceOptions) spec(ctx context.Context, finder networkFinder, set func(string) bool) (swarm.ServiceSpec, error) {
	env, err := o.environment()
	if err != nil {
		return swarm.ServiceSpec{}, err
	}
	health, err := o.health.config()
	if err != nil {
		return swarm.ServiceSpec{}, err
	}
	mode, err := o.serviceMode()
	if err != nil {
		return swarm.ServiceSpec{}, err
	}
	resources, err := requestedResources(o.resources.GetSlice())
	if err != nil {
		return swarm.ServiceSpec{}, err
	}
	update, rollback := o.update.config(set), o.rollback.config(set)
	if (mode.ReplicatedJob != nil || mode.GlobalJob != nil) && (update != nil || rollback != nil) {
		return swarm.ServiceSpec{}, errors.New("update and rollback configuration is not supported for jobs")
	}
	networks, err := o.attachments(ctx, finder)
	if err != nil {
		return swarm.ServiceSpec{}, err
	}
	sortAttachments(networks)
	capAdd, capDrop := opts.EffectiveCapAddCapDrop(o.capAdd.GetSlice(), o.capDrop.GetSlice())
	return swarm.ServiceSpec{
		Annotations: swarm.Annotations{Name: o.name, Labels: opts.ConvertKVStringsToMap(o.labels.GetSlice())},
		TaskTemplate: swarm.TaskSpec{
			ContainerSpec: &swarm.ContainerSpec{
				Image:           o.image,
				Args:            o.args,
				Command:         o.entrypoint,
				Env:             env,
				Hostname:        o.hostname,
				Labels:          opts.ConvertKVStringsToMap(o.containerLabels.GetSlice()),
				Dir:             o.workdir,
				User:            o.user,
				Groups:          o.groups.GetSlice(),
				StopSignal:      o.stopSignal,
				StopGracePeriod: o.stopGrace.Value(),
				TTY:             o.tty,
				ReadOnly:        o.readOnly,
				Mounts:          o.mounts.Value(),
				Init:            &o.init,
				DNSConfig: &swarm.DNSConfig{
					Nameservers: o.dns.GetSlice(), Search: o.dnsSearch.GetSlice(), Options: o.dnsOption.GetSlice(),
				},
				Hosts:          hostEntries(o.hosts.GetSlice()),
				Healthcheck:    health,
				Sysctls:        opts.ConvertKVStringsToMap(o.sysctls.GetSlice()),
				CapabilityAdd:  capAdd,
				CapabilityDrop: capDrop,
				Ulimits:        o.ulimits.GetList(),
				OomScoreAdj:    o.oomScoreAdj,
			},
			Networks: networks,
			Resources: &swarm.ResourceRequirements{
				Limits: &swarm.Limit{NanoCPUs: o.limitCPU.Value(), MemoryBytes: o.limitMemory.Value(), Pids: o.limitPids},
				Reservations: &swarm.Resources{
					NanoCPUs: o.reserveCPU.Value(), MemoryBytes: o.reserveMemory.Value(), GenericResources: resources,
				},
			},
			RestartPolicy: o.restart.policy(set),
			Placement: &swarm.Placement{
				Constraints: o.constraints.GetSlice(), Preferences: o.prefs, MaxReplicas: o.maxPerNode,
			},
			LogDriver: o.driver(),
		},
		Mode:           mode,
		UpdateConfig:   update,
		RollbackConfig: rollback,
		EndpointSpec:   &swarm.EndpointSpec{Mode: swarm.ResolutionMode(strings.ToLower(o.endpointMode)), Ports: o.publish.Value()},
	}, nil
}

// environment is the files' and flags' variables; the last one of a name wins and stands where the last one stood.
func (o *serviceOptions) environment() ([]string, error) {
	all, err := opts.ReadKVEnvStrings(o.envFile.GetSlice(), o.env.GetSlice())
	if err != nil {
		return nil, err
	}
	env := make([]string, 0, len(all))
	for _, v := range all {
		env = append(slices.DeleteFunc(env, func(old string) bool { return keyOf(old) == keyOf(v) }), v)
	}
	return env, nil
}

func keyOf(kv string) string {
	k, _, _ := strings.Cut(kv, "=")
	return k
}

func (o *serviceOptions) serviceMode() (swarm.ServiceMode, error) {
	job, replicated := o.mode == "replicated-job", o.mode == "replicated"
	switch {
	case !slices.Contains([]string{"replicated", "global", "replicated-job", "global-job"}, o.mode):
		return swarm.ServiceMode{}, fmt.Errorf("unknown mode: %s: write replicated, global, replicated-job or global-job", o.mode)
	case o.replicas.p != nil && !replicated && !job:
		return swarm.ServiceMode{}, errReplicas
	case o.maxPerNode > 0 && !replicated && !job:
		return swarm.ServiceMode{}, errors.New("replicas-max-per-node can only be used with replicated or replicated-job mode")
	case o.maxConcurrent.p != nil && !job:
		return swarm.ServiceMode{}, errMaxConcurrent
	}
	switch o.mode {
	case "global":
		return swarm.ServiceMode{Global: &swarm.GlobalService{}}, nil
	case "global-job":
		return swarm.ServiceMode{GlobalJob: &swarm.GlobalJob{}}, nil
	case "replicated-job":
		return swarm.ServiceMode{ReplicatedJob: &swarm.ReplicatedJob{
			MaxConcurrent: cmp.Or(o.maxConcurrent.p, o.replicas.p), TotalCompletions: o.replicas.p,
		}}, nil
	}
	return swarm.ServiceMode{Replicated: &swarm.ReplicatedService{Replicas: o.replicas.p}}, nil
}

var (
	errReplicas      = errors.New("replicas can only be used with replicated or replicated-job mode")
	errMaxConcurrent = errors.New("max-concurrent can only be used with replicated-job mode")
)

// attachments looks the networks up, in the order of the flags.
func (o *serviceOptions) attachments(ctx context.Context, finder networkFinder) ([]swarm.NetworkAttachmentConfig, error) {
	wanted := o.networks.Value()
	list := make([]swarm.NetworkAttachmentConfig, 0, len(wanted))
	for _, w := range wanted {
		id, err := networkID(ctx, finder, w.Target)
		if err != nil {
			return nil, err
		}
		list = append(list, swarm.NetworkAttachmentConfig{Target: id, Aliases: w.Aliases, DriverOpts: w.DriverOpts})
	}
	return list, nil
}

func sortAttachments(list []swarm.NetworkAttachmentConfig) {
	sort.SliceStable(list, func(i, j int) bool { return list[i].Target < list[j].Target })
}

func networkID(ctx context.Context, finder networkFinder, name string) (string, error) {
	n, err := finder.NetworkInspect(ctx, name, network.InspectOptions{Scope: "swarm"})
	if err != nil {
		return "", fmt.Errorf("network %s: %w", name, err)
	}
	return n.ID, nil
}

func (o *serviceOptions) driver() *swarm.Driver {
	if o.logDriver == "" {
		return nil
	}
	return &swarm.Driver{Name: o.logDriver, Options: opts.ConvertKVStringsToMap(o.logOpts.GetSlice())}
}

// hostEntries turns name:ip into the spec's "ip name".
func hostEntries(hosts []string) []string {
	list := make([]string, 0, len(hosts))
	for _, h := range hosts {
		if name, ip, ok := strings.Cut(h, ":"); ok {
			list = append(list, ip+" "+name)
		}
	}
	return list
}

func anySet(set func(string) bool, names ...string) bool { return slices.ContainsFunc(names, set) }

var restartFlags = []string{"restart-condition", "restart-delay", "restart-max-attempts", "restart-window"}

// policy is nil, for the swarm's default, unless a flag says otherwise.
func (r *restartOptions) policy(set func(string) bool) *swarm.RestartPolicy {
	if !anySet(set, restartFlags...) {
		return nil
	}
	policy := defaultRestartPolicy()
	r.apply(policy, set)
	return policy
}

func defaultRestartPolicy() *swarm.RestartPolicy {
	delay, attempts := 5*time.Second, uint64(0)
	return &swarm.RestartPolicy{Condition: swarm.RestartPolicyConditionAny, Delay: &delay, MaxAttempts: &attempts}
}

func (r *restartOptions) apply(policy *swarm.RestartPolicy, set func(string) bool) {
	if set("restart-condition") {
		policy.Condition = swarm.RestartPolicyCondition(r.condition)
	}
	if set("restart-delay") {
		policy.Delay = r.delay.Value()
	}
	if set("restart-max-attempts") {
		policy.MaxAttempts = r.maxAttempts.p
	}
	if set("restart-window") {
		policy.Window = r.window.Value()
	}
}

// config is nil, for the swarm's default, unless a flag says otherwise.
func (u *updateOptions) config(set func(string) bool) *swarm.UpdateConfig {
	if !anySet(set, u.flagNames()...) {
		return nil
	}
	config := defaultUpdateConfig()
	u.apply(config, set)
	return config
}

func defaultUpdateConfig() *swarm.UpdateConfig {
	return &swarm.UpdateConfig{
		Parallelism: 1, Monitor: 5 * time.Second,
		FailureAction: swarm.UpdateFailureActionPause, Order: swarm.UpdateOrderStopFirst,
	}
}

func (u *updateOptions) apply(config *swarm.UpdateConfig, set func(string) bool) {
	if set(u.flag("parallelism")) {
		config.Parallelism = u.parallelism
	}
	if set(u.flag("delay")) {
		config.Delay = u.delay
	}
	if set(u.flag("monitor")) {
		config.Monitor = u.monitor
	}
	if set(u.flag("failure-action")) {
		config.FailureAction = u.failureAction
	}
	if set(u.flag("max-failure-ratio")) {
		config.MaxFailureRatio = float32(u.maxFailureRatio)
	}
	if set(u.flag("order")) {
		config.Order = u.order
	}
}

// config is nil, for the image's own healthcheck, unless a flag says otherwise.
func (h *healthOptions) config() (*container.HealthConfig, error) {
	config := container.HealthConfig{
		Interval: valueOf(h.interval.Value()), Timeout: valueOf(h.timeout.Value()), Retries: int(h.retries),
		StartPeriod: valueOf(h.startPeriod.Value()), StartInterval: valueOf(h.startInterval.Value()),
	}
	given := h.cmd != "" || h.retries != 0 || config.Interval != 0 || config.Timeout != 0 || config.StartPeriod != 0 || config.StartInterval != 0
	switch {
	case h.none && given:
		return nil, errHealthConflict
	case h.none:
		return &container.HealthConfig{Test: []string{"NONE"}}, nil
	case !given:
		return nil, nil
	}
	if h.cmd != "" {
		config.Test = []string{"CMD-SHELL", h.cmd}
	}
	return &config, nil
}

var errHealthConflict = errors.New("--no-healthcheck conflicts with --health-* options")

func valueOf[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
