package state

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestWatch(t *testing.T) {
	s := New()
	mustApply(t, s, create(&Node{ID: "before"}))
	v, w := s.ViewAndWatch()
	defer w.Close()
	if v.Node("before") == nil {
		t.Fatal("the view is behind")
	}
	mustApply(t, s, create(&Node{ID: "a"}))
	_ = apply(t, s, create(&Node{ID: "a"})) // refused: no commit
	mustApply(t, s, update(&Node{ID: "a"}, 2), Op{Action: Delete, Object: &Node{ID: "before"}})
	got, err := w.Next(t.Context())
	if err != nil || len(got) != 2 {
		t.Fatalf("%d commits, %v", len(got), err)
	}
	c := got[0]
	if c.Index != 2 || len(c.Changes) != 1 || c.Changes[0].Old != nil || c.Changes[0].New.Key() != "a" {
		t.Errorf("create: %+v", c)
	}
	c = got[1]
	if c.Index != 4 || len(c.Changes) != 2 || c.Changes[0].Old.Head().Modified != 2 || c.Changes[1].New != nil || c.Changes[1].Old.Key() != "before" {
		t.Errorf("update and delete: %+v", c)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestWatchBlocksUntilACommit(t *testing.T) {
	s := New()
	_, w := s.ViewAndWatch()
	defer w.Close()
	got := make(chan uint64, 1)
	go func() {
		c, err := w.Next(t.Context())
		if err != nil || len(c) == 0 {
			got <- 0
			return
		}
		got <- c[0].Index
	}()
	mustApply(t, s, create(&Node{ID: "a"}))
	if i := <-got; i != 1 {
		t.Errorf("index %d", i)
	}
}

func TestWatchEnds(t *testing.T) {
	ends := map[string]struct {
		end  func(*Store, *Watch)
		want error
	}{
		"closed":   {func(_ *Store, w *Watch) { w.Close(); w.Close() }, context.Canceled},
		"restored": {func(s *Store, _ *Watch) { _ = s.Restore(strings.NewReader(dump(t, New()))) }, ErrLagged},
	}
	for name, tt := range ends {
		t.Run(name, func(t *testing.T) {
			s := New()
			_, w := s.ViewAndWatch()
			done := make(chan error, 1)
			go func() {
				_, err := w.Next(t.Context())
				done <- err
			}()
			tt.end(s, w)
			if err := <-done; !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if len(s.watches) != 0 {
				t.Error("the store still knows the watch")
			}
		})
	}
}

func TestWatchLags(t *testing.T) {
	s := New()
	_, slow := s.ViewAndWatch()
	_, quick := s.ViewAndWatch()
	defer quick.Close()
	const perBatch = 1024
	for i := range watchBound/perBatch + 1 {
		var ops []Op
		for j := range perBatch {
			ops = append(ops, create(&Revision{ServiceID: fmt.Sprint(i), SpecVersion: uint64(j)}))
		}
		mustApply(t, s, ops...)
		if _, err := quick.Next(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := slow.Next(t.Context()); !errors.Is(err, ErrLagged) {
		t.Errorf("slow watch: %v", err)
	}
	if slow.at != nil {
		t.Error("a lagged watch keeps the commits alive")
	}
}

// TestWatchAndViewAgree has readers rebuild the store from a view and its watch while it changes.
func TestWatchAndViewAgree(t *testing.T) {
	s := New()
	const total = 500
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			v, w := s.ViewAndWatch()
			defer w.Close()
			seen := map[string]bool{}
			for _, n := range v.Nodes() {
				seen[n.ID] = true
			}
			for len(seen) < total {
				commits, err := w.Next(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				for _, c := range commits {
					for _, ch := range c.Changes {
						if seen[ch.New.Key()] {
							t.Errorf("%s twice", ch.New.Key())
						}
						seen[ch.New.Key()] = true
					}
				}
			}
		})
	}
	for i := range total {
		mustApply(t, s, create(&Node{ID: fmt.Sprint(i)}))
	}
	wg.Wait()
}

// Follow starts again from a view when its watch ends, and stops with its context.
func TestFollow(t *testing.T) {
	s := New()
	ctx, cancel := context.WithCancel(t.Context())
	starts, changes, done := make(chan int, 8), make(chan uint64, 8), make(chan error, 1)
	go func() {
		done <- s.Follow(ctx, func(v View) { starts <- len(v.Nodes()) }, func(commits []Commit) {
			for _, c := range commits {
				changes <- c.Index
			}
		})
	}()
	if n := <-starts; n != 0 {
		t.Errorf("the first view has %d nodes", n)
	}
	if err := s.Apply(7, Batch{Time: time.Now(), Ops: []Op{{Action: Create, Object: &Node{ID: "n1"}}}}); err != nil {
		t.Fatal(err)
	}
	if i := <-changes; i != 7 {
		t.Errorf("told of index %d", i)
	}
	var snapshot bytes.Buffer
	if err := s.View().Snapshot(&snapshot); err != nil {
		t.Fatal(err)
	}
	if err := s.Restore(&snapshot); err != nil {
		t.Fatal(err)
	}
	if n := <-starts; n != 1 {
		t.Errorf("the view after a restore has %d nodes", n)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("ended with %v", err)
	}
}
