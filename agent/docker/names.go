package docker

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/swarm"
	"github.com/docker/docker/api/types/system"

	"github.com/meshswarm/meshswarm/agent/sandbox"
)

// The files by which a task's programs know names, in the sandbox's folder. The engine makes none for a container without
// network.
const (
	hostsFile    = "hosts"
	hostnameFile = "hostname"
	resolvFile   = "resolv.conf"
	// hostGateway stands, in a service's extra hosts, for the address of the machine (docker run --add-host).
	hostGateway = "host-gateway"
	// hostResolvFile says which domains the machine searches: tasks do, too, when their service names none.
	hostResolvFile = "/etc/resolv.conf"
)

// nameMounts are where the files belong, unless the service mounts something of its own there.
func (c *controller) nameMounts(spec *swarm.ContainerSpec) (mounts []mount.Mount) {
	for _, m := range []mount.Mount{
		{Source: hostsFile, Target: "/etc/hosts"}, {Source: hostnameFile, Target: "/etc/hostname"}, {Source: resolvFile, Target: "/etc/resolv.conf"},
	} {
		if slices.ContainsFunc(spec.Mounts, func(own mount.Mount) bool { return filepath.Clean(own.Target) == m.Target }) {
			continue
		}
		m.Type, m.Source, m.ReadOnly = mount.TypeBind, filepath.Join(c.e.dir(c.id), m.Source), spec.ReadOnly
		mounts = append(mounts, m)
	}
	return mounts
}

// mountNames puts the files into a container. Where SELinux is in force they are labelled for containers, which only the
// old form of a mount can ask for.
func mountNames(h *container.HostConfig, mounts []mount.Mount, info system.Info) {
	if !slices.ContainsFunc(info.SecurityOptions, func(o string) bool { return o == "selinux" || strings.HasPrefix(o, "name=selinux") }) {
		h.Mounts = append(mounts, h.Mounts...)
		return
	}
	for _, m := range mounts {
		mode := "z"
		if m.ReadOnly {
			mode = "ro,z"
		}
		h.Binds = append(h.Binds, m.Source+":"+m.Target+":"+mode)
	}
}

// writeNames writes the files.
func (c *controller) writeNames(ctx context.Context, spec *swarm.ContainerSpec) error {
	hosts, err := c.hosts(ctx, spec)
	if err != nil {
		return err
	}
	search := hostSearch(hostResolvFile)
	for name, text := range map[string]string{hostsFile: hosts, hostnameFile: c.hostname(spec) + "\n", resolvFile: resolvConf(spec.DNSConfig, search)} {
		path := filepath.Join(c.e.dir(c.id), name)
		// Everybody in the task may read it, whatever this process' umask is.
		if err := errors.Join(os.WriteFile(path, []byte(text), 0o644), os.Chmod(path, 0o644)); err != nil {
			return fmt.Errorf("write the task's %s: %w", name, err)
		}
	}
	return nil
}

// hosts is the task's hosts(5) file: what Docker puts there, the service's extra hosts, and the task's own name.
func (c *controller) hosts(ctx context.Context, spec *swarm.ContainerSpec) (string, error) {
	var b strings.Builder
	b.WriteString("127.0.0.1\tlocalhost\n")
	var own netip.Addr
	six := false
	for _, a := range c.task.Task.Networks {
		for _, p := range a.Addresses {
			six = six || p.Addr().Is6()
		}
	}
	devices, err := c.devices()
	if err != nil {
		return "", err
	}
	if len(devices) > 0 {
		own = devices[0].Addrs[0].Addr()
	}
	if six {
		b.WriteString("::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n")
	}
	for _, line := range spec.Hosts {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		if fields[0] == hostGateway {
			if fields[0], err = c.e.hostGateway(ctx); err != nil {
				return "", fmt.Errorf("extra host %s: %w", fields[1], err)
			}
		}
		for _, name := range fields[1:] {
			fmt.Fprintf(&b, "%s\t%s\n", fields[0], name)
		}
	}
	if own.IsValid() {
		fmt.Fprintf(&b, "%s\t%s\n", own, c.hostname(spec))
	}
	return b.String(), nil
}

// hostGateway is the machine's address in the engine's default network.
func (e *Executor) hostGateway(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	bridge, err := e.api.NetworkInspect(ctx, "bridge", network.InspectOptions{})
	if err != nil {
		return "", wrap("look for the engine's default network", err)
	}
	for _, c := range bridge.IPAM.Config {
		if a, err := netip.ParseAddr(c.Gateway); err == nil && a.Is4() {
			return c.Gateway, nil
		}
	}
	return "", errors.New("the engine's default network has no gateway")
}

// resolvConf is the task's resolv.conf(5): the node's own name server, and what the service asks for. Without search
// domains of its own a service gets those of the machine; "." means none.
func resolvConf(d *swarm.DNSConfig, search []string) string {
	options := []string{"ndots:0"}
	if d != nil {
		if len(d.Search) > 0 {
			search = d.Search
		}
		if len(d.Options) > 0 {
			options = d.Options
			if !slices.ContainsFunc(options, func(o string) bool { return strings.HasPrefix(o, "ndots:") }) {
				options = append([]string{"ndots:0"}, options...)
			}
		}
	}
	var b strings.Builder
	if len(search) > 0 && !slices.Equal(search, []string{"."}) {
		fmt.Fprintf(&b, "search %s\n", strings.Join(search, " "))
	}
	fmt.Fprintf(&b, "nameserver %s\noptions %s\n", sandbox.DNSAddr, strings.Join(options, " "))
	return b.String()
}

// hostSearch reads the search domains out of a resolv.conf: the last line that names some.
func hostSearch(path string) (search []string) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && (f[0] == "search" || f[0] == "domain") {
			search = f[1:]
		}
	}
	return search
}
