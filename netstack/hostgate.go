package netstack

import (
	"net/netip"
	"sync"
)

// gate bounds how many things of one kind are under way, in all and for each client, so that one client cannot take the room of the others.
// Safe for concurrent use.
type gate struct {
	perClient, total int

	mu      sync.Mutex
	clients map[netip.Addr]int
	inside  int
}

func newGate(perClient, total int) *gate {
	return &gate{perClient: perClient, total: total, clients: make(map[netip.Addr]int)}
}

// enter reports whether the client may do one more; if so, leave must follow.
func (g *gate) enter(client netip.Addr) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.inside >= g.total || g.clients[client] >= g.perClient {
		return false
	}
	g.inside++
	g.clients[client]++
	return true
}

func (g *gate) leave(client netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	if g.clients[client]--; g.clients[client] <= 0 {
		delete(g.clients, client)
	}
}

func (g *gate) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.inside
}
