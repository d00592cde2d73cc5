package sched

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

// service creates a service or updates it, as the API would.
func (s *scenario) service(name string, args []string) {
	spec := serviceSpec(name, s.options("service "+name, args))
	is := s.store.View().ServiceByName(name)
	if is == nil {
		id := "svc-" + name
		if n := len(s.created); slices.Contains(s.created, id) { // an ID is never used again
			id += strconv.Itoa(n)
		}
		s.created = append(s.created, id)
		s.create(id, spec)
		return
	}
	s.updateService(is, spec)
}

func (w *world) create(id string, spec swarm.ServiceSpec) {
	w.t.Helper()
	c := &state.Service{ID: id, Spec: spec, SpecVersion: 1}
	if modeOf(c).job() {
		c.JobStatus = &swarm.JobStatus{LastExecution: w.clock.Now()}
	}
	w.apply(
		state.Op{Action: state.Create, Object: c},
		state.Op{Action: state.Create, Object: &state.Revision{ServiceID: id, SpecVersion: 1, Spec: spec.TaskTemplate, Endpoint: spec.EndpointSpec}},
	)
}

func (w *world) updateService(is *state.Service, spec swarm.ServiceSpec) {
	w.t.Helper()
	c := is.Clone()
	old := is.Spec
	c.PreviousSpec, c.Spec, c.UpdateStatus = &old, spec, nil
	if modeOf(c).job() {
		c.JobStatus = &swarm.JobStatus{JobIteration: swarm.Version{Index: c.JobStatus.JobIteration.Index + 1}, LastExecution: w.clock.Now()}
	}
	w.storeSpec(is, c)
}

// storeSpec stores a service with another spec, and its next revision if tasks are concerned.
func (w *world) storeSpec(is, c *state.Service) {
	w.t.Helper()
	ops := []state.Op{{Action: state.Update, Object: c, Expected: is.Modified, SpecChange: true}}
	if !equal(is.Spec.TaskTemplate, c.Spec.TaskTemplate) || !equal(is.Spec.EndpointSpec, c.Spec.EndpointSpec) {
		c.SpecVersion++
		ops = append(ops, state.Op{Action: state.Create, Object: &state.Revision{
			ServiceID: c.ID, SpecVersion: c.SpecVersion, Spec: c.Spec.TaskTemplate, Endpoint: c.Spec.EndpointSpec,
		}})
	}
	w.apply(ops...)
}

// rollback swaps the specs, as the API does when it is asked to.
func (s *scenario) rollback(name string) {
	is := s.store.View().ServiceByName(name)
	c := is.Clone()
	at, old := s.clock.Now(), is.Spec
	c.Spec, c.PreviousSpec = *is.PreviousSpec, &old
	c.UpdateStatus = &swarm.UpdateStatus{State: swarm.UpdateStateRollbackStarted, StartedAt: &at, Message: "manually requested rollback"}
	s.storeSpec(is, c)
}

// rebalance asks for a plan and has it carried out, as the API does.
func (s *scenario) rebalance(name string) string {
	is := s.store.View().ServiceByName(name)
	moves, err := PlanRebalance(s.store.View(), is.ID, s.clock.Now())
	if err != nil {
		return err.Error() + "\n"
	}
	if len(moves) == 0 {
		return "nothing to move\n"
	}
	c := is.Clone()
	c.Rebalance = &state.Rebalance{Requested: s.clock.Now()}
	var rows []string
	for _, m := range moves {
		c.Rebalance.Tasks = append(c.Rebalance.Tasks, m.TaskID)
		rows = append(rows, fmt.Sprintf("move %s.%d\t%s\tfrom %s", name, m.Slot, m.TaskID, m.From))
	}
	s.apply(state.Op{Action: state.Update, Object: c, Expected: is.Modified})
	return table(rows...)
}

