package docker

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"text/template"

	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/swarm"
)

const maxExpanded = 64 << 10

// templateData is what placeholders may name, as in Swarm.
type templateData struct {
	Service struct {
		ID, Name string
		Labels   map[string]string
	}
	Node struct {
		ID, Hostname string
		Platform     struct{ Architecture, OS string }
	}
	Task struct{ ID, Name, Slot string }
}

// expand returns the task's container spec with the placeholders of environment values, host name and mounts filled in.
func (c *controller) expand(ctx context.Context) (*swarm.ContainerSpec, error) {
	spec := *c.task.Spec.ContainerSpec
	info, err := c.e.engine(ctx)
	if err != nil {
		return nil, err
	}
	var d templateData
	d.Service.ID, d.Service.Name, d.Service.Labels = c.task.Task.ServiceID, c.task.Task.ServiceName, c.task.ServiceLabels
	d.Node.ID, d.Node.Hostname = c.e.cfg.NodeID, c.e.cfg.Hostname
	d.Node.Platform.Architecture, d.Node.Platform.OS = info.Architecture, info.OSType
	d.Task.ID, d.Task.Name, d.Task.Slot = c.id, c.name, strconv.Itoa(c.task.Task.Slot)
	if c.task.Task.Slot == 0 {
		d.Task.Slot = c.e.cfg.NodeID
	}
	err = d.expandInto(&spec)
	return &spec, err
}

func (d templateData) expandInto(spec *swarm.ContainerSpec) (err error) {
	do := func(what, text string) string {
		if err != nil {
			return ""
		}
		var out string
		if out, err = d.execute(text); err != nil {
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

func (d templateData) execute(text string) (string, error) {
	if !strings.Contains(text, "{{") {
		return text, nil
	}
	t, err := template.New("").Option("missingkey=error").Funcs(template.FuncMap{
		"join": func(sep string, words ...string) string { return strings.Join(words, sep) },
	}).Parse(text)
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	if err := t.Execute(&limited{&b}, d); err != nil {
		return "", err
	}
	return b.String(), nil
}

// limited refuses what a template should never grow to.
type limited struct{ *bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	if l.Len()+len(p) > maxExpanded {
		return 0, fmt.Errorf("the result is larger than %d bytes", maxExpanded)
	}
	return l.Buffer.Write(p)
}
