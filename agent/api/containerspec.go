package api

import (
	"path"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

const minInterval = time.Millisecond

// validateContainer judges a container's spec, with the labels that its service has.
func validateContainer(c *swarm.ContainerSpec, labels map[string]string) error {
	if err := validateTemplates(c, labels); err != nil {
		return err
	}
	if c.Image == "" {
		return invalid("ContainerSpec: image reference must be provided")
	}
	if _, err := reference.ParseAnyReference(c.Image); err != nil {
		return invalid("ContainerSpec: %q is not a valid repository/tag", c.Image)
	}
	if err := validateMounts(c.Mounts); err != nil {
		return err
	}
	if c.StopGracePeriod != nil && *c.StopGracePeriod < 0 {
		return invalid("ContainerSpec: stop-grace-period cannot be negative")
	}
	if err := validatePrivileges(c.Privileges); err != nil {
		return err
	}
	return validateHealth(c.Healthcheck)
}

// validateTemplates tries the fields that may hold a template with a task that there might be, as Swarm does.
func validateTemplates(c *swarm.ContainerSpec, labels map[string]string) error {
	fields := append([]string{c.Hostname}, c.Env...)
	for _, m := range c.Mounts {
		fields = append(fields, m.Source, m.Target)
	}
	some := state.NewPlaceholders(&state.Task{ID: "taskid", ServiceID: "serviceid", ServiceName: "servicename", NodeID: "nodeid", Slot: 1},
		labels, "nodehostname", swarm.Platform{Architecture: "architecture", OS: "os"})
	for _, f := range fields {
		if _, err := some.Expand(f); err != nil {
			return invalid("ContainerSpec: invalid template %q: %w", f, err)
		}
	}
	return nil
}

// mountDefaults fills what Swarm takes when a mount says nothing, and drops options that are empty and of another type.
// The caller's mounts are not changed.
func mountDefaults(in []mount.Mount) []mount.Mount {
	out := slices.Clone(in)
	for i := range out {
		m := &out[i]
		if m.Type == "" {
			m.Type = mount.TypeBind
		}
		if m.Type != mount.TypeBind && m.BindOptions != nil && *m.BindOptions == (mount.BindOptions{}) {
			m.BindOptions = nil
		}
		if m.Type != mount.TypeVolume && m.VolumeOptions != nil && sameJSON(m.VolumeOptions, mount.VolumeOptions{}) {
			m.VolumeOptions = nil
		}
		if m.Type != mount.TypeTmpfs && m.TmpfsOptions != nil && sameJSON(m.TmpfsOptions, mount.TmpfsOptions{}) {
			m.TmpfsOptions = nil
		}
	}
	return out
}

func validateMounts(mounts []mount.Mount) error {
	targets := map[string]bool{}
	for _, m := range mounts {
		if targets[m.Target] {
			return invalid("ContainerSpec: duplicate mount point: %s", m.Target)
		}
		targets[m.Target] = true
	}
	for _, m := range mounts {
		if err := validateMount(m); err != nil {
			return err
		}
	}
	return nil
}

// validateMount has the texts of Docker's engine, which would reject each task.
func validateMount(m mount.Mount) error {
	if relative(m.Target) {
		return invalid("invalid mount target, must be an absolute path: %s", m.Target)
	}
	switch m.Type {
	case mount.TypeBind:
		if relative(m.Source) {
			return invalid("invalid bind mount source, must be an absolute path: %s", m.Source)
		}
	case mount.TypeVolume:
		if path.IsAbs(m.Source) {
			return invalid("invalid volume mount source, must not be an absolute path: %s", m.Source)
		}
	case mount.TypeTmpfs:
		if m.Source != "" {
			return invalid("invalid tmpfs source, source must be empty")
		}
	default:
		return invalid("invalid MountType: %q", m.Type)
	}
	for _, o := range []struct {
		name   string
		given  bool
		wanted mount.Type
	}{
		{"BindOptions", m.BindOptions != nil, mount.TypeBind},
		{"VolumeOptions", m.VolumeOptions != nil, mount.TypeVolume},
		{"TmpfsOptions", m.TmpfsOptions != nil, mount.TypeTmpfs},
		{"ImageOptions", m.ImageOptions != nil, mount.TypeImage},
		{"ClusterOptions", m.ClusterOptions != nil, mount.TypeCluster},
	} {
		if o.given && o.wanted != m.Type {
			return invalid("invalid mount config for type %q: field %s must not be specified", m.Type, o.name)
		}
	}
	if b := m.BindOptions; b != nil && b.Propagation != "" && !slices.Contains(mount.Propagations, b.Propagation) {
		return invalid("invalid MountPropagation: %q", b.Propagation)
	}
	return nil
}

// relative is false for a path whose start only a template knows.
func relative(p string) bool { return !path.IsAbs(p) && !strings.HasPrefix(p, "{{") }

func validatePrivileges(p *swarm.Privileges) error {
	if p == nil {
		return nil
	}
	if s := p.Seccomp; s != nil {
		switch s.Mode {
		case "", swarm.SeccompModeDefault, swarm.SeccompModeUnconfined, swarm.SeccompModeCustom:
		default:
			return invalid("invalid seccomp mode: %q", s.Mode)
		}
		if custom := s.Mode == swarm.SeccompModeCustom; custom != (len(s.Profile) > 0) {
			return invalid("a seccomp profile goes with seccomp mode %q, and no other", swarm.SeccompModeCustom)
		}
	}
	if a := p.AppArmor; a != nil {
		switch a.Mode {
		case "", swarm.AppArmorModeDefault, swarm.AppArmorModeDisabled:
		default:
			return invalid("invalid AppArmor mode: %q", a.Mode)
		}
	}
	return nil
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
