package main

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/docker/cli/opts"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/swarm"
)

// specChange applies the flags of service update to the spec of a service: what no flag names stays as it is. The
// rules (what replaces, what adds, in what order) are those of the docker command.
type specChange struct {
	o    *serviceOptions
	set  func(string) bool
	node networkFinder
	spec *swarm.ServiceSpec
}

func (c *specChange) any(names ...string) bool { return anySet(c.set, names...) }

func (c *specChange) apply(ctx context.Context) error {
	if c.spec.TaskTemplate.ContainerSpec == nil {
		return errors.New("this service runs no containers: it cannot be changed here")
	}
	if err := c.applyMode(); err != nil {
		return err
	}
	if err := c.applyNetworks(ctx); err != nil {
		return err
	}
	if err := c.applyHealth(); err != nil {
		return err
	}
	if err := c.applyMounts(); err != nil {
		return err
	}
	if err := c.applyResources(); err != nil {
		return err
	}
	c.applyLabels()
	c.applyContainer()
	c.applyContainerLists()
	c.applyCapabilities()
	c.applyPlacement()
	c.applyPolicies()
	c.applyEndpoint()
	return nil
}

// assign sets a field to a flag's value if the flag was given.
func assign[T any](c *specChange, flag string, field *T, v T) {
	if c.set(flag) {
		*field = v
	}
}

func (c *specChange) applyMode() error {
	mode := &c.spec.Mode
	switch {
	case !c.set("replicas"):
	case mode.Replicated != nil:
		mode.Replicated.Replicas = c.o.replicas.p
	case mode.ReplicatedJob != nil:
		mode.ReplicatedJob.TotalCompletions = c.o.replicas.p
	default:
		return errReplicas
	}
	switch {
	case !c.set("max-concurrent"):
	case mode.ReplicatedJob != nil:
		mode.ReplicatedJob.MaxConcurrent = c.o.maxConcurrent.p
	default:
		return errMaxConcurrent
	}
	return nil
}

func (c *specChange) applyLabels() {
	container := c.spec.TaskTemplate.ContainerSpec
	c.spec.Labels = changeMap(c.spec.Labels, c.o.labels, c.o.remove.labels)
	container.Labels = changeMap(container.Labels, c.o.containerLabels, c.o.remove.containerLabels)
}

func (c *specChange) applyContainer() {
	o, container := c.o, c.spec.TaskTemplate.ContainerSpec
	assign(c, "image", &container.Image, o.image)
	assign(c, "args", &container.Args, []string(o.updateArgs))
	assign(c, "entrypoint", &container.Command, []string(o.entrypoint))
	assign(c, "workdir", &container.Dir, o.workdir)
	assign(c, "user", &container.User, o.user)
	assign(c, "hostname", &container.Hostname, o.hostname)
	assign(c, "init", &container.Init, &o.init)
	assign(c, "tty", &container.TTY, o.tty)
	assign(c, "read-only", &container.ReadOnly, o.readOnly)
	assign(c, "stop-signal", &container.StopSignal, o.stopSignal)
	assign(c, "stop-grace-period", &container.StopGracePeriod, o.stopGrace.Value())
	assign(c, "oom-score-adj", &container.OomScoreAdj, o.oomScoreAdj)
	if c.set("log-driver") && o.logDriver != "" {
		c.spec.TaskTemplate.LogDriver = o.driver()
	}
	if o.force {
		c.spec.TaskTemplate.ForceUpdate++
	}
}

func (c *specChange) applyCapabilities() {
	if !c.any("cap-add", "cap-drop") {
		return
	}
	container := c.spec.TaskTemplate.ContainerSpec
	container.CapabilityAdd, container.CapabilityDrop = changeCapabilities(
		container.CapabilityAdd, container.CapabilityDrop, c.o.capAdd.GetSlice(), c.o.capDrop.GetSlice())
}

