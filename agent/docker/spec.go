package docker

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/swarm"
	"github.com/docker/docker/api/types/system"
	"github.com/docker/docker/api/types/versions"

	"github.com/meshswarm/meshswarm/raft/state"
)

// checkSpec refuses by name what is not there yet.
func checkSpec(t state.AssignedTask) error {
	s := t.Spec.ContainerSpec
	switch {
	case t.Spec.Runtime != "" && t.Spec.Runtime != swarm.RuntimeContainer, s == nil:
		return errors.New("only services that run containers are supported")
	case s.Image == "":
		return errors.New("the service names no image")
	case len(s.Secrets) > 0:
		return errors.New("secrets are not supported yet: remove --secret from the service")
	case len(s.Configs) > 0:
		return errors.New("configs are not supported yet: remove --config from the service")
	case s.Privileges != nil && s.Privileges.CredentialSpec != nil:
		return errors.New("credential specs are for Windows containers, which are not supported")
	case s.Isolation != "" && s.Isolation != container.IsolationDefault && s.Isolation != container.IsolationEmpty:
		return fmt.Errorf("isolation %q is for Windows containers, which are not supported", s.Isolation)
	}
	for _, m := range s.Mounts {
		switch m.Type {
		case mount.TypeBind, mount.TypeVolume, mount.TypeTmpfs, "":
		default:
			return fmt.Errorf("mounts of type %q are not supported", m.Type)
		}
	}
	return nil
}

