package netstack

import (
	"context"
	"maps"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// listenRetry is how often a port that could not be opened is tried again.
	listenRetry = 3 * time.Second
	// The clients of one address, and all, whose backend is still being dialled.
	maxClientHalfOpen  = 1024
	maxPublishHalfOpen = 4096
	// maxPublishConns bounds the connections of all published ports together.
	maxPublishConns = 16384
)

// publisher serves the published ports: it listens on the host for each port that has a serving backend, and joins each client with a task, on
// this node or over the mesh on another.
type publisher struct {
	run      *hostRun
	halfOpen *gate
	conns    *gate // not by client
	avoid    avoidList
	flows    flowSet[clientFlow]
	peer     *peerServer
	udp      udpTable

	state atomic.Pointer[publishState]

	changed chan struct{} // failed has changed

	mu     sync.Mutex // guards ports and failed, and is held while ports are opened, which does not wait
	ports  map[portKey]*pubPort
	failed map[string]string
}

// portKey names a published port.
type portKey struct {
	protocol string
	port     uint16
}

// clientFlow is what a client's connection depends on: that this backend belongs to this port.
type clientFlow struct {
	port portKey
	task netip.Addr
}

// publishState is what the tables say about published ports, for look-ups by flows.
type publishState struct {
	clients map[clientFlow]struct{}
	tasks   map[taskPort]struct{} // served by tasks of this node
}

// taskPort is where a task of this node serves a published port.
type taskPort struct {
	protocol string
	addr     netip.AddrPort
}

func newPublisher(r *hostRun) *publisher {
	p := &publisher{
		run:      r,
		halfOpen: newGate(maxClientHalfOpen, maxPublishHalfOpen),
		conns:    newGate(maxPublishConns, maxPublishConns),
		ports:    make(map[portKey]*pubPort), failed: make(map[string]string),
		changed: make(chan struct{}, 1),
	}
	p.state.Store(&publishState{})
	p.peer = newPeerServer(p)
	return p
}

// serve opens again what could not be opened, and ends idle UDP flows, until ctx ends.
func (p *publisher) serve(ctx context.Context) error {
	tick := time.NewTicker(listenRetry)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.changed:
			p.report()
		case now := <-tick.C:
			p.openAll()
			p.udp.expire(now)
			p.peer.udp.expire(now)
		}
	}
}

// apply makes the listeners what the tables say and cuts the connections to backends that left.
func (p *publisher) apply(t *tables) {
	state := &publishState{clients: make(map[clientFlow]struct{}), tasks: make(map[taskPort]struct{})}
	wanted := make(map[portKey]*portTable)
	for i := range t.Ports {
		port := &t.Ports[i]
		key := portKey{port.Protocol, port.Port}
		if _, dup := wanted[key]; dup || port.Port == 0 || (port.Protocol != "tcp" && port.Protocol != "udp") {
			continue
		}
		table := newPortTable(port, t.Self)
		wanted[key] = table
		for _, b := range table.all {
			state.clients[clientFlow{key, b.Addr}] = struct{}{}
			if !b.Node.IsValid() {
				state.tasks[taskPort{port.Protocol, netip.AddrPortFrom(b.Addr, port.Target)}] = struct{}{}
			}
		}
	}
	p.state.Store(state)
	p.peer.apply(t.Self)
	p.setPorts(wanted)
	p.flows.retain(state.hasClient)
	p.udp.retain(state.hasClient)
	p.peer.retain(state.hasTask)
}

func (s *publishState) hasClient(f clientFlow) bool {
	_, ok := s.clients[f]
	return ok
}

func (s *publishState) hasTask(t taskPort) bool {
	_, ok := s.tasks[t]
	return ok
}

// setPorts closes the listeners that are not wanted, changes the backends of those that stay, and opens new ones. A port without a serving
// backend is not wanted: its clients are refused by the host's kernel, as if nobody had ever listened. Only a UDP port stays while a backend
// drains, for its flows live by its socket.
func (p *publisher) setPorts(wanted map[portKey]*portTable) {
	p.mu.Lock()
	for key, port := range p.ports {
		table := wanted[key]
		switch {
		case table == nil, len(table.all) == 0, len(table.serving) == 0 && key.protocol == "tcp":
			delete(p.ports, key)
			port.table.Store(&portTable{}) // for those who are still dialling
			port.close()
		default:
			port.table.Store(table.succeeds(port.table.Load()))
		}
	}
	for key, table := range wanted {
		if len(table.serving) == 0 {
			continue
		}
		if p.ports[key] == nil {
			p.ports[key] = newPubPort(p, key, table)
		}
	}
	p.mu.Unlock()
	p.openAll()
}

// report tells of the ports that could not be opened.
func (p *publisher) report() {
	p.mu.Lock()
	failed := maps.Clone(p.failed)
	p.mu.Unlock()
	for key, why := range failed {
		p.run.h.log.Warn("published port cannot be opened", "port", key, "err", why)
	}
	if p.run.h.cfg.PortsChanged != nil {
		p.run.h.cfg.PortsChanged(failed)
	}
}

// openAll opens the ports that are not open; serve reports those that cannot be, when that changed.
func (p *publisher) openAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	failed := make(map[string]string)
	for key, port := range p.ports {
		if port.open {
			continue
		}
		if err := port.listen(); err != nil {
			failed[key.String()] = err.Error()
			continue
		}
		port.open = true
	}
	if maps.Equal(failed, p.failed) {
		return
	}
	p.failed = failed
	select {
	case p.changed <- struct{}{}:
	default: // serve will see this change with the last one
	}
}

// close ends all listeners and connections.
func (p *publisher) close() {
	p.mu.Lock()
	for key, port := range p.ports {
		delete(p.ports, key)
		port.close()
	}
	p.mu.Unlock()
	p.peer.close()
	p.flows.close()
	p.udp.close()
}
