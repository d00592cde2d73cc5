// Package mesh moves IP packets between nodes, encrypted: WireGuard (wireguard-go) in this process, over UDP.
//
// A Mesh reads packets from its Device, finds the peer by the destination among the peers' allowed IPs, encrypts and sends; what arrives
// from a peer is given to the Device only when its source is among that peer's allowed IPs, so no node can speak for another. The
// Device is the mesh port of package netstack; any tun.Device will do.
//
// The Mesh owns its conn.Bind (bind.go): it listens on exactly the address it was given, so that several nodes can share a host and a port
// number, moves many datagrams per system call (recvmmsg, sendmmsg, UDP GSO and GRO, each left out by itself where the kernel or the
// network card refuses), and bounds its memory. guard.go bounds what wireguard-go would otherwise queue without end.
//
// What runs: wireguard-go's own goroutines (a reader of the Device, a receiver per socket, encryption and decryption workers per processor, two
// per peer) from Run's start to its end, and one goroutine of ours that notices which peers have no session. All methods may be called at any
// time from any goroutine; peers set before Run are applied by it.
//
// It does not decide who the peers are, does not route between networks, and knows no tasks. Private keys show in no log. The one kind of
// path is direct UDP; a relay will be a second kind behind the same Bind. meshtest has the in-memory twin of the network.
package mesh
