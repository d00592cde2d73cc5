package raft

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	hraft "github.com/hashicorp/raft"

	"github.com/meshswarm/meshswarm/raft/state"
)

// plainSealer marks instead of encrypting, so that tests see what was bound to what.
type plainSealer struct{}

func (plainSealer) Seal(ad, plain []byte) []byte {
	var sum [8]byte
	for i, c := range append(append([]byte{}, ad...), plain...) {
		sum[i%8] = sum[i%8]*31 + c
	}
	return append(sum[:], plain...)
}

func (s plainSealer) Open(ad, sealed []byte) ([]byte, error) {
	if len(sealed) < 8 || !bytes.Equal(s.Seal(ad, sealed[8:]), sealed) {
		return nil, errors.New("not authentic")
	}
	return sealed[8:], nil
}

// deaf is a Stream on which nothing ever comes.
type deaf struct{ closed chan struct{} }

func (d deaf) Accept() (net.Conn, error) { <-d.closed; return nil, net.ErrClosed }
func (d deaf) Close() error {
	select {
	case <-d.closed:
	default:
		close(d.closed)
	}
	return nil
}
func (deaf) Addr() net.Addr                               { return advertised("deaf:1") }
func (deaf) Dial(string, time.Duration) (net.Conn, error) { return nil, net.ErrClosed }

var errDisk = errors.New("no space left on device")

// failing is a log whose writes fail once broken is set.
type failing struct {
	hraft.LogStore
	broken *atomic.Bool
	writes *atomic.Int32
}

func (f failing) StoreLog(l *hraft.Log) error { return f.StoreLogs([]*hraft.Log{l}) }

func (f failing) StoreLogs(l []*hraft.Log) error {
	if f.broken.Load() {
		f.writes.Add(1)
		return errDisk
	}
	return f.LogStore.StoreLogs(l)
}

func newTestRaft(t *testing.T) *Raft {
	t.Helper()
	r, err := New(Config{
		NodeID: "a", Addr: "a:1", Dir: t.TempDir(), Store: state.New(), Stream: deaf{make(chan struct{})}, Sealer: plainSealer{}, Bootstrap: true,
		HeartbeatTimeout: 50 * time.Millisecond, ElectionTimeout: 50 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func nodeBatch(id string) state.Batch {
	return state.Batch{Time: time.Unix(1, 0), Ops: []state.Op{{Action: state.Create, Object: &state.Node{ID: id}}}}
}

func TestFailedLogWriteEndsRun(t *testing.T) {
	r := newTestRaft(t)
	var broken atomic.Bool
	var writes atomic.Int32
	r.faults = func(l hraft.LogStore) hraft.LogStore { return failing{l, &broken, &writes} }
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	<-r.Ready()
	for {
		if _, err := r.Propose(ctx, nodeBatch("n1")); err == nil {
			break
		} else if ctx.Err() != nil {
			t.Fatal(err)
		}
		pause(ctx, 10*time.Millisecond)
	}
	broken.Store(true)
	if _, err := r.Propose(ctx, nodeBatch("n2")); err == nil {
		t.Error("acknowledged what is not on disk")
	}
	if err := <-ended; !errors.Is(err, errDisk) {
		t.Errorf("Run: %v", err)
	}
	if n := writes.Load(); n != 1 {
		t.Errorf("%d writes after the disk failed", n)
	}
	if r.cfg.Store.View().Node("n2") != nil {
		t.Error("applied what is not on disk")
	}
}

// unreadable is a log that gives back something else than was stored.
type unreadable struct{ hraft.LogStore }

func (u unreadable) GetLog(i uint64, l *hraft.Log) error {
	err := u.LogStore.GetLog(i, l)
	l.Term++
	return err
}

func TestDamagedLogEndsRun(t *testing.T) {
	r := newTestRaft(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	first, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- r.Run(first) }()
	<-r.Ready()
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	again := newTestRaft(t)
	again.cfg.Dir = r.cfg.Dir
	again.faults = func(l hraft.LogStore) hraft.LogStore { return unreadable{l} }
	if err := again.Run(ctx); err == nil || !strings.Contains(err.Error(), "not authentic") {
		t.Errorf("Run: %v", err)
	}
}

func TestUnknownEntryEndsRun(t *testing.T) {
	r := newTestRaft(t)
	ended := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	go func() { ended <- r.Run(ctx) }()
	<-r.Ready()
	for !r.IsLeader() {
		pause(ctx, 10*time.Millisecond)
	}
	if err := r.node.Apply([]byte{99}, time.Second).Error(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, state.ErrInvalid) {
		t.Errorf("Run: %v", err)
	}
}

func TestStableStoreFailure(t *testing.T) {
	f := newFuse()
	s := &stableStore{inner: failingStable{}, fuse: f}
	went := make(chan bool, 1)
	go func() {
		defer close(went)
		_ = s.SetUint64([]byte("CurrentTerm"), 2)
		went <- true
	}()
	if <-went {
		t.Error("went on after a vote that is not on disk")
	}
	if !errors.Is(f.Err(), errDisk) {
		t.Errorf("fuse: %v", f.Err())
	}
	if err := (&sealedLog{inner: hraft.NewInmemStore(), sealer: plainSealer{}, fuse: f}).StoreLog(&hraft.Log{Index: 1}); !errors.Is(err, errDisk) {
		t.Errorf("log write after a failure: %v", err)
	}
}

type failingStable struct{ hraft.StableStore }

func (failingStable) SetUint64([]byte, uint64) error { return errDisk }

func TestSealedSnapshots(t *testing.T) {
	for _, size := range []int{0, 1, chunkSize - 1, chunkSize, chunkSize + 1, 3 * chunkSize, 3*chunkSize + 17} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			store, path, id := writeSnapshot(t, size)
			list, err := store.List()
			if err != nil || len(list) != 1 || list[0].Size != int64(size) {
				t.Fatalf("list: %+v, %v", list, err)
			}
			meta, r, err := store.Open(id)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			_ = r.Close()
			if err != nil || len(got) != size || meta.Size != int64(size) || !bytes.Equal(got, content(size)) {
				t.Errorf("read %d bytes, size %d: %v", len(got), meta.Size, err)
			}
			_ = path
		})
	}
}

