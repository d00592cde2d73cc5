package rafttest

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/meshswarm/meshswarm/raft/state"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestProposer(t *testing.T) {
	s := state.New()
	p := NewProposer(s)
	b := state.Batch{Time: time.Unix(1, 0), Ops: []state.Op{{Action: state.Create, Object: &state.Node{ID: "n"}}}}
	if i, err := p.Propose(t.Context(), b); err != nil || i != 1 || s.View().Node("n") == nil {
		t.Fatalf("index %d, %v", i, err)
	}
	if i, err := p.Propose(t.Context(), b); !errors.Is(err, state.ErrExists) || i != 2 {
		t.Errorf("index %d, %v", i, err)
	}
	broken := errors.New("broken")
	p.Fail(broken)
	if _, err := p.Propose(t.Context(), b); !errors.Is(err, broken) || s.Index() != 2 {
		t.Errorf("Fail: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Propose(ctx, b); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestNetwork(t *testing.T) {
	n := NewNetwork()
	a, b := n.Listen("a"), n.Listen("b")
	defer func() { _, _ = a.Close(), b.Close() }()
	accepted := make(chan io.ReadWriteCloser, 1)
	go func() {
		if c, err := b.Accept(); err == nil {
			accepted <- c
		}
	}()
	near, err := a.Dial("b", time.Second)
	if err != nil {
		t.Fatal(err)
	}
	far := <-accepted
	defer func() { _, _ = near.Close(), far.Close() }()
	n.Cut("a", "b")
	if _, err := near.Write([]byte("late")); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Dial("b", 20*time.Millisecond); !errors.Is(err, errTimeout) {
		t.Errorf("dial over a cut link: %v", err)
	}
	n.Heal("a", "b")
	buf := make([]byte, 4)
	if _, err := io.ReadFull(far, buf); err != nil || string(buf) != "late" {
		t.Errorf("after healing: %q, %v", buf, err)
	}
	if _, err := a.Dial("nobody", time.Second); err == nil {
		t.Error("dialled nobody")
	}
}