func serviceSpec(name string, o map[string][]string) swarm.ServiceSpec {
	replicas := uint64(number(o, "replicas", 1))
	spec := swarm.ServiceSpec{
		Annotations: swarm.Annotations{Name: name},
		Mode:        swarm.ServiceMode{Replicated: &swarm.ReplicatedService{Replicas: &replicas}},
		TaskTemplate: swarm.TaskSpec{
			ContainerSpec: &swarm.ContainerSpec{Image: one(o, "image", "app:1")},
			Placement:     &swarm.Placement{MaxReplicas: uint64(number(o, "per-node", 0))},
			Resources: &swarm.ResourceRequirements{Reservations: &swarm.Resources{
				NanoCPUs: int64(number(o, "cpus", 0) * 1e9), MemoryBytes: int64(number(o, "mem", 0)) << 20,
			}},
			RestartPolicy: &swarm.RestartPolicy{Condition: swarm.RestartPolicyCondition(one(o, "restart", ""))},
		},
		UpdateConfig: &swarm.UpdateConfig{
			Parallelism: uint64(number(o, "parallelism", 1)), Delay: duration(o, "update-delay"), FailureAction: one(o, "failure", ""),
			Monitor: duration(o, "monitor"), MaxFailureRatio: float32(number(o, "ratio", 0)), Order: one(o, "order", ""),
		},
	}
	spec.RollbackConfig = &swarm.UpdateConfig{
		Parallelism: uint64(number(o, "rollback-parallelism", 1)), Delay: duration(o, "rollback-delay"), FailureAction: one(o, "rollback-failure", ""),
		Monitor: duration(o, "rollback-monitor"), MaxFailureRatio: float32(number(o, "rollback-ratio", 0)), Order: one(o, "rollback-order", ""),
	}
	atOnce, total := uint64(number(o, "concurrent", 1)), uint64(number(o, "total", 1))
	switch one(o, "mode", "") {
	case "global":
		spec.Mode = swarm.ServiceMode{Global: &swarm.GlobalService{}}
	case "replicated-job":
		spec.Mode = swarm.ServiceMode{ReplicatedJob: &swarm.ReplicatedJob{MaxConcurrent: &atOnce, TotalCompletions: &total}}
	case "global-job":
		spec.Mode = swarm.ServiceMode{GlobalJob: &swarm.GlobalJob{}}
	}
	if strings.HasSuffix(one(o, "mode", ""), "job") {
		spec.UpdateConfig, spec.RollbackConfig = nil, nil
		spec.TaskTemplate.RestartPolicy.Condition = swarm.RestartPolicyCondition(one(o, "restart", "on-failure"))
	}
	spec.TaskTemplate.ForceUpdate = uint64(number(o, "force", 0))
	for _, l := range o["label"] {
		k, v, _ := strings.Cut(l, "=")
		if spec.Labels == nil {
			spec.Labels = map[string]string{}
		}
		spec.Labels[k] = v
	}
	if n := int64(number(o, "gpus", 0)); n > 0 {
		spec.TaskTemplate.Resources.Reservations.GenericResources = []swarm.GenericResource{
			{DiscreteResourceSpec: &swarm.DiscreteGenericResource{Kind: "GPU", Value: n}}}
	}
	placementSpec(&spec, o)
	for _, k := range o["prefer"] {
		spec.TaskTemplate.Placement.Preferences = append(spec.TaskTemplate.Placement.Preferences,
			swarm.PlacementPreference{Spread: &swarm.SpreadOver{SpreadDescriptor: k}})
	}
	p := spec.TaskTemplate.RestartPolicy
	if len(o["delay"]) > 0 {
		d := duration(o, "delay")
		p.Delay = &d
	}
	if len(o["attempts"]) > 0 {
		n := uint64(number(o, "attempts", 0))
		p.MaxAttempts = &n
	}
	if len(o["window"]) > 0 {
		d := duration(o, "window")
		p.Window = &d
	}
	for _, a := range o["arch"] {
		spec.TaskTemplate.Placement.Platforms = append(spec.TaskTemplate.Placement.Platforms, swarm.Platform{Architecture: a, OS: "linux"})
	}
	spec.TaskTemplate.Placement.Constraints = slices.Clone(o["constraint"])
	spec.TaskTemplate.ContainerSpec.Hostname = one(o, "hostname", "")
	for _, n := range o["network"] {
		n, alias, ok := strings.Cut(n, ":")
		a := swarm.NetworkAttachmentConfig{Target: "net-" + n}
		if ok {
			a.Aliases = []string{alias}
		}
		spec.TaskTemplate.Networks = append(spec.TaskTemplate.Networks, a)
	}
	if len(o["port"]) > 0 || len(o["endpoint"]) > 0 {
		spec.EndpointSpec = &swarm.EndpointSpec{Mode: swarm.ResolutionMode(one(o, "endpoint", ""))}
	}
	for _, p := range o["port"] { // PUBLISHED:TARGET[/host]
		published, target, _ := strings.Cut(p, ":")
		target, host := strings.CutSuffix(target, "/host")
		c := swarm.PortConfig{Protocol: "tcp"}
		if host {
			c.PublishMode = swarm.PortConfigPublishModeHost
		}
		n, _ := strconv.Atoi(published)
		c.PublishedPort = uint32(n)
		n, _ = strconv.Atoi(target)
		c.TargetPort = uint32(n)
		spec.EndpointSpec.Ports = append(spec.EndpointSpec.Ports, c)
	}
	return spec
}
