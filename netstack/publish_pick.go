package netstack

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// avoidFor is how long a backend or a node that failed is the last choice: longer than the leader needs to see that a node is down, so that few
// clients wait for a dead one.
const avoidFor = 5 * time.Second

// portTable are the backends of a published port; immutable. A backend on this node has no Node.
type portTable struct {
	target  uint16
	service string
	all     []PortBackend
	serving []PortBackend // those that take new clients
	since   time.Time     // when they became these
}

// succeeds keeps what is older than the table itself.
func (t *portTable) succeeds(old *portTable) *portTable {
	if slices.Equal(t.serving, old.serving) {
		t.since = old.since
	}
	return t
}

func newPortTable(port *Port, self netip.Addr) *portTable {
	t := &portTable{target: port.Target, service: port.Service, since: time.Now()}
	for _, b := range port.Backends {
		if b.Node == self {
			b.Node = netip.Addr{}
		}
		if port.Host && b.Node.IsValid() {
			continue
		}
		t.all = append(t.all, b)
		if !b.Draining {
			t.serving = append(t.serving, b)
		}
	}
	return t
}

// picker orders the backends for each new client: round robin from a random start, those that failed lately last.
type picker struct {
	next atomic.Uint32
}

func (p *picker) init() { p.next.Store(rand.Uint32()) }

func (p *picker) order(serving []PortBackend, avoid *avoidList) []PortBackend {
	n := len(serving)
	if n == 0 {
		return nil
	}
	start := int(p.next.Add(1)) % n
	order := make([]PortBackend, 0, n)
	var last []PortBackend
	for i := range n {
		b := serving[(start+i)%n]
		if avoid.has(b) {
			last = append(last, b)
			continue
		}
		order = append(order, b)
	}
	return append(order, last...)
}

// avoidList are the addresses of backends and nodes that failed lately. Safe for concurrent use.
type avoidList struct {
	size atomic.Int32 // so that the usual case takes no lock

	mu    sync.Mutex
	until map[netip.Addr]time.Time
}

func (l *avoidList) add(a netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	for k, t := range l.until {
		if now.After(t) {
			delete(l.until, k)
		}
	}
	if l.until == nil {
		l.until = make(map[netip.Addr]time.Time)
	}
	l.until[a] = now.Add(avoidFor)
	l.size.Store(int32(len(l.until)))
}

func (l *avoidList) has(b PortBackend) bool {
	if l.size.Load() == 0 {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	return now.Before(l.until[b.Addr]) || b.Node.IsValid() && now.Before(l.until[b.Node])
}

// sourceFor is the address that a task sees as its client: the client's own where the task's reply to it comes back here. That is not so for
// addresses of the host itself (loopback, link-local), of another family, or that an overlay network also uses: there the gateway of the task's network
// stands for the client.
func sourceFor(t *tables, client netip.AddrPort, task netip.Addr) netip.AddrPort {
	a := client.Addr().Unmap()
	if a.IsValid() && a.Is4() == task.Is4() && isOutside(t, a) {
		return netip.AddrPortFrom(a, client.Port())
	}
	return netip.AddrPortFrom(gatewayFor(t, task), 0)
}
