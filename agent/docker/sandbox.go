package docker

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/agent/sandbox"
	"github.com/meshswarm/meshswarm/agent/task"
)

const (
	defaultSandboxTimeout = 30 * time.Second
	setupSlice            = time.Second
	// How long a task's last words may take to arrive, and how often that is looked at.
	farewellTime = time.Second
	farewellLook = 20 * time.Millisecond
)

var (
	errSandboxDied   = errors.New("sandbox died")
	errSandboxSilent = errors.New("sandbox does not answer")
)

func sandboxName(taskID string) string { return "meshswarm-sandbox-" + taskID }

// ensureSandbox makes and starts the task's sandbox, if it does not run; found is its container.
func (c *controller) ensureSandbox(ctx context.Context, spec *swarm.ContainerSpec, found *container.InspectResponse) error {
	if found != nil && found.State.Running {
		return nil
	}
	if found != nil {
		if err := c.e.removeContainer(ctx, found.ID); err != nil {
			return err
		}
	}
	return c.createSandbox(ctx, spec)
}

// createSandbox makes and starts the sandbox container. An engine that refuses the TUN device gets one without.
func (c *controller) createSandbox(ctx context.Context, spec *swarm.ContainerSpec) error {
	devices, err := c.devices()
	if err != nil {
		return err
	}
	dir := c.e.dir(c.id)
	if err := c.e.removeDir(c.id); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the sandbox's folder: %w", err)
	}
	s := sandbox.Spec{Kind: c.e.cfg.Kind, Devices: devices}
	if err := s.Write(dir); err != nil {
		return err
	}
	image, err := c.e.ensureSandboxImage(ctx)
	if err != nil {
		return err
	}
	tun := false
	if s.Kind != sandbox.KindPacket {
		_, err := os.Stat(sandbox.TUNPath)
		tun = err == nil
	}
	err = c.runSandbox(ctx, image, spec, s, tun)
	if cerrdefs.IsNotFound(err) { // somebody removed the image
		c.e.image.lost()
		if image, err = c.e.ensureSandboxImage(ctx); err != nil {
			return err
		}
		err = c.runSandbox(ctx, image, spec, s, tun)
	}
	if err != nil && tun && !errors.Is(err, task.ErrTemporary) {
		c.log.Debug("sandbox does not start with a TUN device, trying without", "err", err)
		err = c.runSandbox(ctx, image, spec, s, false)
	}
	return err
}

func (c *controller) runSandbox(ctx context.Context, image string, spec *swarm.ContainerSpec, s sandbox.Spec, tun bool) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	made, err := c.e.api.ContainerCreate(ctx, c.sandboxConfig(image, spec), c.sandboxHostConfig(spec, s, tun), nil, nil, sandboxName(c.id))
	if err != nil {
		return wrap("create sandbox", err)
	}
	if err := c.e.api.ContainerStart(ctx, made.ID, container.StartOptions{}); err != nil {
		err = wrap("start sandbox", err)
		if errors.Is(err, task.ErrTemporary) {
			return err
		}
		return errors.Join(err, c.e.removeContainer(ctx, made.ID))
	}
	return nil
}

// adopt connects the sandbox to the network, once per life of the agent.
func (c *controller) adopt(ctx context.Context) error {
	if c.attached {
		return nil
	}
	h, err := c.handover(ctx)
	if err != nil {
		return err
	}
	for _, w := range h.Warnings {
		c.log.Debug("sandbox: " + w)
	}
	if err := c.e.cfg.Network.Attach(ctx, c.task, h); err != nil {
		return fmt.Errorf("attach to the network: %w", err)
	}
	c.attached = true
	return nil
}

// handover asks the sandbox for its descriptors, as long as it lives and the agent has patience. A sandbox that runs and is never heard of, for
// its folder is gone, has no network for its task any more.
func (c *controller) handover(ctx context.Context) (*sandbox.Handover, error) {
	patience, cancel := context.WithTimeout(ctx, c.e.cfg.SandboxTimeout)
	defer cancel()
	for {
		slice, done := context.WithTimeout(patience, setupSlice)
		h, err := sandbox.Ask(slice, c.e.dir(c.id))
		done()
		if err == nil {
			return h, nil
		}
		if dead := c.sandboxAlive(ctx); dead != nil {
			return nil, dead
		}
		switch {
		case patience.Err() != nil: // not %w: a deadline means "try again", and that was done
			return nil, fmt.Errorf("%w: %v", errSandboxSilent, err)
		case !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, os.ErrDeadlineExceeded):
			return nil, fmt.Errorf("ask the sandbox for its devices: %w", err)
		}
	}
}

// sandboxAlive returns nil for a running sandbox and an errSandboxDied with the reason for any other.
func (c *controller) sandboxAlive(ctx context.Context) error {
	found, err := c.e.inspect(ctx, sandboxName(c.id), c.id)
	if err != nil {
		return err
	}
	return c.judgeSandbox(found)
}

// judgeSandbox is sandboxAlive for the sandbox's container, nil when it has none.
func (c *controller) judgeSandbox(found *container.InspectResponse) error {
	switch {
	case found == nil:
		return fmt.Errorf("%w: its container is gone", errSandboxDied)
	case found.State.Running:
		return nil
	case found.State.OOMKilled:
		return fmt.Errorf("%w: out of memory", errSandboxDied)
	}
	reason := fmt.Sprintf("exit code %d", found.State.ExitCode)
	if text, err := os.ReadFile(filepath.Join(c.e.dir(c.id), sandbox.ErrorFile)); err == nil && len(text) > 0 {
		reason = strings.TrimSpace(string(text[:min(len(text), 1024)]))
	}
	return fmt.Errorf("%w: %s", errSandboxDied, reason)
}

