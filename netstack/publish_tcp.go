package netstack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
)

const (
	// publishDialTimeout is how long a client waits in all until a backend has it.
	publishDialTimeout = 10 * time.Second
	// taskDialTimeout is how long one task may take to accept.
	taskDialTimeout = 2 * time.Second
	// peerDialTimeout is how long a node may take to accept, peerAnswerTimeout its task on top of that.
	peerDialTimeout   = time.Second
	peerAnswerTimeout = taskDialTimeout + 500*time.Millisecond
)

// serve joins one client with a backend. The backend is dialled before anything is read from the client; a client for whom there is none is reset.
func (p *pubPort) serve(client duplex) {
	pub, result := p.pub, p.pub.run.h.metrics.published
	from := addrPortOf(client.RemoteAddr())
	if !pub.conns.enter(netip.Addr{}) {
		result.WithLabelValues("tcp", "limit").Inc()
		client.abort()
		return
	}
	defer pub.conns.leave(netip.Addr{})
	if !pub.halfOpen.enter(from.Addr()) {
		result.WithLabelValues("tcp", "limit").Inc()
		client.abort()
		return
	}
	task, b, err := p.connect(from)
	pub.halfOpen.leave(from.Addr())
	if err != nil {
		result.WithLabelValues("tcp", "none").Inc()
		pub.run.h.log.Debug("no backend for a client of a published port", "port", p.key, "err", err)
		client.abort()
		return
	}
	result.WithLabelValues("tcp", placeOf(b)).Inc()
	pub.join(clientFlow{p.key, b.Addr}, client, task)
}

func placeOf(b PortBackend) string {
	if b.Node.IsValid() {
		return "remote"
	}
	return "local"
}

// join splices a client and a task until either ends or the tables do not have the flow any more.
func (p *publisher) join(key clientFlow, client, task duplex) {
	cut := func() { client.abort(); task.abort() }
	remove, ok := p.flows.add(key, cut)
	if !ok {
		cut()
		return
	}
	defer remove()
	if !p.state.Load().hasClient(key) {
		cut() // it left while it was being dialled
	}
	gauge := p.run.h.metrics.conns.WithLabelValues("published")
	gauge.Inc()
	defer gauge.Dec()
	splice(client, task)
}

// connect tries the backends in turn until one accepts.
func (p *pubPort) connect(client netip.AddrPort) (duplex, PortBackend, error) {
	ctx, cancel := context.WithTimeout(p.pub.run.ctx, publishDialTimeout)
	defer cancel()
	table := p.table.Load()
	errs := []error{errors.New("no backend is serving")}
	for _, b := range p.pick.order(table.serving, &p.pub.avoid) {
		if ctx.Err() != nil {
			errs = append(errs, context.Cause(ctx))
			break
		}
		to := netip.AddrPortFrom(b.Addr, table.target)
		c, err := p.pub.dial(ctx, b, client, to)
		if err == nil {
			return c, b, nil
		}
		errs = append(errs, err)
	}
	return nil, PortBackend{}, errors.Join(errs...)
}

func (p *publisher) dial(ctx context.Context, b PortBackend, client, task netip.AddrPort) (duplex, error) {
	if b.Node.IsValid() {
		return p.dialPeer(ctx, b.Node, client, task)
	}
	c, err := p.dialTask(ctx, client, task)
	if err != nil {
		p.avoid.add(task.Addr())
		return nil, err
	}
	return c, nil
}

// dialTask connects to a task of this node with the client's address as source.
func (p *publisher) dialTask(ctx context.Context, client, task netip.AddrPort) (*stackConn, error) {
	ctx, cancel := context.WithTimeout(ctx, taskDialTimeout)
	defer cancel()
	src := sourceFor(p.run.h.tables(), client, task.Addr())
	if !src.Addr().IsValid() {
		return nil, fmt.Errorf("dial task %s: its network has no gateway", task)
	}
	c, err := p.run.ip.dialTCP(ctx, src, task)
	if err != nil {
		return nil, fmt.Errorf("dial task %s: %w", task, err)
	}
	return c, nil
}

func addrPortOf(a net.Addr) netip.AddrPort {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := t.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
