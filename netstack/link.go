package netstack

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"syscall"
	"time"
)

// Kind is what the file of a link is.
type Kind int

const (
	// TUN is a TUN device with IFF_NO_PI and IFF_VNET_HDR (ten byte header):
	// frames are a virtio-net header and an IP packet.
	TUN Kind = iota + 1
	// Packet is an AF_PACKET SOCK_RAW socket with PACKET_VNET_HDR, bound to
	// one end of a veth pair: frames carry an Ethernet header as well.
	Packet
)

// LinkConfig describes the link of one task in one network.
type LinkConfig struct {
	TaskID    string
	NetworkID string
	// Addrs are the task's addresses in the network: the only sources that it may use.
	Addrs []netip.Addr
	Kind  Kind
	// File is the device. The link owns it from Attach on, also when Attach fails.
	File *os.File
	// MAC is the hardware address of the task's end (Packet only).
	MAC net.HardwareAddr
	// MTU of the task's device, for information: it must not be larger than the Netstack's own.
	MTU int
	// Flows are the task's connections to VIPs that outlived an earlier agent.
	// They are put back before the first packet is read, or as soon as
	// SetTables brings the network.
	Flows []FlowKey
}

// FlowKey names a connection of a task to a VIP.
type FlowKey struct {
	// Protocol is tcp or udp.
	Protocol string
	Client   netip.AddrPort
	VIP      netip.AddrPort
}

// A Link connects one task to one network.
type Link struct {
	cfg   LinkConfig
	f     *fabric
	dev   *device
	flows atomic.Int64
	quiet quietWatch
	done  chan struct{} // closed when the reader has ended

	// What the reader knows of its network, valid for one generation of tables.
	tabs *tables
	net  *network
}

// Close detaches the task: its file is closed and its flows are forgotten. It
// returns when nothing reads the link any more. A second call does nothing.
func (l *Link) Close() error { return l.f.detach(l) }

func (l *Link) owns(a netip.Addr) bool { return slices.Contains(l.cfg.Addrs, a) }

// network returns the link's network in t, nil when t does not know it. Only the reader calls it.
func (l *Link) network(t *tables) *network {
	if l.tabs != t {
		l.tabs, l.net = t, t.networks[l.cfg.NetworkID]
	}
	return l.net
}

// readPause is how long the reader waits after an error of the device that may pass.
const readPause = 100 * time.Millisecond

// run reads the link until ctx ends or its file is closed or dead.
func (l *Link) run(ctx context.Context) {
	defer close(l.done)
	var p packet
	defer p.release()
	for {
		err := l.dev.readPacket(&p)
		switch {
		case err == nil:
			l.f.fromLink(l, &p)
		case errors.Is(err, errSkip):
		case errors.Is(err, errNoBuffer):
			l.f.drop(dropNoBuffer)
		case passing(err):
			// An AF_PACKET socket says ENETDOWN once when its interface goes
			// down and works again when that comes up.
			select {
			case <-ctx.Done():
				return
			case <-time.After(readPause):
			}
		default:
			if !errors.Is(err, os.ErrClosed) {
				l.f.cfg.Logger.Debug("link ended", "component", "netstack", "task", l.cfg.TaskID, "network", l.cfg.NetworkID, "err", err)
			}
			return
		}
	}
}

func passing(err error) bool {
	return errors.Is(err, syscall.ENETDOWN) || errors.Is(err, syscall.ENOBUFS) || errors.Is(err, syscall.ENOMEM)
}

// write sends a packet to the task.
func (l *Link) write(p *packet) {
	l.quiet.saw(p.ip)
	if err := l.dev.write(p); err != nil {
		l.f.drop(dropWrite)
		return
	}
	l.f.metrics.toLinks.Add(uint64(len(p.ip)))
}

// writeParts sends a merged packet of n bytes to the task.
func (l *Link) writeParts(hdr vnetHdr, parts [][]byte, n int) {
	l.quiet.saw(parts[0])
	if err := l.dev.writeParts(hdr, parts); err != nil {
		l.f.drop(dropWrite)
		return
	}
	l.f.metrics.toLinks.Add(uint64(n))
}
