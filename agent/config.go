package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/docker/docker/api/types/swarm"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/meshswarm/meshswarm/agent/sandbox"
)

// Defaults of Config.
const (
	DefaultControlPort  = 2377
	DefaultDataPathPort = 4789
	// DefaultMTU is what a packet inside the mesh may measure on an underlay of 1500 bytes: WireGuard over IPv6 takes 80.
	DefaultMTU = 1420
)

// Config is what a node needs to know before it starts. The zero value of every field but DataDir and Socket has a default:
// for a node that was here before, what its last start said.
type Config struct {
	// DataDir holds everything that must survive a restart; Socket is where the local API listens.
	DataDir, Socket string
	// ListenAddr is ip:port of the control port (managers); the mesh listens on the same ip. Default 0.0.0.0:2377.
	ListenAddr string
	// AdvertiseAddr is the ip[:port] others reach this node at. Default: ListenAddr's ip, or the address of the default route.
	AdvertiseAddr string
	// DataPathPort is the UDP port of the mesh.
	DataPathPort uint16
	// PublishAddr is the ip that published ports listen on; empty = all.
	PublishAddr string
	// DockerHost is the engine (unix:///…, tcp://…); empty = DOCKER_HOST or the engine's usual socket.
	DockerHost string
	// Hostname is the node's name in `node ls`; default the machine's.
	Hostname string
	// Labels are engine labels of this node (engine.labels.* in constraints).
	Labels map[string]string
	// GenericResources are what this node has beside CPUs and memory, counted or by name, for the scheduler to give to tasks.
	// One kind is either counted (once) or named.
	GenericResources []swarm.GenericResource
	// Join is host:port of a manager; empty creates a swarm. Token is its join token. Both only matter the first time.
	Join, Token string
	// DefaultAddrPool are the CIDRs that overlay subnets are carved from; only matters when the swarm is created.
	DefaultAddrPool []string

	// TaskDevice is the kind of network device that tasks get: "tun", "veth", or "" for the one that works here.
	TaskDevice string
	// Version is this build's.
	Version string

	Logger   *slog.Logger
	Registry prometheus.Registerer
	// Ready is called once when the node serves its API and has its first assignments.
	Ready func(Info)
}

// Info is what a person is told when the node is up.
type Info struct {
	NodeID, SwarmID       string
	Manager               bool
	Socket, AdvertiseAddr string
	// Created: this start made the swarm. Resumed: the node was a member before.
	Created, Resumed bool
	// Problem is why the node runs and is of no use: it was removed from the swarm. Empty when all is well.
	Problem string
}

// settings is a Config with its defaults filled and its addresses parsed.
type settings struct {
	Config
	listen    netip.AddrPort // control port
	advertise netip.AddrPort // control port as others see it
	meshBind  netip.AddrPort // UDP
	meshAt    netip.AddrPort // UDP as others see it
	publish   netip.Addr
	kind      sandbox.Kind
	pools     []netip.Prefix
}

// settle checks a Config and fills in what it leaves out.
func settle(c Config) (settings, error) {
	s := settings{Config: c}
	if c.DataDir == "" || c.Socket == "" {
		return s, errors.New("a node needs a data directory and a socket path")
	}
	if s.Logger == nil {
		s.Logger = slog.New(slog.DiscardHandler)
	}
	if s.Hostname == "" {
		name, err := os.Hostname()
		if err != nil {
			return s, fmt.Errorf("find this machine's name: %w (give --hostname)", err)
		}
		s.Hostname = name
	}
	if s.DataPathPort == 0 {
		s.DataPathPort = DefaultDataPathPort
	}
	var err error
	if s.listen, err = addrPort(c.ListenAddr, DefaultControlPort); err != nil {
		return s, fmt.Errorf("--listen-addr %s: %w", c.ListenAddr, err)
	}
	if err := s.advertiseAt(); err != nil {
		return s, err
	}
	s.meshBind = netip.AddrPortFrom(s.listen.Addr(), s.DataPathPort)
	s.meshAt = netip.AddrPortFrom(s.advertise.Addr(), s.DataPathPort)
	if c.PublishAddr != "" {
		if s.publish, err = netip.ParseAddr(c.PublishAddr); err != nil {
			return s, fmt.Errorf("--publish-addr %s: not an IP address", c.PublishAddr)
		}
	}
	switch c.TaskDevice {
	case "":
	case "tun":
		s.kind = sandbox.KindTUN
	case "veth":
		s.kind = sandbox.KindPacket
	default:
		return s, fmt.Errorf("--task-device %s: write tun or veth, or leave it out for what works here", c.TaskDevice)
	}
	if err := checkResources(c.GenericResources); err != nil {
		return s, err
	}
	if s.pools, err = parsePools(c.DefaultAddrPool); err != nil {
		return s, err
	}
	if (c.Join == "") != (c.Token == "") {
		return s, errors.New("--join and --token go together: a manager prints both with `meshswarm join-token worker`")
	}
	return s, nil
}

