package api

import (
	"fmt"
	"regexp"
	"text/template"
	"time"

	"github.com/distribution/reference"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/swarm"
)

// The rules and texts of Swarm's control API.

const (
	minCPU      = 1e6 // nano CPUs
	minMemory   = 4 << 20
	maxName     = 63
	minInterval = time.Millisecond
)

// dnsName is a name that may be a DNS component.
var dnsName = regexp.MustCompile(`^[a-zA-Z0-9](?:[-_]*[A-Za-z0-9]+)*$`)

func validateName(name string) error {
	switch {
	case name == "":
		return invalid("meta: name must be provided")
	case !dnsName.MatchString(name):
		return invalid("name must be valid as a DNS name component")
	case len(name) > maxName:
		return invalid("name must be 63 characters or fewer")
	}
	return nil
}

func validateService(s *swarm.ServiceSpec) error {
	if err := validateName(s.Name); err != nil {
		return err
	}
	if err := validateTask(&s.TaskTemplate); err != nil {
		return err
	}
	for _, u := range []*swarm.UpdateConfig{s.UpdateConfig, s.RollbackConfig} {
		if err := validateUpdate(u); err != nil {
			return err
		}
	}
	return validateEndpoint(s.EndpointSpec)
}

func validateTask(t *swarm.TaskSpec) error {
	if t.Runtime != swarm.RuntimeContainer {
		return invalid("unsupported runtime")
	}
	if t.ContainerSpec == nil {
		return invalid("mismatched Runtime and *Spec fields")
	}
	if err := validateResources(t.Resources); err != nil {
		return err
	}
	if err := validateRestart(t.RestartPolicy); err != nil {
		return err
	}
	return validateContainer(t.ContainerSpec)
}

func validateResources(r *swarm.ResourceRequirements) error {
	if r == nil {
		return nil
	}
	var amounts [][2]int64
	if r.Limits != nil {
		amounts = append(amounts, [2]int64{r.Limits.NanoCPUs, r.Limits.MemoryBytes})
		if r.Limits.Pids < 0 {
			return invalid("invalid pids limit %d: must not be negative", r.Limits.Pids)
		}
	}
	if r.Reservations != nil {
		amounts = append(amounts, [2]int64{r.Reservations.NanoCPUs, r.Reservations.MemoryBytes})
	}
	for _, a := range amounts {
		if a[0] != 0 && a[0] < minCPU {
			return invalid("invalid cpu value %g: Must be at least %g", float64(a[0])/1e9, minCPU/1e9)
		}
		if a[1] != 0 && a[1] < minMemory {
			return invalid("invalid memory value %d: Must be at least 4MiB", a[1])
		}
	}
	return nil
}

func validateRestart(p *swarm.RestartPolicy) error {
	if p == nil {
		return nil
	}
	switch p.Condition {
	case "", swarm.RestartPolicyConditionAny, swarm.RestartPolicyConditionNone, swarm.RestartPolicyConditionOnFailure:
	default:
		return invalid("invalid RestartCondition: %q", p.Condition)
	}
	if p.Delay != nil && *p.Delay < 0 {
		return invalid("TaskSpec: restart-delay cannot be negative")
	}
	if p.Window != nil && *p.Window < 0 {
		return invalid("TaskSpec: restart-window cannot be negative")
	}
	return nil
}

func validateUpdate(u *swarm.UpdateConfig) error {
	if u == nil {
		return nil
	}
	switch u.FailureAction {
	case "", swarm.UpdateFailureActionPause, swarm.UpdateFailureActionContinue, swarm.UpdateFailureActionRollback:
	default:
		return invalid("unrecognized update failure action %s", u.FailureAction)
	}
	switch u.Order {
	case "", swarm.UpdateOrderStopFirst, swarm.UpdateOrderStartFirst:
	default:
		return invalid("unrecognized update order %s", u.Order)
	}
	switch {
	case u.Delay < 0:
		return invalid("TaskSpec: update-delay cannot be negative")
	case u.Monitor < 0:
		return invalid("TaskSpec: update-monitor cannot be negative")
	case u.MaxFailureRatio < 0 || u.MaxFailureRatio > 1:
		return invalid("TaskSpec: update-maxfailureratio cannot be less than 0 or bigger than 1")
	}
	return nil
}

