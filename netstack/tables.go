package netstack

import (
	"net/netip"
	"slices"
)

// Tables is all that a node knows about where things are. SetTables replaces
// it as a whole; the caller must not change it afterwards.
type Tables struct {
	// Self is the node's own mesh address; zero means not yet known.
	Self netip.Addr
	// MeshSubnet holds the mesh addresses of all nodes.
	MeshSubnet netip.Prefix
	Networks   []Network
	// Ports are the published ports that this node serves.
	Ports []Port
}

// Network is one overlay network. The subnets of all networks are disjoint.
type Network struct {
	ID, Name string
	Subnets  []netip.Prefix
	Gateways []netip.Addr
	// Internal networks have no way to the outside.
	Internal bool
	// Ingress networks isolate their tasks from each other: only the node's
	// stack reaches them.
	Ingress   bool
	Endpoints []Endpoint
	VIPs      []VIP
	// Names maps lower-case names without the dot at the end to addresses,
	// tasks.<service> included.
	Names map[string][]netip.Addr
	PTR   map[netip.Addr]string
}

// Endpoint is the address of one task in a network.
type Endpoint struct {
	Addr netip.Addr
	// Node is the mesh address of the task's node.
	Node netip.Addr
}

// VIP is the virtual address of a service in a network.
type VIP struct {
	Addr     netip.Addr
	Service  string
	Backends []Backend
}

// Backend is a task behind a VIP. A draining one gets no new flows.
type Backend struct {
	Addr     netip.Addr
	Draining bool
}

// Port is a published port.
type Port struct {
	// Protocol is tcp or udp.
	Protocol     string
	Port, Target uint16
	// Host is true for mode=host: only tasks of this node serve it.
	Host     bool
	Service  string
	Backends []PortBackend
}

// PortBackend is a task that serves a published port.
type PortBackend struct {
	// Addr is the task's address.
	Addr netip.Addr
	// Node is the mesh address of its node; zero is this node.
	Node     netip.Addr
	Draining bool
}

// tables is the compiled form of Tables: immutable, read through an atomic
// pointer by every packet.
type tables struct {
	*Tables
	networks  map[string]*network
	endpoints map[netip.Addr]endpoint
	vips      map[netip.Addr]*vip
	gateways  map[netip.Addr]*network
	subnets   []subnet
}

// network is a compiled Network.
type network struct {
	*Network
}

// endpoint is where a task's address lives.
type endpoint struct {
	net  *network
	node netip.Addr
}

// vip is a compiled VIP.
type vip struct {
	*VIP
	net     *network
	serving []Backend // those that take new flows
	members map[netip.Addr]struct{}
}

type subnet struct {
	prefix netip.Prefix
	net    *network
}

// compile never fails: addresses of a second network that clash with an
// earlier one are ignored.
func compile(t *Tables) *tables {
	c := &tables{
		Tables:    t,
		networks:  make(map[string]*network, len(t.Networks)),
		endpoints: make(map[netip.Addr]endpoint),
		vips:      make(map[netip.Addr]*vip),
		gateways:  make(map[netip.Addr]*network),
	}
	for i := range t.Networks {
		n := &network{Network: &t.Networks[i]}
		if _, dup := c.networks[n.ID]; dup {
			continue
		}
		c.networks[n.ID] = n
		c.addNetwork(n)
	}
	slices.SortStableFunc(c.subnets, func(a, b subnet) int { return b.prefix.Bits() - a.prefix.Bits() })
	return c
}

func (c *tables) addNetwork(n *network) {
	for _, p := range n.Subnets {
		c.subnets = append(c.subnets, subnet{prefix: p.Masked(), net: n})
	}
	for _, g := range n.Gateways {
		if _, dup := c.gateways[g]; !dup {
			c.gateways[g] = n
		}
	}
	for _, e := range n.Endpoints {
		if _, dup := c.endpoints[e.Addr]; !dup {
			c.endpoints[e.Addr] = endpoint{net: n, node: e.Node}
		}
	}
	for i := range n.VIPs {
		v := &vip{VIP: &n.VIPs[i], net: n, members: make(map[netip.Addr]struct{}, len(n.VIPs[i].Backends))}
		for _, b := range v.Backends {
			v.members[b.Addr] = struct{}{}
			if !b.Draining {
				v.serving = append(v.serving, b)
			}
		}
		if _, dup := c.vips[v.Addr]; !dup {
			c.vips[v.Addr] = v
		}
	}
}

// networkOf returns the network whose subnet holds a, nil when none does.
func (c *tables) networkOf(a netip.Addr) *network {
	for i := range c.subnets {
		if c.subnets[i].prefix.Contains(a) {
			return c.subnets[i].net
		}
	}
	return nil
}

// inMesh reports whether a is in the subnet of the nodes' mesh addresses.
func (c *tables) inMesh(a netip.Addr) bool {
	return c.MeshSubnet.IsValid() && c.MeshSubnet.Contains(a)
}
