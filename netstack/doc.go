// Package netstack is a node's data plane: links, fabric, gVisor stack, service DNS, published ports and egress.
//
// A link connects one task to one network: a TUN device, or an AF_PACKET socket on a veth, that the task's sandbox made. The fabric moves
// IP packets between three kinds of port: the links, the mesh (a tun.Device that package mesh reads and writes) and the gVisor stack. It
// checks that a link speaks with its own addresses only, keeps networks apart, and translates the flows of tasks to VIPs. The stack is used
// where a connection must end in the node: published ports, egress, the gateways, the node's own mesh address. It is not a router.
//
// Packets are super-packets: up to 64 KiB with a virtio-net header in front, as the kernel hands them to a TUN with offloads. Inside a node
// they are never split. The mesh port splits them into the buffers of the cipher and merges what arrives before one write to the link.
//
// What runs: one goroutine per link reads it and carries each packet to its destination, up to and including the write to another link.
// WireGuard's goroutines call Read (one) and Write (one per peer) of the mesh port. One goroutine ages the flows. The stack has its own.
// All of them read the tables through one atomic pointer; SetTables replaces them as a whole.
//
// The package imports nothing of this project. It does not make devices, does not encrypt, and knows no services or tasks beyond the
// tables it is given. netstacktest has the in-memory twin of a link's device.
//
// Read on: DESIGN.md, then fabric.go (the way of a packet), flow.go (VIPs), gso.go and gro.go (super-packets), stack.go.
package netstack
