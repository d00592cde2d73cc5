package rpc

import (
	"net"
	"sync"
)

// Limits bound what the control port takes from others. Zero fields mean the defaults.
type Limits struct {
	Conns     int // open connections; 4096
	Anonymous int // connections that have shown no certificate (yet); 512
	PerSource int // of those, per source address; 64
}

func (l Limits) withDefaults() Limits {
	for _, f := range []struct {
		field *int
		value int
	}{{&l.Conns, 4096}, {&l.Anonymous, 512}, {&l.PerSource, 64}} {
		if *f.field == 0 {
			*f.field = f.value
		}
	}
	return l
}

// gate counts connections and knows whose they are.
type gate struct {
	limits   Limits
	handlers sync.WaitGroup // running handlers; Add under mu while not closed

	mu        sync.Mutex
	closed    bool
	conns     map[*conn]struct{}
	anonymous int
	sources   map[string]int            // anonymous connections by source address
	nodes     map[string]map[*conn]bool // connections by node ID
}

func newGate(l Limits) *gate {
	return &gate{
		limits: l.withDefaults(), conns: map[*conn]struct{}{}, sources: map[string]int{}, nodes: map[string]map[*conn]bool{},
	}
}

// conn is a raw connection of the control port. Closing it is the one way to end whatever runs on it.
type conn struct {
	net.Conn
	gate   *gate
	source string

	// Guarded by gate.mu.
	node      string // "" while anonymous
	gone      bool
	afterward []func()
}

// admit takes a connection in, or returns nil and the reason of the refusal.
func (g *gate) admit(raw net.Conn) (*conn, string) {
	source := hostOf(raw.RemoteAddr().String())
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.closed:
		return nil, "closed"
	case len(g.conns) >= g.limits.Conns:
		return nil, "connections"
	case g.anonymous >= g.limits.Anonymous:
		return nil, "anonymous"
	case g.sources[source] >= g.limits.PerSource:
		return nil, "source"
	}
	c := &conn{Conn: raw, gate: g, source: source}
	g.conns[c] = struct{}{}
	g.anonymous++
	g.sources[source]++
	return c, ""
}

// identify moves a connection from the anonymous to those of a node. It returns false when the connection is closed.
func (g *gate) identify(c *conn, node string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.gone {
		return false
	}
	g.dropAnonymousLocked(c)
	c.node = node
	if g.nodes[node] == nil {
		g.nodes[node] = map[*conn]bool{}
	}
	g.nodes[node][c] = true
	return true
}

func (g *gate) dropAnonymousLocked(c *conn) {
	g.anonymous--
	if g.sources[c.source]--; g.sources[c.source] == 0 {
		delete(g.sources, c.source)
	}
}

// onClose registers fn to be called when c is closed; at once if it already is.
func (c *conn) onClose(fn func()) {
	c.gate.mu.Lock()
	gone := c.gone
	if !gone {
		c.afterward = append(c.afterward, fn)
	}
	c.gate.mu.Unlock()
	if gone {
		fn()
	}
}

// Close implements net.Conn.
func (c *conn) Close() error {
	for _, fn := range c.gate.forget(c) {
		fn()
	}
	return c.Conn.Close()
}

func (g *gate) forget(c *conn) []func() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.gone {
		return nil
	}
	c.gone = true
	delete(g.conns, c)
	if c.node == "" {
		g.dropAnonymousLocked(c)
	} else if delete(g.nodes[c.node], c); len(g.nodes[c.node]) == 0 {
		delete(g.nodes, c.node)
	}
	return c.afterward
}

// of lists a node's connections, or all of them for "*".
func (g *gate) of(node string) []*conn {
	g.mu.Lock()
	defer g.mu.Unlock()
	var list []*conn
	for c := range g.conns {
		if node == "*" || c.node == node {
			list = append(list, c)
		}
	}
	return list
}

// shut closes all connections and admits no more.
func (g *gate) shut() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	for _, c := range g.of("*") {
		_ = c.Close()
	}
}

// open is the reverse of shut, for a Server that runs again.
func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = false
}

// begin counts a handler in, which calls handlers.Done at its end. It returns false when the gate is shut.
func (g *gate) begin() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.handlers.Add(1)
	}
	return !g.closed
}

func (g *gate) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.conns)
}

func hostOf(addr string) string {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	return host
}
