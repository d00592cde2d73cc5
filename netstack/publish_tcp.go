package netstack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
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
	// newsLag is how long a node may hear later than others that a task of its own serves: so long it is asked again, every newsPause.
	newsLag   = time.Second
	newsPause = 25 * time.Millisecond
	// startLag is how long a task that runs may take until it listens: without a health check nobody knows better. So long after a change
	// of the backends a client that all refuse is not refused at once, either.
	startLag = 3 * time.Second
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
	pub.join(clientFlow{p.key, b.Addr}, b.Node.IsValid(), client, task)
}

func placeOf(b PortBackend) string {
	if b.Node.IsValid() {
		return "remote"
	}
	return "local"
}

// join splices a client and a task until either ends or the tables do not have the flow any more.
func (p *publisher) join(key clientFlow, remote bool, client, task duplex) {
	j := &joint{client: client, task: task, remote: remote}
	remove, ok := p.flows.addLosing(key, j.cut, j.lose)
	if !ok {
		j.cut()
		return
	}
	defer remove()
	if !p.state.Load().hasClient(key) {
		j.cut() // it left while it was being dialled
	}
	gauge := p.run.h.metrics.conns.WithLabelValues("published")
	gauge.Inc()
	defer gauge.Dec()
	j.run()
}

// connect tries the backends in turn until one accepts. Nothing has been read of the client, so that it does not notice. What the tables say
// meanwhile counts: a backend that does not serve any more is left out, and a new one is tried, too.
func (p *pubPort) connect(client netip.AddrPort) (duplex, PortBackend, error) {
	ctx, cancel := context.WithTimeout(p.pub.run.ctx, publishDialTimeout)
	defer cancel()
	start := time.Now()
	errs := []error{errors.New("no backend is serving")}
	for {
		table := p.table.Load()
		early := false
		for _, b := range p.pick.order(table.serving, &p.pub.avoid) {
			if ctx.Err() != nil {
				return nil, PortBackend{}, errors.Join(append(errs, context.Cause(ctx))...)
			}
			now := p.table.Load()
			if now != table && !slices.Contains(now.serving, b) {
				continue
			}
			c, err := p.pub.dial(ctx, b, client, netip.AddrPortFrom(b.Addr, now.target))
			if err == nil {
				return c, b, nil
			}
			errs = append(errs, err)
			early = early || errors.Is(err, errNotThere) || errors.Is(err, errRefused) && start.Sub(table.since) < startLag
		}
		switch {
		case p.table.Load() != table:
		case early && time.Since(start) < newsLag && pause(ctx, newsPause):
		default:
			return nil, PortBackend{}, errors.Join(errs...)
		}
	}
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