// farewell waits, not for long, until the other sides have what the task sent before its end: the kernel goes on sending
// for a process that is gone, but only as long as the namespace is there.
func (c *controller) farewell(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, farewellTime)
	defer cancel()
	for {
		t, err := sandbox.AskTraffic(ctx, c.e.dir(c.id))
		if err != nil || t.Leaving == 0 {
			return // a sandbox that cannot tell, or is gone, is not waited for
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(farewellLook):
		}
	}
}

// removeSandbox disconnects the task and removes its sandbox.
func (c *controller) removeSandbox(ctx context.Context) error {
	c.e.cfg.Network.Detach(c.id)
	c.attached = false
	found, err := c.e.inspect(ctx, sandboxName(c.id), c.id)
	if err != nil {
		return err
	}
	if found != nil {
		if err := c.e.removeContainer(ctx, found.ID); err != nil && !cerrdefs.IsNotFound(err) {
			return err
		}
	}
	return c.e.removeDir(c.id)
}

// devices lists the sandbox's devices: the task's own networks first, then ingress. The default route goes through
// ingress where there is one, because a server's answer to a client outside has to leave where the question came in;
// otherwise through the first network that is not internal.
func (c *controller) devices() ([]sandbox.DeviceSpec, error) {
	var own, ingress []sandbox.DeviceSpec
	defaultDone := false
	for _, a := range c.task.Task.Networks {
		n, ok := c.e.cfg.Networks(a.NetworkID)
		if !ok {
			return nil, task.Temporary(fmt.Errorf("network %s is not known to this node yet", a.NetworkID))
		}
		d := sandbox.DeviceSpec{NetworkID: a.NetworkID, Addrs: a.Addresses, MTU: n.MTU}
		if d.MTU == 0 {
			d.MTU = c.e.cfg.MTU
		}
		d.Gateways = gateways(a.Addresses, n.Gateways)
		if n.Ingress {
			ingress = append(ingress, d)
			continue
		}
		own = append(own, d)
		if !n.Internal && !defaultDone {
			own[len(own)-1].Default, defaultDone = true, true
		}
	}
	for i := range ingress {
		ingress[i].Default = i == 0
		for j := range own {
			own[j].Default = false
		}
	}
	all := append(own, ingress...)
	for i := range all {
		all[i].Name = fmt.Sprintf("eth%d", i)
	}
	return all, nil
}

// gateways picks the gateways of the task's own subnets, one per address family.
func gateways(addrs []netip.Prefix, all []netip.Addr) []netip.Addr {
	var out []netip.Addr
	seen := map[bool]bool{}
	for _, g := range all {
		for _, a := range addrs {
			if a.Contains(g) && !seen[g.Is4()] {
				seen[g.Is4()] = true
				out = append(out, g)
			}
		}
	}
	return out
}

// sandboxConfig: with NetworkDisabled the engine makes an empty network namespace and leaves it alone. That takes it half
// the time that its network "none" does, and is what is wanted.
func (c *controller) sandboxConfig(image string, spec *swarm.ContainerSpec) *container.Config {
	stop := 2
	return &container.Config{
		Image: image, Hostname: c.hostname(spec), NetworkDisabled: true, StopSignal: "SIGTERM", StopTimeout: &stop, User: "0:0",
		Labels: map[string]string{
			LabelSwarm: c.e.cfg.SwarmID, LabelNode: c.e.cfg.NodeID, LabelTask: c.id, LabelSandbox: c.id,
		},
	}
}

// sandboxCaps are what setting up needs. The sandbox gives all of them up before it is asked anything.
var sandboxCaps = []string{"NET_ADMIN", "NET_RAW", "NET_BIND_SERVICE", "SYS_ADMIN", "SETPCAP", "CHOWN", "FOWNER", "DAC_OVERRIDE"}

func (c *controller) sandboxHostConfig(spec *swarm.ContainerSpec, s sandbox.Spec, tun bool) *container.HostConfig {
	off := false
	h := &container.HostConfig{
		NetworkMode: "none", ReadonlyRootfs: true, Init: &off,
		CapDrop: []string{"ALL"}, CapAdd: sandboxCaps,
		SecurityOpt: []string{"no-new-privileges", "label=disable"},
		LogConfig:   container.LogConfig{Type: "json-file", Config: map[string]string{"max-size": "64k", "max-file": "1"}},
		Mounts:      []mount.Mount{{Type: mount.TypeBind, Source: c.e.dir(c.id), Target: sandbox.MountPoint}},
		Sysctls:     netSysctls(spec.Sysctls, s),
	}
	if tun {
		h.Devices = []container.DeviceMapping{{PathOnHost: sandbox.TUNPath, PathInContainer: sandbox.TUNPath, CgroupPermissions: "rw"}}
	}
	return h
}

// hostname is the task's name for itself: what the spec says, else the first 12 characters of the task's ID.
func (c *controller) hostname(spec *swarm.ContainerSpec) string {
	if spec.Hostname != "" {
		return spec.Hostname
	}
	return c.id[:min(len(c.id), 12)]
}

// netSysctls picks what belongs to the network namespace, and turns IPv6 on or off with the task's addresses.
func netSysctls(all map[string]string, s sandbox.Spec) map[string]string {
	out := map[string]string{}
	if _, err := os.Stat("/proc/sys/net/ipv6"); err == nil {
		off := "1"
		if s.HasIPv6() {
			off = "0"
		}
		out["net.ipv6.conf.all.disable_ipv6"], out["net.ipv6.conf.default.disable_ipv6"] = off, off
	}
	for k, v := range all {
		if strings.HasPrefix(k, "net.") {
			out[k] = v
		}
	}
	return out
}
