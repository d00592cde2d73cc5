package mesh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
)

// Config is what a Mesh needs.
type Config struct {
	Key Key
	// Listen is the UDP address to receive at and send from. An unspecified
	// address means all addresses of both families; port 0 any port.
	Listen netip.AddrPort
	// Device is read and written by the mesh, and closed by Run's end.
	Device tun.Device
	Logger *slog.Logger
	// Registry gets the metrics; nil is none.
	Registry prometheus.Registerer
	// Bind replaces the UDP sockets (see meshtest); nil is UDP on Listen.
	Bind conn.Bind
}

// Peer is another node.
type Peer struct {
	Key PublicKey
	// Endpoint is where the peer listens. A peer that is seen to send from elsewhere is answered there.
	Endpoint netip.AddrPort
	// AllowedIPs are the peer's addresses in the mesh: what is sent to it, and what it may send from. Those of different peers must not overlap.
	AllowedIPs []netip.Prefix
}

// PeerStatus is what is known of a peer.
type PeerStatus struct {
	Key      PublicKey
	Endpoint netip.AddrPort
	// LastHandshake is zero when there was none yet.
	LastHandshake    time.Time
	RxBytes, TxBytes uint64
}

// ErrClosed says that Run has ended.
var ErrClosed = errors.New("mesh is closed")

// Mesh is a node's encrypted network to its peers.
type Mesh struct {
	cfg   Config
	guard *guard
	ready chan struct{}

	mu    sync.Mutex
	peers map[PublicKey]Peer
	dev   *device.Device // while Run runs
	ended bool
}

// New checks cfg. It opens nothing.
func New(cfg Config) (*Mesh, error) {
	if cfg.Key == (Key{}) {
		return nil, errors.New("mesh: no private key")
	}
	if cfg.Device == nil {
		return nil, errors.New("mesh: no device")
	}
	if cfg.Bind == nil && !cfg.Listen.Addr().IsValid() {
		return nil, errors.New("mesh: no address to listen on")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.Logger = cfg.Logger.With("component", "mesh")
	m := &Mesh{cfg: cfg, ready: make(chan struct{}), peers: make(map[PublicKey]Peer)}
	m.guard = newGuard(cfg.Device)
	if m.cfg.Bind == nil {
		m.cfg.Bind = newBind(cfg.Listen, cfg.Logger)
	}
	m.cfg.Bind = countedBind{Bind: m.cfg.Bind, sent: m.guard.sent}
	registerMetrics(m, cfg.Registry)
	return m, nil
}

// Ready is closed when the mesh listens.
func (m *Mesh) Ready() <-chan struct{} { return m.ready }

// Run opens the mesh and keeps it until ctx ends (then nil) or its device fails. It runs once.
func (m *Mesh) Run(ctx context.Context) error {
	dev := device.NewDevice(m.guard, m.cfg.Bind, m.logger())
	defer m.close(dev)
	if err := m.open(dev); err != nil {
		return err
	}
	close(m.ready)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		select {
		case <-ctx.Done():
			return nil
		case <-dev.Wait():
			if ctx.Err() != nil {
				return nil
			}
			return errors.New("mesh: the device was closed")
		}
	})
	g.Go(func() error { return m.watch(ctx) })
	return g.Wait()
}

// open configures the device and brings it up.
func (m *Mesh) open(dev *device.Device) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dev != nil || m.ended {
		return errors.New("mesh: Run was called twice")
	}
	conf := fmt.Sprintf("private_key=%s\nlisten_port=%d\n", m.cfg.Key.hex(), m.cfg.Listen.Port())
	if err := dev.IpcSet(conf); err != nil {
		return fmt.Errorf("configure WireGuard: %w", err)
	}
	if err := dev.IpcSet(diffPeers(nil, m.peers)); err != nil {
		return fmt.Errorf("configure WireGuard peers: %w", err)
	}
	if err := dev.Up(); err != nil {
		return fmt.Errorf("listen for WireGuard on UDP %s: %w", m.cfg.Listen, err)
	}
	m.dev = dev
	return nil
}

