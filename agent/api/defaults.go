package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/swarm"
	"github.com/docker/docker/pkg/namesgenerator"
)

// plain takes the class away from an error: Docker has none for an unknown network in a service's spec (500).
func plain(err error) error { return errors.New(err.Error()) }

// sameJSON compares specs as clients see them: an empty list and none are the same.
func sameJSON(a, b any) bool {
	x, err1 := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err1 == nil && err2 == nil && bytes.Equal(x, y)
}

// normalize fills what Docker's engine fills before it stores a spec, and validates everything that can be judged without
// the rest of the swarm. The caller's spec is not changed.
func normalize(in swarm.ServiceSpec) (swarm.ServiceSpec, error) {
	s := in
	if s.Name == "" {
		s.Name = namesgenerator.GetRandomName(0)
	}
	s.Labels = labels(s.Labels)
	var err error
	if s.Mode, err = modeDefaults(s.Mode); err != nil {
		return s, err
	}
	if err := unsupportedService(&s); err != nil {
		return s, err
	}
	if s.TaskTemplate.Runtime == "" {
		s.TaskTemplate.Runtime = swarm.RuntimeContainer
	}
	if s.TaskTemplate.ContainerSpec != nil {
		c := *s.TaskTemplate.ContainerSpec
		// Shown as "default", stored as nothing: reading a spec and sending it back must change nothing.
		if c.Isolation.IsDefault() {
			c.Isolation = container.IsolationEmpty
		}
		c.Mounts = mountDefaults(c.Mounts)
		s.TaskTemplate.ContainerSpec = &c
	}
	// The deprecated list counts only when the other is empty, as in Docker.
	if len(s.TaskTemplate.Networks) == 0 {
		s.TaskTemplate.Networks = s.Networks //lint:ignore SA1019 old clients use it
	}
	s.Networks = nil //lint:ignore SA1019 see above
	s.EndpointSpec = endpointDefaults(s.EndpointSpec)
	return s, validateService(&s)
}

func endpointDefaults(in *swarm.EndpointSpec) *swarm.EndpointSpec {
	if in == nil {
		return nil
	}
	e := &swarm.EndpointSpec{Mode: in.Mode}
	if e.Mode == "" {
		e.Mode = swarm.ResolutionModeVIP
	}
	for _, p := range in.Ports {
		p.Protocol = protocol(p)
		if p.PublishMode == "" {
			p.PublishMode = swarm.PortConfigPublishModeIngress
		}
		e.Ports = append(e.Ports, p)
	}
	return e
}

// Defaults that Swarm acts on when a spec says nothing, shown on insertDefaults.
const (
	defaultGrace        = 10 * time.Second
	defaultRestartDelay = 5 * time.Second
	defaultMonitor      = 5 * time.Second
)

// withDefaults fills a spec as `service inspect` shows it. The caller's spec is not changed.
func withDefaults(s swarm.ServiceSpec) swarm.ServiceSpec {
	t := &s.TaskTemplate
	if t.ContainerSpec != nil {
		c := *t.ContainerSpec
		if c.StopGracePeriod == nil {
			grace := defaultGrace
			c.StopGracePeriod = &grace
		}
		if c.DNSConfig == nil {
			c.DNSConfig = &swarm.DNSConfig{}
		}
		t.ContainerSpec = &c
	}
	if t.Resources == nil {
		t.Resources = &swarm.ResourceRequirements{}
	}
	t.RestartPolicy = restartDefaults(t.RestartPolicy)
	if t.Placement == nil {
		t.Placement = &swarm.Placement{}
	}
	if !job(s.Mode) {
		s.UpdateConfig = updateDefaults(s.UpdateConfig)
		s.RollbackConfig = updateDefaults(s.RollbackConfig)
	}
	if s.EndpointSpec == nil {
		s.EndpointSpec = &swarm.EndpointSpec{Mode: swarm.ResolutionModeVIP}
	}
	return s
}

func restartDefaults(in *swarm.RestartPolicy) *swarm.RestartPolicy {
	r := swarm.RestartPolicy{}
	if in != nil {
		r = *in
	}
	if r.Condition == "" {
		r.Condition = swarm.RestartPolicyConditionAny
	}
	if r.Delay == nil {
		delay := defaultRestartDelay
		r.Delay = &delay
	}
	if r.MaxAttempts == nil {
		var unlimited uint64
		r.MaxAttempts = &unlimited
	}
	return &r
}

func updateDefaults(in *swarm.UpdateConfig) *swarm.UpdateConfig {
	u := swarm.UpdateConfig{Parallelism: 1}
	if in != nil {
		u = *in
	}
	if u.FailureAction == "" {
		u.FailureAction = swarm.UpdateFailureActionPause
	}
	if u.Monitor == 0 {
		u.Monitor = defaultMonitor
	}
	if u.Order == "" {
		u.Order = swarm.UpdateOrderStopFirst
	}
	return &u
}
