package docker

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

// placeholders expands the templates of a container's spec.
type placeholders struct{ state.Placeholders }

// expand returns the task's container spec with the placeholders of environment values, host name and mounts filled in.
func (c *controller) expand(ctx context.Context) (*swarm.ContainerSpec, error) {
	spec := *c.task.Spec.ContainerSpec
	info, err := c.e.engine(ctx)
	if err != nil {
		return nil, err
	}
	platform := swarm.Platform{Architecture: info.Architecture, OS: info.OSType}
	err = placeholders{state.NewPlaceholders(&c.task.Task, c.task.ServiceLabels, c.e.cfg.Hostname, platform)}.expandInto(&spec)
	return &spec, err
}

func (p placeholders) expandInto(spec *swarm.ContainerSpec) (err error) {
	do := func(what, text string) string {
		if err != nil {
			return ""
		}
		var out string
		if out, err = p.Expand(text); err != nil {
			err = fmt.Errorf("template in %s: %w", what, err)
		}
		return out
	}
	spec.Hostname = do("hostname", spec.Hostname)
	spec.Env = slices.Clone(spec.Env)
	for i, e := range spec.Env {
		if name, value, ok := strings.Cut(e, "="); ok {
			spec.Env[i] = name + "=" + do("environment variable "+name, value)
		}
	}
	spec.Mounts = slices.Clone(spec.Mounts)
	for i := range spec.Mounts {
		m := &spec.Mounts[i]
		m.Source, m.Target = do("mount source", m.Source), do("mount target", m.Target)
		if m.VolumeOptions != nil {
			v := *m.VolumeOptions
			v.Labels = expandMap(v.Labels, "volume label", do)
			if v.DriverConfig != nil {
				v.DriverConfig = &mount.Driver{Name: v.DriverConfig.Name, Options: expandMap(v.DriverConfig.Options, "volume option", do)}
			}
			m.VolumeOptions = &v
		}
	}
	return err
}

func expandMap(in map[string]string, what string, do func(what, text string) string) map[string]string {
	if in == nil {
		return nil
	}
	out := make(map[string]string, len(in))
	for k, v := range in {
		out[k] = do(what+" "+k, v)
	}
	return out
}
