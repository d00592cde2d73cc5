package api

import (
	"regexp"

	"github.com/docker/docker/api/types/swarm"
)

// The rules and texts of Swarm's control API.

const (
	minCPU    = 1e6 // nano CPUs
	minMemory = 4 << 20
	maxName   = 63
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
	for _, judge := range []func(*swarm.ServiceSpec) error{validateTask, validatePlacement, validateUpdates, validateOwnLabels} {
		if err := judge(s); err != nil {
			return err
		}
	}
	if err := validateMode(s.Mode); err != nil {
		return err
	}
	return validateEndpoint(s.EndpointSpec)
}

func validateTask(s *swarm.ServiceSpec) error {
	t := &s.TaskTemplate
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
	return validateContainer(t.ContainerSpec, s.Labels)
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
	if r.Reservations == nil {
		return nil
	}
	return validateGeneric(r.Reservations.GenericResources)
}

// genericKind leaves out what cannot be part of an environment variable's name or of KIND=VALUE lists.
var genericKind = regexp.MustCompile(`^[!-+\--<>-~]+$`)

// validateGeneric: a service asks for an amount; which ones of a node's named resources it gets is the scheduler's choice.
func validateGeneric(rs []swarm.GenericResource) error {
	seen := map[string]bool{}
	for _, r := range rs {
		d := r.DiscreteResourceSpec
		switch {
		case r.NamedResourceSpec != nil:
			return invalid("invalid argument for resource %s: a service reserves an amount (%s=1), not one by its name",
				r.NamedResourceSpec.Kind, r.NamedResourceSpec.Kind)
		case d == nil:
			return invalid("invalid generic resource: no amount is given")
		case !genericKind.MatchString(d.Kind):
			return invalid("invalid kind %q of a generic resource", d.Kind)
		case d.Value < 0:
			return invalid("invalid argument for resource %s: %d must not be negative", d.Kind, d.Value)
		case seen[d.Kind]:
			return invalid("generic resource %s is listed twice", d.Kind)
		}
		seen[d.Kind] = true
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
	if p.MaxAttempts != nil && int64(*p.MaxAttempts) < 0 {
		return invalid("TaskSpec: restart-max-attempts cannot be negative")
	}
	if p.Delay != nil && *p.Delay < 0 {
		return invalid("TaskSpec: restart-delay cannot be negative")
	}
	if p.Window != nil && *p.Window < 0 {
		return invalid("TaskSpec: restart-window cannot be negative")
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