func content(size int) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(i * 7)
	}
	return b
}

func writeSnapshot(t *testing.T, size int) (*sealedSnapshots, string, string) {
	t.Helper()
	dir := t.TempDir()
	files, err := hraft.NewFileSnapshotStoreWithLogger(dir, 1, newLogger(newTestRaft(t).log))
	if err != nil {
		t.Fatal(err)
	}
	store := newSealedSnapshots(files, plainSealer{})
	_, trans := hraft.NewInmemTransport("a")
	sink, err := store.Create(1, 5, 1, hraft.Configuration{}, 1, trans)
	if err != nil {
		t.Fatal(err)
	}
	data := content(size)
	for len(data) > 0 {
		n := min(len(data), 10_000)
		if _, err := sink.Write(data[:n]); err != nil {
			t.Fatal(err)
		}
		data = data[n:]
	}
	for range 2 { // Close is idempotent
		if err := sink.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return store, filepath.Join(dir, snapshotDir, sink.ID(), "state.bin"), sink.ID()
}

func TestSealedReaderRefuses(t *testing.T) {
	frame := chunkSize + 8
	var sealed []byte
	for n := range uint64(3) {
		sealed = append(sealed, plainSealer{}.Seal(chunkAD("id", n, n == 2), content(chunkSize)[:chunkSize-int(n/2)])...)
	}
	for name, data := range map[string][]byte{
		"empty":            nil,
		"without the last": sealed[:2*frame],
		"cut inside":       sealed[:2*frame+100],
		"first two swap":   append(append(append([]byte{}, sealed[frame:2*frame]...), sealed[:frame]...), sealed[2*frame:]...),
		"one left out":     append(append([]byte{}, sealed[:frame]...), sealed[2*frame:]...),
		"more after it":    append(append([]byte{}, sealed...), 1),
	} {
		r := &sealedReader{id: "id", sealer: plainSealer{}, in: bytes.NewReader(data), frame: make([]byte, frame)}
		if _, err := io.ReadAll(r); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	r := &sealedReader{id: "id", sealer: plainSealer{}, in: bytes.NewReader(sealed), frame: make([]byte, frame)}
	if got, err := io.ReadAll(r); err != nil || len(got) != 3*chunkSize-1 {
		t.Errorf("whole: %d bytes, %v", len(got), err)
	}
}