func validateContainer(c *swarm.ContainerSpec) error {
	if c.Image == "" {
		return invalid("ContainerSpec: image reference must be provided")
	}
	if _, err := reference.ParseAnyReference(c.Image); err != nil {
		return invalid("ContainerSpec: %q is not a valid repository/tag", c.Image)
	}
	targets := map[string]bool{}
	for _, m := range c.Mounts {
		if targets[m.Target] {
			return invalid("ContainerSpec: duplicate mount point: %s", m.Target)
		}
		targets[m.Target] = true
	}
	if c.StopGracePeriod != nil && *c.StopGracePeriod < 0 {
		return invalid("ContainerSpec: stop-grace-period cannot be negative")
	}
	if err := validateHealth(c.Healthcheck); err != nil {
		return err
	}
	return validateTemplates(c)
}

func validateHealth(h *container.HealthConfig) error {
	if h == nil {
		return nil
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"Interval", h.Interval}, {"Timeout", h.Timeout}, {"StartPeriod", h.StartPeriod}, {"StartInterval", h.StartInterval}} {
		if d.value != 0 && d.value < minInterval {
			return invalid("ContainerSpec: %s in HealthConfig cannot be less than %s", d.name, minInterval)
		}
	}
	if h.Retries < 0 {
		return invalid("ContainerSpec: Retries in HealthConfig cannot be negative")
	}
	return nil
}

// validateTemplates parses the fields that may hold a template.
func validateTemplates(c *swarm.ContainerSpec) error {
	fields := append([]string{c.Hostname}, c.Env...)
	for _, m := range c.Mounts {
		fields = append(fields, m.Source, m.Target)
	}
	for _, f := range fields {
		if _, err := template.New("").Option("missingkey=error").Funcs(template.FuncMap{"join": fmt.Sprint}).Parse(f); err != nil {
			return invalid("ContainerSpec: invalid template %q: %w", f, err)
		}
	}
	return nil
}

func validateEndpoint(e *swarm.EndpointSpec) error {
	if e == nil {
		return nil
	}
	if e.Mode != swarm.ResolutionModeVIP && e.Mode != swarm.ResolutionModeDNSRR {
		return invalid("invalid resolution mode: %q", e.Mode)
	}
	type published struct {
		port  uint32
		proto swarm.PortConfigProtocol
	}
	seen := map[published]bool{}
	for _, p := range e.Ports {
		if err := validatePort(p); err != nil {
			return err
		}
		if ingress(p) && e.Mode == swarm.ResolutionModeDNSRR {
			return invalid("EndpointSpec: port published with ingress mode can't be used with dnsrr mode")
		}
		k := published{p.PublishedPort, p.Protocol}
		if p.PublishedPort != 0 && seen[k] {
			return invalid("EndpointSpec: duplicate published ports provided")
		}
		seen[k] = true
	}
	return nil
}

func validatePort(p swarm.PortConfig) error {
	switch {
	case p.Protocol != swarm.PortConfigProtocolTCP && p.Protocol != swarm.PortConfigProtocolUDP:
		return invalid("invalid protocol %q of a published port: use tcp or udp", p.Protocol)
	case p.PublishMode != swarm.PortConfigPublishModeIngress && p.PublishMode != swarm.PortConfigPublishModeHost:
		return invalid("invalid publish mode %q: use ingress or host", p.PublishMode)
	case p.TargetPort == 0 || p.TargetPort > 65535:
		return invalid("invalid target port %d: must be between 1 and 65535", p.TargetPort)
	case p.PublishedPort > 65535:
		return invalid("invalid published port %d: must be at most 65535", p.PublishedPort)
	}
	return nil
}
