package raft

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	hraft "github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
)

const (
	dbFile          = "raft.db"
	snapshotDir     = "snapshots" // hashicorp/raft's name for it
	keptSnapshots   = 2
	lockTimeout     = time.Second
	logCacheEntries = 32 // an entry has up to state.MaxBatch bytes
	// maxAppend is the most entries in one message: together with state.MaxBatch it bounds a message, and thus memory.
	maxAppend        = 32
	transportTimeout = 5 * time.Second
)

// session is everything that Run opens and closes.
type session struct {
	db     *raftboltdb.BoltStore
	fuse   *fuse
	stream *stream
	trans  *hraft.NetworkTransport
	node   *hraft.Raft
	notify chan bool
}

// Exists tells whether dir holds a raft state, so that Run will resume it whatever Config.Bootstrap says.
func Exists(dir string) bool {
	path := filepath.Join(dir, dbFile)
	if _, err := os.Stat(path); err != nil {
		return false
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: 100 * time.Millisecond})
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist) // in use, or damaged: there is something
	}
	defer func() { _ = db.Close() }()
	found := false
	_ = db.View(func(tx *bbolt.Tx) error {
		return tx.ForEach(func(_ []byte, b *bbolt.Bucket) error {
			k, _ := b.Cursor().First()
			found = found || k != nil
			return nil
		})
	})
	if found {
		return true
	}
	snaps, _ := os.ReadDir(filepath.Join(dir, snapshotDir))
	return len(snaps) > 0
}

func (r *Raft) open() (*session, error) {
	if err := os.MkdirAll(r.cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make raft directory: %w", err)
	}
	db, err := openDB(filepath.Join(r.cfg.Dir, dbFile))
	if err != nil {
		return nil, err
	}
	s := &session{db: db, fuse: newFuse(), notify: make(chan bool, 16)}
	s.stream = newStream(r.cfg.Stream, r.cfg.Addr, r.log)
	if err := r.start(s); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func openDB(path string) (*raftboltdb.BoltStore, error) {
	db, err := raftboltdb.New(raftboltdb.Options{
		Path:                    path,
		BoltOptions:             &bbolt.Options{Timeout: lockTimeout, FreelistType: bbolt.FreelistMapType},
		MsgpackUseNewTimeFormat: true,
	})
	if errors.Is(err, bbolt.ErrTimeout) {
		return nil, fmt.Errorf("open raft log %s: in use by another process: is this node already up?", path)
	}
	if err != nil {
		return nil, fmt.Errorf("open raft log %s: %w", path, err)
	}
	return db, nil
}

// start builds hashicorp/raft on the open database.
func (r *Raft) start(s *session) error {
	logger := newLogger(r.log)
	var logs hraft.LogStore = s.db
	if r.faults != nil {
		logs = r.faults(logs)
	}
	cache, err := hraft.NewLogCache(logCacheEntries, &sealedLog{inner: logs, sealer: r.cfg.Sealer, fuse: s.fuse})
	if err != nil {
		return fmt.Errorf("make log cache: %w", err)
	}
	files, err := hraft.NewFileSnapshotStoreWithLogger(r.cfg.Dir, keptSnapshots, logger)
	if err != nil {
		return fmt.Errorf("open raft snapshots: %w", err)
	}
	s.trans = hraft.NewNetworkTransportWithConfig(&hraft.NetworkTransportConfig{
		Stream: s.stream, MaxPool: 3, Timeout: transportTimeout, Logger: logger, MsgpackUseNewTimeFormat: true,
	})
	parts := parts{
		conf:      r.hraftConfig(logger, s.notify),
		fsm:       &fsm{store: r.cfg.Store, fuse: s.fuse},
		logs:      cache,
		stable:    &stableStore{inner: s.db, fuse: s.fuse},
		snapshots: newSealedSnapshots(files, r.cfg.Sealer),
		trans:     s.trans,
	}
	if r.cfg.Bootstrap {
		parts.first = &hraft.Server{ID: hraft.ServerID(r.cfg.NodeID), Address: hraft.ServerAddress(r.cfg.Addr)}
	}
	s.node, err = parts.start(s.fuse)
	if err != nil {
		return fmt.Errorf("start raft: %w", err)
	}
	return nil
}

func (r *Raft) hraftConfig(logger *logger, notify chan<- bool) *hraft.Config {
	c := hraft.DefaultConfig()
	c.LocalID = hraft.ServerID(r.cfg.NodeID)
	c.HeartbeatTimeout = r.cfg.HeartbeatTimeout
	c.ElectionTimeout = r.cfg.ElectionTimeout
	c.LeaderLeaseTimeout = r.cfg.HeartbeatTimeout
	c.MaxAppendEntries = maxAppend
	c.SnapshotThreshold = r.cfg.SnapshotThreshold
	c.TrailingLogs = r.cfg.SnapshotThreshold
	c.ShutdownOnRemove = false // the agent decides what a removed manager does
	c.NoLegacyTelemetry = true
	c.Logger = logger
	c.NotifyCh = notify
	return c
}

type parts struct {
	conf      *hraft.Config
	fsm       hraft.FSM
	logs      hraft.LogStore
	stable    hraft.StableStore
	snapshots hraft.SnapshotStore
	trans     *hraft.NetworkTransport
	first     *hraft.Server // not nil: bootstrap with it, if there is no state
}

// start runs in a goroutine of its own because hashicorp/raft panics where it cannot read its log, and because a blown
// fuse ends the goroutine that hits it.
func (p parts) start(f *fuse) (node *hraft.Raft, err error) {
	done := make(chan struct{})
	err = errors.New("storage failed")
	go func() {
		defer close(done)
		defer func() {
			if cause := recover(); cause != nil {
				err = fmt.Errorf("the log is damaged: %v", cause)
			}
		}()
		node, err = p.startHere()
	}()
	<-done
	if f.Err() != nil {
		err = f.Err()
	}
	if err != nil && node != nil {
		err = errors.Join(err, node.Shutdown().Error())
		node = nil
	}
	return node, err
}

func (p parts) startHere() (*hraft.Raft, error) {
	if p.first != nil {
		cfg := hraft.Configuration{Servers: []hraft.Server{*p.first}}
		err := hraft.BootstrapCluster(p.conf, p.logs, p.stable, p.snapshots, p.trans, cfg)
		if err != nil && !errors.Is(err, hraft.ErrCantBootstrap) {
			return nil, fmt.Errorf("bootstrap: %w", err)
		}
	}
	return hraft.NewRaft(p.conf, p.fsm, p.logs, p.stable, p.snapshots, p.trans)
}

// close ends everything. The connections go first: nothing must wait for an answer.
func (s *session) close() error {
	if s.trans != nil {
		_ = s.trans.Close() // closes the stream
	}
	_ = s.stream.Close()
	var err error
	if s.node != nil {
		err = s.node.Shutdown().Error()
	}
	s.stream.wait()
	if dbErr := s.db.Close(); dbErr != nil {
		err = errors.Join(err, fmt.Errorf("close raft log: %w", dbErr))
	}
	return err
}