// advertiseAt decides what address others are told.
func (s *settings) advertiseAt() error {
	if s.AdvertiseAddr != "" {
		a, err := addrPort(s.AdvertiseAddr, s.listen.Port())
		if err != nil {
			return fmt.Errorf("--advertise-addr %s: %w", s.AdvertiseAddr, err)
		}
		if a.Addr().IsUnspecified() {
			return fmt.Errorf("--advertise-addr %s: other nodes cannot reach an unspecified address: give one of this machine's", s.AdvertiseAddr)
		}
		s.advertise = a
		return nil
	}
	ip := s.listen.Addr()
	if ip.IsUnspecified() {
		var err error
		if ip, err = ownAddr(); err != nil {
			return err
		}
	}
	s.advertise = netip.AddrPortFrom(ip, s.listen.Port())
	return nil
}

// addrPort parses ip, ip:port or :port; an empty string is every address.
func addrPort(v string, port uint16) (netip.AddrPort, error) {
	if v == "" {
		return netip.AddrPortFrom(netip.IPv4Unspecified(), port), nil
	}
	if ip, err := netip.ParseAddr(strings.Trim(v, "[]")); err == nil {
		return netip.AddrPortFrom(ip.Unmap(), port), nil
	}
	host, p, err := net.SplitHostPort(v)
	if err != nil {
		return netip.AddrPort{}, errors.New("not an ip, or ip:port")
	}
	n, err := strconv.ParseUint(p, 10, 16)
	if err != nil || n == 0 {
		return netip.AddrPort{}, fmt.Errorf("port %q is not a number from 1 to 65535", p)
	}
	if host == "" {
		return netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(n)), nil
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%q is not an IP address", host)
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(n)), nil
}

func parsePools(pools []string) ([]netip.Prefix, error) {
	if len(pools) == 0 {
		pools = []string{"10.0.0.0/8"}
	}
	out := make([]netip.Prefix, 0, len(pools))
	for _, p := range pools {
		prefix, err := netip.ParsePrefix(p)
		if err != nil || !prefix.Addr().Is4() || prefix.Bits() > subnetSize {
			return nil, fmt.Errorf("--default-addr-pool %s: not an IPv4 CIDR of at most /%d", p, subnetSize)
		}
		prefix = prefix.Masked()
		for _, q := range out {
			if q.Overlaps(prefix) {
				return nil, fmt.Errorf("--default-addr-pool %s: overlaps %s", p, q)
			}
		}
		out = append(out, prefix)
	}
	return out, nil
}

// checkResources refuses what the scheduler could not count.
func checkResources(list []swarm.GenericResource) error {
	counted, named := map[string]bool{}, map[string]bool{}
	for _, r := range list {
		switch d, n := r.DiscreteResourceSpec, r.NamedResourceSpec; {
		case d != nil && n == nil && d.Kind != "" && d.Value >= 0:
			if counted[d.Kind] {
				return fmt.Errorf("--generic-resource %s=%d: its number is given twice", d.Kind, d.Value)
			}
			counted[d.Kind] = true
		case n != nil && d == nil && n.Kind != "" && n.Value != "":
			if named[n.Kind+"="+n.Value] {
				return fmt.Errorf("--generic-resource %s=%s is given twice", n.Kind, n.Value)
			}
			named[n.Kind], named[n.Kind+"="+n.Value] = true, true
		default:
			return errors.New("--generic-resource: write KIND=NUMBER, or KIND=NAME for each single one")
		}
	}
	for kind := range counted {
		if named[kind] {
			return fmt.Errorf("--generic-resource %s is given as a number and by name: write one of both", kind)
		}
	}
	return nil
}

// path names a file in the data directory.
func (s settings) path(elem ...string) string {
	return filepath.Join(append([]string{s.DataDir}, elem...)...)
}
