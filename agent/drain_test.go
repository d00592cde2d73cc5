package agent

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/agent/sandbox"
	"github.com/meshswarm/meshswarm/raft/state"
)

// drained is a drainer whose world says what the test wants, and notes what it was asked.
type drained struct {
	mu    sync.Mutex
	asked []string
	looks []sandbox.Traffic // the last one stays
	err   error             // of looks
}

func (d *drained) note(what string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked = append(d.asked, what)
}

func (d *drained) drainer() drainer {
	return drainer{
		known: func(_ context.Context, index uint64) error {
			if index != 7 {
				return errors.New("another index")
			}
			d.note("known")
			return nil
		},
		quiet: func(_ context.Context, addrs []netip.Addr, tcp, udp bool) error {
			if len(addrs) != 2 {
				return errors.New("other addresses")
			}
			for what, asked := range map[string]bool{"tcp": tcp, "udp": udp} {
				if asked {
					d.note(what)
				}
			}
			return nil
		},
		traffic: func(context.Context, string) (sandbox.Traffic, error) {
			d.note("look")
			d.mu.Lock()
			defer d.mu.Unlock()
			t := d.looks[0]
			d.looks = d.looks[min(1, len(d.looks)-1):]
			return t, d.err
		},
	}
}

func drainedTask() state.AssignedTask {
	t := state.AssignedTask{Task: state.Task{ID: "t", Networks: []state.Attachment{
		{Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.1.2/24")}}, {Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.2.2/24")}},
	}}}
	t.Task.Modified = 7
	return t
}

func TestDrain(t *testing.T) {
	idle := sandbox.Traffic{Connections: 1, Silent: 9000}
	for name, tt := range map[string]struct {
		looks []sandbox.Traffic
		err   error
		want  int // looks
	}{
		"nobody is connected":         {[]sandbox.Traffic{{Silent: -1}}, nil, 1},
		"an idle connection":          {[]sandbox.Traffic{idle}, nil, 1},
		"a request under way":         {[]sandbox.Traffic{{Connections: 2, Waiting: 1, Silent: 4000}, idle}, nil, 2},
		"an answer under way":         {[]sandbox.Traffic{{Connections: 2, Unsent: 1, Silent: 4000}, idle}, nil, 2},
		"a slow answer":               {[]sandbox.Traffic{{Connections: 2, Answering: 1, Silent: 100}, idle}, nil, 2},
		"somebody was just answered":  {[]sandbox.Traffic{{Connections: 2, Silent: 10}, idle}, nil, 2},
		"the kernel cannot tell that": {[]sandbox.Traffic{{}}, errors.New("unknown request"), 1},
	} {
		t.Run(name, func(t *testing.T) {
			d := &drained{looks: tt.looks, err: tt.err}
			if err := d.drainer().drain(t.Context(), drainedTask()); err != nil {
				t.Fatal(err)
			}
			looks := 0
			for _, a := range d.asked {
				if a == "look" {
					looks++
				}
			}
			if looks != tt.want || d.asked[0] != "known" || !slices.Contains(d.asked, "udp") || slices.Contains(d.asked, "tcp") != (tt.err != nil) {
				t.Errorf("asked %v, want %d looks", d.asked, tt.want)
			}
		})
	}
}

// Clients that never pause do not hold a task for ever, a request that is under way does, until the time is over.
func TestDrainOfBusyClients(t *testing.T) {
	d := &drained{looks: []sandbox.Traffic{{Connections: 50, Silent: 1}}}
	begin := time.Now()
	if err := d.drainer().drain(t.Context(), drainedTask()); err != nil || time.Since(begin) < busyClients {
		t.Errorf("after %v: %v", time.Since(begin), err)
	}
	d = &drained{looks: []sandbox.Traffic{{Connections: 50, Waiting: 1, Silent: 1}}}
	over := errors.New("over")
	ctx, cancel := context.WithTimeoutCause(t.Context(), busyClients+sandbox.Silence, over)
	defer cancel()
	if err := d.drainer().drain(ctx, drainedTask()); !errors.Is(err, over) {
		t.Errorf("a request is under way: %v", err)
	}
}

// Clients that find tasks by name have their addresses for a while.
func TestDrainByName(t *testing.T) {
	at := drainedTask()
	at.EndpointSpec = &swarm.EndpointSpec{Mode: swarm.ResolutionModeDNSRR}
	begin := time.Now()
	if err := (&drained{looks: []sandbox.Traffic{{Silent: -1}}}).drainer().drain(t.Context(), at); err != nil || time.Since(begin) < nameTime {
		t.Errorf("after %v: %v", time.Since(begin), err)
	}
}

func TestDrainUnknown(t *testing.T) {
	d := (&drained{}).drainer()
	d.known = func(ctx context.Context, _ uint64) error {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := d.drain(ctx, drainedTask()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a node does not know yet: %v", err)
	}
}
