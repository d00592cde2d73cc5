package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/meshswarm/meshswarm/agent/sandbox"
	"github.com/meshswarm/meshswarm/netstack"
	"github.com/meshswarm/meshswarm/raft/state"
)

// fabric is the part of the data plane that tasks are attached to (netstack.Netstack).
type fabric interface {
	Attach(netstack.LinkConfig) (*netstack.Link, error)
	ServeDNS(netstack.DNSConfig) (io.Closer, error)
}

// attacher connects tasks' sandboxes to the fabric; it is the Network that agent/docker asks for.
type attacher struct {
	fabric   fabric
	networks func(id string) (state.AssignedNetwork, bool)
	// sockets lists a task's connections (sandbox.Sockets).
	sockets func(ctx context.Context, task string) ([]sandbox.Socket, error)

	mu    sync.Mutex
	tasks map[string]*attachment
}

// attachment is what one task has in the fabric: its links and its name server.
type attachment struct {
	closers []io.Closer
}

func (a *attachment) Close() error {
	var errs []error
	for _, c := range a.closers {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// Attach connects a sandbox's devices and DNS sockets to the fabric, in place of what the task had before. It takes
// ownership of the handover's files, also when it fails.
func (a *attacher) Attach(ctx context.Context, t state.AssignedTask, h *sandbox.Handover) error {
	defer h.Close() // what nobody took
	a.Detach(t.Task.ID)
	flows, err := a.flows(ctx, t.Task.ID)
	if err != nil {
		return err
	}
	att := &attachment{}
	if err := a.connect(att, t, h, flows); err != nil {
		return errors.Join(err, att.Close())
	}
	a.mu.Lock()
	a.tasks[t.Task.ID] = att
	a.mu.Unlock()
	return nil
}

// flows are the task's open connections. A task that starts has none; one that is taken over by a restarted agent may
// have some to VIPs, whose backends the fabric has to know again before it moves a packet.
func (a *attacher) flows(ctx context.Context, task string) ([]netstack.FlowKey, error) {
	sockets, err := a.sockets(ctx, task)
	if err != nil {
		return nil, fmt.Errorf("list the task's connections: %w", err)
	}
	out := make([]netstack.FlowKey, len(sockets))
	for i, s := range sockets {
		out[i] = netstack.FlowKey{Protocol: "tcp", Client: s.Local, VIP: s.Remote}
	}
	return out, nil
}

func (a *attacher) connect(att *attachment, t state.AssignedTask, h *sandbox.Handover, flows []netstack.FlowKey) error {
	internal := true
	var networks []string
	for i := range h.Devices {
		d := &h.Devices[i]
		c := linkConfig(t.Task.ID, *d, flows)
		d.File = nil // the link's from here on
		link, err := a.fabric.Attach(c)
		if err != nil {
			return fmt.Errorf("attach %s: %w", d.Name, err)
		}
		att.closers = append(att.closers, link)
		if n, ok := a.networks(d.NetworkID); ok && !n.Internal {
			internal = false
		}
		networks = append(networks, d.NetworkID)
	}
	return a.serveDNS(att, t, h, networks, internal)
}

// serveDNS answers the task's queries at 127.0.0.11, on the sockets that the sandbox opened there.
func (a *attacher) serveDNS(att *attachment, t state.AssignedTask, h *sandbox.Handover, networks []string, internal bool) error {
	if h.DNSUDP == nil || h.DNSTCP == nil {
		return errors.New("the sandbox passed no DNS sockets")
	}
	upstream, err := upstreams(t)
	if err != nil {
		return err
	}
	udp, err := net.FilePacketConn(h.DNSUDP) // a duplicate
	if err != nil {
		return fmt.Errorf("take the DNS socket over: %w", err)
	}
	tcp, err := net.FileListener(h.DNSTCP)
	if err != nil {
		udp.Close()
		return fmt.Errorf("take the DNS listener over: %w", err)
	}
	dns, err := a.fabric.ServeDNS(netstack.DNSConfig{
		TaskID: t.Task.ID, NetworkIDs: networks, UDP: udp, TCP: tcp, Upstream: upstream, Internal: internal,
	})
	if err != nil {
		return fmt.Errorf("serve DNS: %w", err)
	}
	att.closers = append(att.closers, dns)
	return nil
}

// Detach takes a task out of the fabric. Unknown tasks are fine.
func (a *attacher) Detach(taskID string) {
	a.mu.Lock()
	att := a.tasks[taskID]
	delete(a.tasks, taskID)
	a.mu.Unlock()
	if att != nil {
		_ = att.Close() // the links end either way
	}
}

// Close detaches everything; the sandboxes keep their devices.
func (a *attacher) Close() {
	a.mu.Lock()
	tasks := a.tasks
	a.tasks = map[string]*attachment{}
	a.mu.Unlock()
	for _, att := range tasks {
		_ = att.Close()
	}
}

func linkConfig(task string, d sandbox.Device, flows []netstack.FlowKey) netstack.LinkConfig {
	c := netstack.LinkConfig{TaskID: task, NetworkID: d.NetworkID, File: d.File, MAC: d.MAC, MTU: d.MTU, Kind: netstack.TUN}
	if d.Kind == sandbox.KindPacket {
		c.Kind = netstack.Packet
	}
	for _, p := range d.Addrs {
		c.Addrs = append(c.Addrs, p.Addr())
	}
	for _, f := range flows {
		if slices.Contains(c.Addrs, f.Client.Addr()) {
			c.Flows = append(c.Flows, f)
		}
	}
	return c
}

// upstreams are the name servers that the service's spec asks for; empty = the host's.
func upstreams(t state.AssignedTask) ([]netip.AddrPort, error) {
	if t.Spec.ContainerSpec == nil || t.Spec.ContainerSpec.DNSConfig == nil {
		return nil, nil
	}
	var out []netip.AddrPort
	for _, s := range t.Spec.ContainerSpec.DNSConfig.Nameservers {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return nil, fmt.Errorf("--dns %s: not an IP address", s)
		}
		out = append(out, netip.AddrPortFrom(a, 53))
	}
	return out, nil
}
