package netstack

import (
	"net"
	"net/netip"
	"os"
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
	MTU int
	// Flows are the task's connections to VIPs that outlived an earlier agent.
	// They are put back before the first packet is read.
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
	cfg LinkConfig
	f   *fabric
}

// Close detaches the task: its file is closed and its flows are forgotten. It
// returns when nothing reads or writes the link any more.
func (l *Link) Close() error { return l.f.detach(l) }
