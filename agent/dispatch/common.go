package dispatch

import (
	"context"
	"slices"
	"sync"
)

// common is what a node tells of the store's indexes that it has taken in, and hears of those that all nodes have.
type common struct {
	wake chan struct{} // there may be something to tell the leader

	mu      sync.Mutex
	applied uint64 // in force here
	told    uint64 // what the leader knows of applied in this session
	known   uint64 // in force everywhere
	changed chan struct{}
	// waiting counts who waits for an index; asked are those that the leader was asked for in this session.
	waiting map[uint64]int
	asked   map[uint64]bool
}

func newCommon() *common {
	return &common{wake: make(chan struct{}, 1), changed: make(chan struct{}), waiting: map[uint64]int{}, asked: map[uint64]bool{}}
}

// Known blocks until every node that is not down has the store up to index in force, as the leader says, or ctx ends; then
// it returns ctx's cause. Without a session it waits for one.
func (c *Client) Known(ctx context.Context, index uint64) error {
	k := c.common
	k.enter(index)
	defer k.leave(index)
	for {
		known, changed := k.reached()
		if known >= index {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (k *common) enter(index uint64) {
	k.mu.Lock()
	k.waiting[index]++
	due := index > k.known && !k.asked[index]
	k.mu.Unlock()
	if due {
		k.poke()
	}
}

func (k *common) leave(index uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.waiting[index]--; k.waiting[index] == 0 {
		delete(k.waiting, index)
		delete(k.asked, index)
	}
}

func (k *common) poke() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// apply notes what is in force here.
func (k *common) apply(index uint64) {
	k.mu.Lock()
	k.applied = index
	k.mu.Unlock()
	k.poke()
}

// reached is what all nodes have, and what is closed when that grows.
func (k *common) reached() (uint64, <-chan struct{}) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.known, k.changed
}

// reach notes what all nodes have.
func (k *common) reach(index uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if index > k.known {
		k.known = index
		close(k.changed)
		k.changed = make(chan struct{})
	}
}

// take gives what the leader has not been told in this session.
func (k *common) take() (applied uint64, asks []uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.applied != k.told {
		applied, k.told = k.applied, k.applied
	}
	for index := range k.waiting {
		if index > k.known && !k.asked[index] {
			k.asked[index] = true
			asks = append(asks, index)
		}
	}
	slices.Sort(asks)
	return applied, asks
}

// reset is for a new session: the leader has been told nothing.
func (k *common) reset() {
	k.mu.Lock()
	k.told = 0
	clear(k.asked)
	k.mu.Unlock()
	k.poke()
}
