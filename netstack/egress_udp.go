package netstack

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	// udpIdle ends a UDP flow; one to a name server ends sooner, for it is a question and its answer.
	udpIdle    = 60 * time.Second
	udpIdleDNS = 10 * time.Second
)

// handleUDP gets the datagrams that belong to no socket of the stack.
func (e *egress) handleUDP(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	src, dst := idAddrs(id)
	if dst.Port() == 0 || !e.permitted(src.Addr(), dst.Addr(), "udp") {
		return false
	}
	if !e.udpFlows.enter(src.Addr()) {
		e.run.h.metrics.egress.WithLabelValues("udp", "limit").Inc()
		return true
	}
	if !e.udp.HandlePacket(id, pkt) {
		e.udpFlows.leave(src.Addr())
		return false
	}
	return true
}

// forwardUDP opens the flow of a first datagram. It runs in the goroutine of the packet: the socket takes the datagram, the rest follows aside.
func (e *egress) forwardUDP(r *udp.ForwarderRequest) bool {
	src, dst := idAddrs(r.ID())
	wq := new(waiter.Queue)
	ep, err := r.CreateEndpoint(wq)
	if err != nil {
		e.udpFlows.leave(src.Addr())
		return true
	}
	in := newStackPacketConn(wq, ep)
	if !e.run.spawn(func() {
		defer e.udpFlows.leave(src.Addr())
		e.serveUDP(in, src, dst)
	}) {
		e.udpFlows.leave(src.Addr())
		_ = in.Close()
	}
	return true
}

func (e *egress) serveUDP(in *stackPacketConn, src, dst netip.AddrPort) {
	defer in.Close()
	ctx, cancel := context.WithTimeout(e.run.ctx, egressDialTimeout)
	out, err := e.outside.DialContext(ctx, "udp", dst)
	cancel()
	if err != nil {
		e.run.h.metrics.egress.WithLabelValues("udp", "failed").Inc()
		return
	}
	e.run.h.metrics.egress.WithLabelValues("udp", "ok").Inc()
	remove, ok := e.flows.add(src.Addr(), func() { _ = out.Close(); _ = in.Close() })
	if !ok {
		_ = out.Close()
		return
	}
	defer remove()
	idle := udpIdle
	if dst.Port() == dnsPort {
		idle = udpIdleDNS
	}
	relayUDP(in, out, idle)
}

// relayUDP copies datagrams both ways until neither side has sent anything for idle, or either fails. It closes both.
func relayUDP(in *stackPacketConn, out net.Conn, idle time.Duration) {
	var last atomic.Int64 // unix nanoseconds of the last datagram from the inside
	last.Store(time.Now().UnixNano())
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer out.Close()
		for {
			chunk, n, _, err := in.next()
			if err != nil {
				return
			}
			last.Store(time.Now().UnixNano())
			_, err = out.Write((*chunk)[:n])
			chunks.Put(chunk)
			if errors.Is(err, net.ErrClosed) {
				return
			}
		}
	}()
	deadline := time.Now().Add(idle)
	for {
		_ = out.SetReadDeadline(deadline)
		chunk, n, err := readDatagram(out)
		if err == nil {
			deadline = time.Now().Add(idle)
			err = in.send((*chunk)[:n], netip.AddrPort{})
			chunks.Put(chunk)
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if deadline = time.Unix(0, last.Load()).Add(idle); time.Now().Before(deadline) {
				continue
			}
		}
		if err != nil {
			break
		}
	}
	_ = out.Close()
	_ = in.Close()
	<-done
}

// readDatagram waits without holding memory where the connection is the host's.
func readDatagram(c net.Conn) (*[]byte, int, error) {
	u, ok := c.(*net.UDPConn)
	if !ok {
		chunk := chunks.Get().(*[]byte)
		n, err := c.Read(*chunk)
		if err != nil {
			chunks.Put(chunk)
			return nil, 0, err
		}
		return chunk, n, nil
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return nil, 0, err
	}
	var chunk *[]byte
	var n int
	var readErr error
	err = raw.Read(func(fd uintptr) bool {
		chunk = chunks.Get().(*[]byte)
		n, readErr = unix.Read(int(fd), *chunk)
		if errors.Is(readErr, unix.EAGAIN) || errors.Is(readErr, unix.EINTR) {
			chunks.Put(chunk)
			chunk = nil
			return false
		}
		return true
	})
	if err == nil {
		err = readErr
	}
	if err != nil {
		if chunk != nil {
			chunks.Put(chunk)
		}
		return nil, 0, err
	}
	return chunk, n, nil
}