func (c *specChange) applyResources() error {
	if !c.any("limit-cpu", "limit-memory", "limit-pids", "reserve-cpu", "reserve-memory", "generic-resource-add", "generic-resource-rm") {
		return nil
	}
	task := &c.spec.TaskTemplate
	if task.Resources == nil {
		task.Resources = &swarm.ResourceRequirements{}
	}
	if task.Resources.Limits == nil {
		task.Resources.Limits = &swarm.Limit{}
	}
	if task.Resources.Reservations == nil {
		task.Resources.Reservations = &swarm.Resources{}
	}
	assign(c, "limit-cpu", &task.Resources.Limits.NanoCPUs, c.o.limitCPU.Value())
	assign(c, "limit-memory", &task.Resources.Limits.MemoryBytes, c.o.limitMemory.Value())
	assign(c, "limit-pids", &task.Resources.Limits.Pids, c.o.limitPids)
	assign(c, "reserve-cpu", &task.Resources.Reservations.NanoCPUs, c.o.reserveCPU.Value())
	assign(c, "reserve-memory", &task.Resources.Reservations.MemoryBytes, c.o.reserveMemory.Value())
	list, err := changeResources(task.Resources.Reservations.GenericResources, c.o.resources.GetSlice(), c.o.remove.resources.GetSlice())
	if err == nil && c.any("generic-resource-add", "generic-resource-rm") {
		task.Resources.Reservations.GenericResources = list
	}
	return err
}

func (c *specChange) applyPlacement() {
	if !c.any("constraint-add", "constraint-rm", "placement-pref-add", "placement-pref-rm", "replicas-max-per-node") {
		return
	}
	task := &c.spec.TaskTemplate
	if task.Placement == nil {
		task.Placement = &swarm.Placement{}
	}
	if c.any("constraint-add", "constraint-rm") {
		task.Placement.Constraints = changeSorted(task.Placement.Constraints, c.o.constraints, c.o.remove.constraints)
	}
	task.Placement.Preferences = changePrefs(task.Placement.Preferences, c.o.prefs, c.o.remove.prefs)
	assign(c, "replicas-max-per-node", &task.Placement.MaxReplicas, c.o.maxPerNode)
}

func (c *specChange) applyPolicies() {
	if c.any(restartFlags...) {
		if c.spec.TaskTemplate.RestartPolicy == nil {
			c.spec.TaskTemplate.RestartPolicy = defaultRestartPolicy()
		}
		c.o.restart.apply(c.spec.TaskTemplate.RestartPolicy, c.set)
	}
	c.applyUpdate(&c.o.update, &c.spec.UpdateConfig)
	c.applyUpdate(&c.o.rollback, &c.spec.RollbackConfig)
}

func (c *specChange) applyUpdate(u *updateOptions, config **swarm.UpdateConfig) {
	if !c.any(u.flagNames()...) {
		return
	}
	if *config == nil {
		*config = defaultUpdateConfig()
	}
	u.apply(*config, c.set)
}

func (c *specChange) applyEndpoint() {
	if !c.any("endpoint-mode", "publish-add", "publish-rm") {
		return
	}
	if c.spec.EndpointSpec == nil {
		c.spec.EndpointSpec = &swarm.EndpointSpec{}
	}
	assign(c, "endpoint-mode", &c.spec.EndpointSpec.Mode, swarm.ResolutionMode(strings.ToLower(c.o.endpointMode)))
	if c.any("publish-add", "publish-rm") {
		c.spec.EndpointSpec.Ports = changePorts(c.spec.EndpointSpec.Ports, c.o.publish.Value(), c.o.remove.publish.Value())
	}
}

var healthFlags = []string{"health-cmd", "health-interval", "health-retries", "health-timeout", "health-start-period", "health-start-interval"}

func (c *specChange) applyHealth() error {
	spec, h := c.spec.TaskTemplate.ContainerSpec, &c.o.health
	if h.none {
		if c.any(healthFlags...) {
			return errHealthConflict
		}
		spec.Healthcheck = &container.HealthConfig{Test: []string{"NONE"}}
		return nil
	}
	if !c.any(healthFlags...) {
		return nil
	}
	if spec.Healthcheck == nil {
		spec.Healthcheck = &container.HealthConfig{}
	}
	check := spec.Healthcheck
	if len(check.Test) > 0 && check.Test[0] == "NONE" {
		check.Test = nil
	}
	for flag, field := range map[string]struct {
		to    *time.Duration
		value *opts.PositiveDurationOpt
	}{
		"health-interval":       {&check.Interval, &h.interval},
		"health-timeout":        {&check.Timeout, &h.timeout},
		"health-start-period":   {&check.StartPeriod, &h.startPeriod},
		"health-start-interval": {&check.StartInterval, &h.startInterval},
	} {
		assign(c, flag, field.to, valueOf(field.value.Value()))
	}
	assign(c, "health-retries", &check.Retries, int(h.retries))
	if c.set("health-cmd") {
		check.Test = nil
		if h.cmd != "" {
			check.Test = []string{"CMD-SHELL", h.cmd}
		}
	}
	return nil
}