func (m *Mesh) close(dev *device.Device) {
	dev.Close()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dev == dev || m.dev == nil {
		m.dev, m.ended = nil, true
	}
}

// SetPeers makes peers the peers, all of them. Only differences are applied:
// what did not change keeps its session. Before Run it is remembered.
func (m *Mesh) SetPeers(peers []Peer) error {
	want := make(map[PublicKey]Peer, len(peers))
	self := m.cfg.Key.Public()
	for _, p := range peers {
		if _, dup := want[p.Key]; dup {
			return fmt.Errorf("mesh: two peers have the key %s", p.Key)
		}
		if p.Key == self {
			return fmt.Errorf("mesh: peer %s is this node itself", p.Endpoint)
		}
		want[p.Key] = p
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ended {
		return ErrClosed
	}
	if m.dev != nil {
		if conf := diffPeers(m.peers, want); conf != "" {
			if err := m.dev.IpcSet(conf); err != nil {
				return fmt.Errorf("configure WireGuard peers: %w", err)
			}
		}
	}
	m.peers = want
	m.guard.setPeers(want)
	return nil
}

// Peers returns the status of all peers, in no order.
func (m *Mesh) Peers() []PeerStatus {
	m.mu.Lock()
	dev := m.dev
	m.mu.Unlock()
	if dev == nil {
		return nil
	}
	conf, err := dev.IpcGet()
	if err != nil {
		m.cfg.Logger.Debug("read WireGuard status", "err", err)
		return nil
	}
	return parseStatus(conf)
}

const (
	// watchInterval is how often peers without a session are looked for, and
	// watchTicks how many of it pass while there is nothing to expect.
	watchInterval = 200 * time.Millisecond
	watchTicks    = 5
	// urgeFirst and urgeSecond are the ticks of each second in which the two sides ask for a session.
	urgeFirst, urgeSecond = 1, 3
)

// watch tells the guard which peers have a session.
func (m *Mesh) watch(ctx context.Context) error {
	t := time.NewTicker(watchInterval)
	defer t.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return nil
		case now := <-t.C:
			if fill := n%watchTicks == 0; fill || m.guard.young(now) {
				m.guard.observe(m.Peers(), time.Now(), fill)
				m.urge(now)
			}
		}
	}
}

// urge asks peers that came lately, or that there are packets for, for a session: once a second. WireGuard itself waits five
// seconds before it asks again, and two nodes that learn of each other at the same moment need that: the first request of one
// is lost when the other does not know it yet, and when both ask at once each answers the other and nobody begins to speak.
// The two sides ask half a second apart, the one with the smaller key first.
func (m *Mesh) urge(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dev == nil {
		return
	}
	self := m.cfg.Key.Public()
	for key, age := range m.guard.waitingFor(now) {
		turn := int64(urgeFirst)
		if bytes.Compare(self[:], key[:]) > 0 {
			turn = urgeSecond
		}
		if int64(age/watchInterval)%watchTicks != turn {
			continue
		}
		if peer := m.dev.LookupPeer(device.NoisePublicKey(key)); peer != nil {
			peer.ExpireCurrentKeypairs() // forgets the request under way, and when it was sent
			if err := peer.SendHandshakeInitiation(false); err != nil {
				m.cfg.Logger.Debug("ask for a session", "peer", key.String(), "err", err)
			}
		}
	}
}

// logger bridges wireguard-go's log, all of it at debug level: its errors are
// those of single packets, and come by the thousand when a network is down.
func (m *Mesh) logger() *device.Logger {
	logf := func(format string, args ...any) {
		if m.cfg.Logger.Enabled(context.Background(), slog.LevelDebug) {
			m.cfg.Logger.Debug(fmt.Sprintf(format, args...))
		}
	}
	return &device.Logger{Verbosef: logf, Errorf: logf}
}
