package netstack

import (
	"context"
	"encoding/binary"
	"net/netip"
	"sync/atomic"
	"time"
)

const (
	// quietFor is how long no packet may have come: longer than a packet that was sent by older tables is on its way.
	quietFor = 250 * time.Millisecond
	// firstEphemeralPort is where ports begin that nobody serves (Linux: ip_local_port_range): what comes there answers the task.
	firstEphemeralPort = 32768
)

// quietWatch notes what comes to a task, while somebody wants to know.
type quietWatch struct {
	watchers atomic.Int32
	tcp, udp atomic.Int64 // when the last packet came, in nanoseconds since watchBase
}

// watchBase makes times that no change of the clock moves.
var watchBase = time.Now()

// saw notes a packet for the task; ip starts with its headers.
func (q *quietWatch) saw(ip []byte) {
	if q.watchers.Load() != 0 {
		q.note(ip)
	}
}

func (q *quietWatch) note(ip []byte) {
	var proto uint8
	var at int
	switch {
	case len(ip) >= ipv4Len && ip[0]>>4 == 4 && binary.BigEndian.Uint16(ip[6:])&0x1fff == 0:
		proto, at = ip[9], int(ip[0]&15)*4
	case len(ip) >= ipv6Len && ip[0]>>4 == 6:
		proto, at = ip[6], ipv6Len
	}
	if at == 0 || len(ip) < at+4 || binary.BigEndian.Uint16(ip[at+2:]) >= firstEphemeralPort {
		return
	}
	switch proto {
	case protoTCP:
		q.tcp.Store(int64(time.Since(watchBase)))
	case protoUDP:
		q.udp.Store(int64(time.Since(watchBase)))
	}
}

// last is when the last packet of the protocols came.
func (q *quietWatch) last(tcp, udp bool) time.Duration {
	var at int64
	if tcp {
		at = q.tcp.Load()
	}
	if udp {
		at = max(at, q.udp.Load())
	}
	return time.Duration(at)
}

// Quiet returns when for a quarter of a second, from the call on, no packet of the protocols came to tasks of this node with these
// addresses, by VIP, directly or by a published port. Packets to ephemeral ports (from 32768) answer the task's own questions and do not
// count. Packets are looked at only while somebody waits here. The error is the cause of ctx's end.
func (n *Netstack) Quiet(ctx context.Context, addrs []netip.Addr, tcp, udp bool) error {
	var links []*Link
	for _, a := range addrs {
		if l := n.fabric.link(a); l != nil {
			l.quiet.watchers.Add(1)
			defer l.quiet.watchers.Add(-1)
			links = append(links, l)
		}
	}
	last := time.Since(watchBase)
	for {
		for _, l := range links {
			last = max(last, l.quiet.last(tcp, udp))
		}
		wait := quietFor - (time.Since(watchBase) - last)
		if wait <= 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(wait):
		}
	}
}
