package netstack

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
)

// The protocol between nodes for published ports, on port 2378 of the mesh addresses, inside the mesh only.
//
// TCP: the asking node sends one header and waits for one byte; after peerOK the connection is the client's.
//
//	0        version (1)
//	1        IP protocol (6)
//	2..17    task's address (IPv4 as v4-mapped)   18..19  its port
//	20..35   client's address                     36..37  its port
//
// UDP: every datagram carries a header in front of its payload; version, kind, flow (chosen by the asking node), task, client.
//
//	0        version (1)
//	1        kind: 1 to the task, 2 to the client, 3 the task is not to be had (no payload)
//	2..5     flow
//	6..23    task    24..41  client (as above)
const (
	peerPort    = 2378
	peerVersion = 1

	tcpHeaderSize = 2 + 2*addrPortSize
	udpHeaderSize = 6 + 2*addrPortSize
	addrPortSize  = 18

	peerOK      = 1 // the task has accepted
	peerUnknown = 2 // no task of this node serves a published port at this address
	peerRefused = 3 // the task did not accept
	peerBusy    = 4 // too many attempts at once

	udpToTask   = 1
	udpToClient = 2
	udpFailed   = 3
)

func appendAddrPort(b []byte, ap netip.AddrPort) []byte {
	a := ap.Addr().As16()
	return binary.BigEndian.AppendUint16(append(b, a[:]...), ap.Port())
}

func parseAddrPort(b []byte) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b)).Unmap(), binary.BigEndian.Uint16(b[16:]))
}

// peerRequest asks a node for a connection to one of its tasks on behalf of a client.
type peerRequest struct {
	task, client netip.AddrPort
}

func (r peerRequest) append(b []byte) []byte {
	return appendAddrPort(appendAddrPort(append(b, peerVersion, protoTCP), r.task), r.client)
}

func readPeerRequest(r io.Reader) (peerRequest, error) {
	var b [tcpHeaderSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return peerRequest{}, fmt.Errorf("read request: %w", err)
	}
	if b[0] != peerVersion || b[1] != protoTCP {
		return peerRequest{}, fmt.Errorf("read request: version %d, protocol %d: not spoken here", b[0], b[1])
	}
	return peerRequest{task: parseAddrPort(b[2:]), client: parseAddrPort(b[2+addrPortSize:])}, nil
}

// peerDatagram is the header of a datagram between nodes.
type peerDatagram struct {
	kind         byte
	flow         uint32
	task, client netip.AddrPort
}

func (d peerDatagram) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(append(b, peerVersion, d.kind), d.flow)
	return appendAddrPort(appendAddrPort(b, d.task), d.client)
}

// parsePeerDatagram returns the header and the payload, which shares b's memory.
func parsePeerDatagram(b []byte) (peerDatagram, []byte, bool) {
	if len(b) < udpHeaderSize || b[0] != peerVersion {
		return peerDatagram{}, nil, false
	}
	d := peerDatagram{kind: b[1], flow: binary.BigEndian.Uint32(b[2:]), task: parseAddrPort(b[6:]), client: parseAddrPort(b[6+addrPortSize:])}
	if d.kind < udpToTask || d.kind > udpFailed {
		return peerDatagram{}, nil, false
	}
	return d, b[udpHeaderSize:], true
}
