package raft

import "sync"

// gate counts calls under way, so that the end can wait for them.
type gate struct {
	mu     sync.Mutex
	isOpen bool
	n      int
	idle   chan struct{} // set by shut; closed when n is 0
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.isOpen = true
}

// enter tells whether the call may go on; then leave must follow.
func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.isOpen {
		g.n++
	}
	return g.isOpen
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.n--
	if g.n == 0 && g.idle != nil {
		close(g.idle)
	}
}

// shut lets nobody in any more. The channel is closed when the last one has left. Once only.
func (g *gate) shut() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.isOpen = false
	g.idle = make(chan struct{})
	if g.n == 0 {
		close(g.idle)
	}
	return g.idle
}
