package netstack

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"golang.zx2c4.com/wireguard/tun"
)

// DefaultMTU is the MTU of the mesh and the links: 1500 less WireGuard's overhead over IPv6.
const DefaultMTU = 1420

// Config is what a Netstack needs.
type Config struct {
	// MTU of the mesh and the links; zero is DefaultMTU.
	MTU int
	// PublishAddr is where published ports listen; zero is all addresses.
	PublishAddr netip.Addr
	// Resolvers are the host's upstream DNS servers; nil is those of /etc/resolv.conf.
	Resolvers []netip.AddrPort
	// PortsChanged is called with the published ports that could not be
	// opened ("tcp/80") and why, each time that changes. It must not block.
	PortsChanged func(errors map[string]string)
	Logger       *slog.Logger
	// Registry gets the metrics; nil is none.
	Registry prometheus.Registerer
	// Outside dials for tasks; nil is the host's own sockets.
	Outside Outside
}

// Netstack is a node's data plane. All methods are safe for concurrent use.
type Netstack struct {
	cfg    Config
	tabs   atomic.Pointer[tables]
	fabric *fabric
	host   *host

	mu sync.Mutex // one SetTables at a time
}

// New checks cfg. It opens nothing.
func New(cfg Config) (*Netstack, error) {
	if cfg.MTU == 0 {
		cfg.MTU = DefaultMTU
	}
	if cfg.MTU < 1280 || cfg.MTU > maxIP {
		return nil, errors.New("netstack: MTU must be between 1280 and 65535")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	n := &Netstack{cfg: cfg}
	n.tabs.Store(compile(&Tables{}))
	n.fabric = newFabric(cfg, n.tabs.Load)
	h, err := newHost(cfg, n.fabric, n.tabs.Load)
	if err != nil {
		return nil, err
	}
	n.host = h
	n.fabric.host = h
	return n, nil
}

// Run moves packets until ctx ends.
func (n *Netstack) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return n.fabric.run(ctx) })
	g.Go(func() error { return n.host.run(ctx) })
	return g.Wait()
}

// SetTables replaces all tables at once. The caller gives t away.
func (n *Netstack) SetTables(t *Tables) {
	n.mu.Lock()
	defer n.mu.Unlock()
	next := compile(t)
	last := n.tabs.Swap(next)
	n.fabric.changed(last, next)
	n.host.apply(next)
}

// Attach connects a task to a network. It takes over the place of an earlier
// link of the same task in the same network, and the file, also when it fails.
// What a link sends before SetTables has brought its network is dropped.
func (n *Netstack) Attach(cfg LinkConfig) (*Link, error) { return n.fabric.attach(cfg) }

// Device returns the mesh port: what the fabric sends to and gets from peers.
// It is closed by its reader or when Run ends.
func (n *Netstack) Device() tun.Device { return n.fabric.mesh }
