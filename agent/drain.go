package agent

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/docker/docker/api/types/swarm"
	"golang.org/x/sync/errgroup"

	"github.com/meshswarm/meshswarm/agent/sandbox"
	"github.com/meshswarm/meshswarm/raft/state"
)

const (
	// busyClients is how long clients that keep asking over old connections are waited for: after that it is enough that
	// no request is under way. The server is the one who can tell them to go, once it has its stop signal.
	busyClients = time.Second
	// nameTime is how long clients may keep the address of a task that they found by name (netstack's TTL).
	nameTime = time.Second
	// maxLag bounds how long packets are waited for that are on their way.
	maxLag = time.Second
	// Connections are looked at no more often, and at least as often.
	minLook = 20 * time.Millisecond
	maxLook = 100 * time.Millisecond
)

// drainer decides when a task that is told to stop can be stopped without a failed request.
type drainer struct {
	// known blocks until all nodes have applied the store as it was at an index (plane.known).
	known func(ctx context.Context, index uint64) error
	// quiet blocks until nothing comes to the addresses any more (netstack.Quiet).
	quiet func(ctx context.Context, addrs []netip.Addr, tcp, udp bool) error
	// traffic looks at a task's connections (sandbox.AskTraffic).
	traffic func(ctx context.Context, task string) (sandbox.Traffic, error)
}

// drain returns when no node sends the task new flows, what was on its way has arrived, and its clients have their
// answers. It is task.Config.Drain: t is the task as the order to stop brought it.
func (d drainer) drain(ctx context.Context, t state.AssignedTask) error {
	begin := time.Now()
	if err := d.known(ctx, t.Task.Modified); err != nil {
		return fmt.Errorf("wait until all nodes know that the task stops: %w", err)
	}
	// What was sent by older tables arrives soon; where the news took long, packets may, too.
	if err := sleep(ctx, min(2*time.Since(begin), maxLag)); err != nil {
		return err
	}
	if e := t.EndpointSpec; e != nil && e.Mode == swarm.ResolutionModeDNSRR {
		if err := sleep(ctx, nameTime); err != nil {
			return fmt.Errorf("wait until the task's name is forgotten: %w", err)
		}
	}
	var addrs []netip.Addr
	for _, n := range t.Task.Networks {
		for _, a := range n.Addresses {
			addrs = append(addrs, a.Addr())
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.quiet(ctx, addrs, false, true) })
	g.Go(func() error { return d.answered(ctx, t.Task.ID, addrs) })
	if err := g.Wait(); err != nil {
		return fmt.Errorf("wait until the task's clients have their answers: %w", err)
	}
	return nil
}

// answered waits until no client has a request under way. Where the kernel cannot tell, nothing may come any more.
func (d drainer) answered(ctx context.Context, task string, addrs []netip.Addr) error {
	begin := time.Now()
	var t sandbox.Traffic
	for wait := sandbox.Silence; ; {
		err := sleep(ctx, wait)
		if err != nil {
			return fmt.Errorf("%v: %w", t, err)
		}
		t, err = d.traffic(ctx, task)
		if err != nil {
			return d.quiet(ctx, addrs, true, false)
		}
		silent := time.Duration(t.Silent) * time.Millisecond
		switch {
		case t.Waiting+t.Unsent+t.Answering > 0:
			wait = minLook
		case t.Connections == 0, silent >= sandbox.Silence, time.Since(begin) > busyClients:
			return nil
		default:
			wait = max(minLook, min(sandbox.Silence-silent, maxLook))
		}
	}
}

// sleep waits, or returns the cause of ctx's end.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
