package netstack

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

// ErrAddressInUse says that another task's link has the address.
var ErrAddressInUse = errors.New("address is in use by another task")

// ErrClosed says that the Netstack's Run has ended.
var ErrClosed = errors.New("netstack is closed")

// attach makes a link of cfg and starts its reader, now or when run is called.
// An earlier link of the same task and network is closed.
func (f *fabric) attach(cfg LinkConfig) (*Link, error) {
	cfg.Addrs = slices.Clone(cfg.Addrs)
	dev, err := openDevice(&cfg)
	if err != nil {
		return nil, fmt.Errorf("attach task %s to network %s: %w", cfg.TaskID, cfg.NetworkID, err)
	}
	l := &Link{cfg: cfg, f: f, dev: dev, done: make(chan struct{})}
	if old := f.find(cfg.TaskID, cfg.NetworkID); old != nil {
		_ = f.detach(old)
	}
	if err := f.register(l); err != nil {
		dev.close()
		return nil, fmt.Errorf("attach task %s to network %s: %w", cfg.TaskID, cfg.NetworkID, err)
	}
	return l, nil
}

func (f *fabric) find(task, network string) *Link {
	f.mu.Lock()
	defer f.mu.Unlock()
	for l := range f.attached {
		if l.cfg.TaskID == task && l.cfg.NetworkID == network {
			return l
		}
	}
	return nil
}

func (f *fabric) register(l *Link) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended {
		return ErrClosed
	}
	local := maps.Clone(*f.local.Load())
	for _, a := range l.cfg.Addrs {
		if local[a] != nil {
			return fmt.Errorf("%w: %s", ErrAddressInUse, a)
		}
		local[a] = l
	}
	f.restore(l)
	f.attached[l] = struct{}{}
	f.local.Store(&local)
	if f.start != nil {
		f.start(l)
	}
	return nil
}

// detach closes l and waits for its reader.
func (f *fabric) detach(l *Link) error {
	f.mu.Lock()
	_, ok := f.attached[l]
	started := f.start != nil
	if ok {
		delete(f.attached, l)
		local := make(map[netip.Addr]*Link)
		for a, o := range *f.local.Load() {
			if o != l {
				local[a] = o
			}
		}
		f.local.Store(&local)
	}
	f.mu.Unlock()
	if !ok {
		return nil
	}
	err := l.dev.close()
	if started {
		<-l.done
	}
	f.flows.each(func(w *flow) {
		if w.link == l {
			f.flows.remove(w)
		}
	})
	return err
}

// run reads all links, present and to come, until ctx ends.
func (f *fabric) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	f.mu.Lock()
	f.start = func(l *Link) {
		g.Go(func() error {
			l.run(ctx)
			return nil
		})
	}
	for l := range f.attached {
		f.start(l)
	}
	f.mu.Unlock()
	g.Go(func() error { return f.tick(ctx) })
	g.Go(func() error {
		<-ctx.Done()
		f.closeAll()
		return nil
	})
	return g.Wait()
}

// tick ages the flows once a second.
func (f *fabric) tick(ctx context.Context) error {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			f.flows.age(f.flows.clock.Load() + 1)
		}
	}
}

func (f *fabric) closeAll() {
	f.mu.Lock()
	f.ended = true
	links := slices.Collect(maps.Keys(f.attached))
	f.mu.Unlock()
	_ = f.mesh.Close() // first: readers may wait for its queue
	for _, l := range links {
		_ = f.detach(l)
	}
}