// checkLimits refuses limits that the engine would silently drop, which is what a rootless engine on cgroup v1 does.
func checkLimits(r *swarm.ResourceRequirements, info system.Info) error {
	if r == nil || r.Limits == nil {
		return nil
	}
	var missing []string
	if r.Limits.MemoryBytes > 0 && !info.MemoryLimit {
		missing = append(missing, "memory")
	}
	if r.Limits.NanoCPUs > 0 && !info.CPUCfsQuota {
		missing = append(missing, "CPU")
	}
	if r.Limits.Pids > 0 && !info.PidsLimit {
		missing = append(missing, "process")
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("this node's engine cannot limit %s (cgroup v%s, driver %s): a rootless engine needs cgroup v2 with delegation; remove the limit or place the service elsewhere",
		strings.Join(missing, " and "), info.CgroupVersion, info.CgroupDriver)
}

// checkVersion refuses what an older engine would silently leave out.
func (c *controller) checkVersion(s *swarm.ContainerSpec) error {
	api := c.e.api.ClientVersion()
	for _, m := range s.Mounts {
		if m.VolumeOptions != nil && m.VolumeOptions.Subpath != "" && versions.LessThan(api, "1.45") {
			return fmt.Errorf("this node's engine (API %s) has no volume subpaths: they need API 1.45", api)
		}
	}
	if h := s.Healthcheck; h != nil && h.StartInterval != 0 && versions.LessThan(api, "1.44") {
		return fmt.Errorf("this node's engine (API %s) has no start interval of health checks: it needs API 1.44", api)
	}
	return nil
}

// imageName is the reference as the engine knows it, with a tag.
func imageName(raw string) string {
	ref, err := reference.ParseNormalizedNamed(raw)
	if err != nil {
		return raw // an image ID, or nonsense that the engine refuses
	}
	return reference.FamiliarString(reference.TagNameOnly(ref))
}

func (c *controller) containerConfig(s *swarm.ContainerSpec) *container.Config {
	cfg := &container.Config{
		Image: imageName(s.Image), Labels: c.labels(s), Env: append(genericEnv(c.task.Task.GenericResources), s.Env...), User: s.User, WorkingDir: s.Dir,
		Tty: s.TTY, OpenStdin: s.OpenStdin, StopSignal: s.StopSignal, Healthcheck: s.Healthcheck,
		Entrypoint: s.Command, Cmd: s.Args,
	}
	if s.StopGracePeriod != nil {
		seconds := int((*s.StopGracePeriod + time.Second - 1) / time.Second)
		cfg.StopTimeout = &seconds
	}
	return cfg
}

// genericEnv tells a task which of the node's generic resources are its own, as Docker does: DOCKER_RESOURCE_GPU=uuid1,uuid2
// for named ones, the number for counted ones. The service's own variables come after it.
func genericEnv(resources []swarm.GenericResource) []string {
	values := map[string][]string{}
	for _, r := range resources {
		switch {
		case r.NamedResourceSpec != nil:
			values[r.NamedResourceSpec.Kind] = append(values[r.NamedResourceSpec.Kind], r.NamedResourceSpec.Value)
		case r.DiscreteResourceSpec != nil:
			values[r.DiscreteResourceSpec.Kind] = append(values[r.DiscreteResourceSpec.Kind], strconv.FormatInt(r.DiscreteResourceSpec.Value, 10))
		}
	}
	var env []string
	for _, kind := range slices.Sorted(maps.Keys(values)) {
		env = append(env, "DOCKER_RESOURCE_"+strings.ToUpper(kind)+"="+strings.Join(values[kind], ","))
	}
	return env
}

// labels are the container's own, overridden by Swarm's, overridden by what tells whose it is.
func (c *controller) labels(s *swarm.ContainerSpec) map[string]string {
	out := make(map[string]string, len(s.Labels)+9)
	for k, v := range s.Labels {
		if k != LabelSandbox {
			out[k] = v
		}
	}
	out["com.docker.swarm.task"] = ""
	out["com.docker.swarm.task.id"] = c.id
	out["com.docker.swarm.task.name"] = c.name
	out["com.docker.swarm.node.id"] = c.e.cfg.NodeID
	out["com.docker.swarm.service.id"] = c.task.Task.ServiceID
	out["com.docker.swarm.service.name"] = c.task.Task.ServiceName
	out[LabelSwarm], out[LabelNode], out[LabelTask] = c.e.cfg.SwarmID, c.e.cfg.NodeID, c.id
	return out
}

func (c *controller) hostConfig(s *swarm.ContainerSpec) *container.HostConfig {
	h := &container.HostConfig{
		NetworkMode: container.NetworkMode("container:" + sandboxName(c.id)),
		Resources:   c.resources(s), GroupAdd: s.Groups, Mounts: s.Mounts, ReadonlyRootfs: s.ReadOnly, Init: s.Init,
		CapAdd: s.CapabilityAdd, CapDrop: s.CapabilityDrop, OomScoreAdj: int(s.OomScoreAdj),
		SecurityOpt: securityOptions(s.Privileges),
	}
	for k, v := range s.Sysctls {
		if !strings.HasPrefix(k, "net.") { // those are the sandbox's
			if h.Sysctls == nil {
				h.Sysctls = map[string]string{}
			}
			h.Sysctls[k] = v
		}
	}
	if d := c.task.Spec.LogDriver; d != nil {
		h.LogConfig = container.LogConfig{Type: d.Name, Config: d.Options}
	}
	return h
}

func (c *controller) resources(s *swarm.ContainerSpec) container.Resources {
	out := container.Resources{Ulimits: s.Ulimits}
	r := c.task.Spec.Resources
	if r == nil || r.Limits == nil {
		return out
	}
	out.Memory, out.NanoCPUs = r.Limits.MemoryBytes, r.Limits.NanoCPUs
	if r.Limits.Pids > 0 {
		out.PidsLimit = &r.Limits.Pids
	}
	return out
}

func securityOptions(p *swarm.Privileges) []string {
	if p == nil {
		return nil
	}
	var out []string
	if l := p.SELinuxContext; l != nil {
		if l.Disable {
			out = append(out, "label=disable")
		}
		for _, part := range [][2]string{{"user", l.User}, {"role", l.Role}, {"level", l.Level}, {"type", l.Type}} {
			if part[1] != "" {
				out = append(out, "label="+part[0]+":"+part[1])
			}
		}
	}
	if s := p.Seccomp; s != nil {
		switch s.Mode {
		case swarm.SeccompModeUnconfined:
			out = append(out, "seccomp=unconfined")
		case swarm.SeccompModeCustom:
			out = append(out, "seccomp="+string(s.Profile))
		}
	}
	if p.AppArmor != nil && p.AppArmor.Mode == swarm.AppArmorModeDisabled {
		out = append(out, "apparmor=unconfined")
	}
	if p.NoNewPrivileges {
		out = append(out, "no-new-privileges="+strconv.FormatBool(true))
	}
	return out
}
