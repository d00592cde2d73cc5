package rafttest

import (
	"context"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/meshswarm/meshswarm/raft"
	"github.com/meshswarm/meshswarm/raft/state"
)

// waitFor bounds every wait of a test.
const waitFor = 30 * time.Second

// Sealer is a real one, with a key of its own.
type Sealer struct{ aead cipher.AEAD }

// NewSealer returns a Sealer with a random key.
func NewSealer() *Sealer {
	key := make([]byte, chacha20poly1305.KeySize)
	_, _ = rand.Read(key)
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		panic(err) // the key has the right length
	}
	return &Sealer{aead}
}

// Seal implements raft.Sealer.
func (s *Sealer) Seal(ad, plain []byte) []byte {
	nonce := make([]byte, chacha20poly1305.NonceSizeX)
	_, _ = rand.Read(nonce)
	return s.aead.Seal(nonce, nonce, plain, ad)
}

// Open implements raft.Sealer.
func (s *Sealer) Open(ad, sealed []byte) ([]byte, error) {
	if len(sealed) < chacha20poly1305.NonceSizeX {
		return nil, errors.New("sealed text too short")
	}
	return s.aead.Open(nil, sealed[:chacha20poly1305.NonceSizeX], sealed[chacha20poly1305.NonceSizeX:], ad)
}

// Cluster is a number of managers over a Network. It ends with the test.
type Cluster struct {
	Net      *Network
	Managers []*Manager

	t      testing.TB
	adjust func(*raft.Config)
}

// Manager is one of them. Raft and Store are new after each Start.
type Manager struct {
	ID, Addr, Dir string
	Sealer        *Sealer
	Raft          *raft.Raft
	Store         *state.Store

	cancel context.CancelFunc
	// ended carries what Run returned, once.
	ended chan error
}

// NewCluster starts n managers and waits until they are one cluster. adjust, if not nil, changes their configurations.
func NewCluster(t testing.TB, n int, adjust func(*raft.Config)) *Cluster {
	t.Helper()
	c := &Cluster{Net: NewNetwork(), t: t, adjust: adjust}
	t.Cleanup(c.stop)
	dir := t.TempDir()
	for i := range n {
		c.Managers = append(c.Managers, &Manager{
			ID: fmt.Sprintf("manager%d", i+1), Addr: fmt.Sprintf("10.99.0.%d:2377", i+1),
			Dir: filepath.Join(dir, fmt.Sprintf("m%d", i+1)), Sealer: NewSealer(),
		})
		c.Start(i)
		if i > 0 {
			c.Join(i)
		}
	}
	return c
}

// Start starts manager i, with what its directory holds. The first one bootstraps.
func (c *Cluster) Start(i int) {
	c.t.Helper()
	m := c.Managers[i]
	m.Store = state.New()
	cfg := raft.Config{
		NodeID: m.ID, Addr: m.Addr, Dir: m.Dir, Store: m.Store, Stream: c.Net.Listen(m.Addr), Sealer: m.Sealer,
		Bootstrap: i == 0, Logger: slog.New(slog.DiscardHandler),
		HeartbeatTimeout: 800 * time.Millisecond, ElectionTimeout: 800 * time.Millisecond,
	}
	if c.adjust != nil {
		c.adjust(&cfg)
	}
	r, err := raft.New(cfg)
	if err != nil {
		c.t.Fatalf("start %s: %v", m.ID, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.Raft, m.cancel, m.ended = r, cancel, make(chan error, 1)
	go func(ended chan<- error) { ended <- r.Run(ctx) }(m.ended)
	select {
	case <-r.Ready():
	case err := <-m.ended:
		m.cancel, m.ended = nil, nil
		cancel()
		c.t.Fatalf("start %s: %v", m.ID, err)
	case <-time.After(waitFor):
		c.t.Fatalf("start %s: not ready", m.ID)
	}
}

// Join makes the leader add manager i.
func (c *Cluster) Join(i int) {
	c.t.Helper()
	m := c.Managers[i]
	c.Eventually("add "+m.ID, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), waitFor)
		defer cancel()
		return c.Leader().Raft.AddManager(ctx, m.ID, m.Addr)
	})
}

// Kill ends manager i and returns what its Run returned.
func (c *Cluster) Kill(i int) error {
	c.t.Helper()
	m := c.Managers[i]
	if m.cancel == nil {
		return nil
	}
	m.cancel()
	m.cancel = nil
	select {
	case err := <-m.ended:
		return err
	case <-time.After(waitFor):
		c.t.Fatalf("%s does not end", m.ID)
		return nil
	}
}

func (c *Cluster) stop() {
	for i, m := range c.Managers {
		if err := c.Kill(i); err != nil && m.Raft != nil {
			c.t.Logf("%s ended with: %v", m.ID, err)
		}
	}
}

// Leader waits for a running manager that is the leader, as a majority confirms.
func (c *Cluster) Leader() *Manager {
	c.t.Helper()
	var leader *Manager
	c.Eventually("a leader", func() error {
		err := errors.New("nobody leads")
		for _, m := range c.Managers {
			if m.cancel == nil || !m.Raft.IsLeader() {
				continue
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			err = m.Raft.Verify(ctx)
			cancel()
			if err == nil {
				leader = m
				return nil
			}
		}
		return err
	})
	return leader
}

// Index tells the place of a manager.
func (c *Cluster) Index(m *Manager) int {
	for i, o := range c.Managers {
		if o == m {
			return i
		}
	}
	return -1
}

// Propose proposes to whoever leads, until it is taken.
func (c *Cluster) Propose(b state.Batch) uint64 {
	c.t.Helper()
	var index uint64
	c.Eventually("propose", func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		var err error
		index, err = c.Leader().Raft.Propose(ctx, b)
		return err
	})
	return index
}

// Eventually tries until there is no error, and fails the test with the last one when that takes too long.
func (c *Cluster) Eventually(what string, try func() error) {
	c.t.Helper()
	Eventually(c.t, what, try)
}

// Eventually tries until there is no error, and fails the test with the last one when that takes too long.
func Eventually(t testing.TB, what string, try func() error) {
	t.Helper()
	deadline := time.Now().Add(waitFor)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
