package netstack

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// halfOpen is the gate in front of the TCP forwarder: which connection attempts are under way. A repeated SYN is not a second attempt.
type halfOpen struct {
	gate *gate

	mu  sync.Mutex
	ids map[stack.TransportEndpointID]struct{}
}

func newHalfOpen(perTask, total int) *halfOpen {
	return &halfOpen{gate: newGate(perTask, total), ids: make(map[stack.TransportEndpointID]struct{})}
}

// enter reports whether id is a new attempt that is admitted (then leave must follow), and whether it was refused for want of room.
func (h *halfOpen) enter(id stack.TransportEndpointID) (admitted, full bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, dup := h.ids[id]; dup {
		return false, false
	}
	if !h.gate.enter(netipAddr(id.RemoteAddress)) {
		return false, true
	}
	h.ids[id] = struct{}{}
	return true, false
}

func (h *halfOpen) leave(id stack.TransportEndpointID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.ids[id]; ok {
		delete(h.ids, id)
		h.gate.leave(netipAddr(id.RemoteAddress))
	}
}

// handleTCP gets the segments that belong to no connection of the stack.
func (e *egress) handleTCP(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	flags := header.TCP(pkt.TransportHeader().Slice()).Flags()
	if flags&(header.TCPFlagSyn|header.TCPFlagAck|header.TCPFlagRst) != header.TCPFlagSyn {
		return false
	}
	src, dst := idAddrs(id)
	if !e.permitted(src.Addr(), dst.Addr(), "tcp") {
		return false
	}
	admitted, full := e.halfOpen.enter(id)
	if full {
		// Dropped, not refused: the client's kernel tries again in a second.
		e.run.h.metrics.egress.WithLabelValues("tcp", "limit").Inc()
	}
	if !admitted {
		return true
	}
	if !e.tcp.HandlePacket(id, pkt) {
		e.halfOpen.leave(id)
		return false
	}
	return true
}

// forwardTCP has a goroutine of its own. The outside is dialled before the task's handshake completes, so that a task sees a refused connection
// as one.
func (e *egress) forwardTCP(r *tcp.ForwarderRequest) {
	id := r.ID()
	if !e.run.enter() {
		r.Complete(true)
		e.halfOpen.leave(id)
		return
	}
	defer e.run.leave()
	src, dst := idAddrs(id)
	result := e.run.h.metrics.egress
	if !e.conns.enter(src.Addr()) {
		result.WithLabelValues("tcp", "limit").Inc()
		r.Complete(true)
		e.halfOpen.leave(id)
		return
	}
	defer e.conns.leave(src.Addr())

	ctx, cancel := context.WithTimeout(e.run.ctx, egressDialTimeout)
	c, err := e.outside.DialContext(ctx, "tcp", dst)
	cancel()
	if err != nil {
		result.WithLabelValues("tcp", "failed").Inc()
		// A silent destination stays silent: the client's next SYN is a new attempt.
		r.Complete(!errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, syscall.ETIMEDOUT))
		e.halfOpen.leave(id)
		return
	}
	out := duplexOf(c)
	wq := new(waiter.Queue)
	ep, terr := r.CreateEndpoint(wq)
	r.Complete(terr != nil)
	e.halfOpen.leave(id)
	if terr != nil {
		result.WithLabelValues("tcp", "failed").Inc()
		out.abort()
		return
	}
	setKeepalive(ep)
	result.WithLabelValues("tcp", "ok").Inc()
	e.splice(src.Addr(), newStackConn(wq, ep), out)
}

func (e *egress) splice(task netip.Addr, in, out duplex) {
	remove, ok := e.flows.add(task, func() { in.abort(); out.abort() })
	if !ok {
		in.abort()
		out.abort()
		return
	}
	defer remove()
	gauge := e.run.h.metrics.conns.WithLabelValues("egress")
	gauge.Inc()
	defer gauge.Dec()
	splice(in, out)
}
