package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
)

// Kind is the kind of a device, which decides how its packets are framed on the descriptor.
type Kind string

const (
	// KindTUN is a TUN: each read and write is one virtio-net header (10 bytes) and one IP packet.
	KindTUN Kind = "tun"
	// KindPacket is an AF_PACKET socket at the far end of a veth pair: one virtio-net header (10 bytes) and one Ethernet
	// frame. Frames for the task go to Device.MAC; the task's own frames carry that address as source and destination.
	KindPacket Kind = "packet"
)

// Names of the files in the folder that the agent and the sandbox share.
const (
	// SpecFile holds the Spec, JSON.
	SpecFile = "spec.json"
	// SocketFile is the unix socket that the sandbox serves.
	SocketFile = "sandbox.sock"
	// ErrorFile holds one line of text when the setup did not succeed.
	ErrorFile = "error"
)

// MountPoint is where the shared folder is found inside the sandbox container.
const MountPoint = "/run/meshswarm"

const (
	maxDevices  = 64
	maxAddrs    = 8
	maxSpecSize = 1 << 18
	minMTU      = 576
	minMTUv6    = 1280
	maxMTU      = 65535
)

// Spec is what a sandbox has to build.
type Spec struct {
	// Kind of all devices: KindTUN, KindPacket, or "" for TUN where /dev/net/tun opens and packet sockets elsewhere.
	Kind Kind `json:",omitempty"`
	// Devices in the order in which they are created. May be empty: a task without any network still has DNS and loopback.
	Devices []DeviceSpec `json:",omitempty"`
}

// DeviceSpec describes one network interface of the task.
type DeviceSpec struct {
	// Name inside the namespace: eth0, eth1, ….
	Name string
	// NetworkID is passed through to the Handover.
	NetworkID string
	// Addrs are the interface's addresses with the prefix length of their subnet.
	Addrs []netip.Prefix
	// Gateways, at most one per address family, inside one of the subnets.
	Gateways []netip.Addr `json:",omitempty"`
	// Default makes the gateways the namespace's default routes.
	Default bool `json:",omitempty"`
	// MTU in bytes of IP packet.
	MTU int
}

var deviceName = regexp.MustCompile(`^[a-z][a-z0-9]{0,14}$`)

// Validate tells the first thing that is wrong with the spec.
func (s Spec) Validate() error {
	switch s.Kind {
	case "", KindTUN, KindPacket:
	default:
		return fmt.Errorf("unknown device kind %q", s.Kind)
	}
	if len(s.Devices) > maxDevices {
		return fmt.Errorf("%d devices: at most %d networks per task", len(s.Devices), maxDevices)
	}
	names, defaults := map[string]bool{}, 0
	for _, d := range s.Devices {
		if err := d.Validate(); err != nil {
			return err
		}
		if names[d.Name] {
			return fmt.Errorf("device %s is listed twice", d.Name)
		}
		names[d.Name] = true
		if d.Default {
			defaults++
		}
	}
	if defaults > 1 {
		return errors.New("more than one default device")
	}
	return nil
}

// Validate tells the first thing that is wrong with the device.
func (d DeviceSpec) Validate() error {
	if !deviceName.MatchString(d.Name) || d.Name == "lo" {
		return fmt.Errorf("device name %q is not usable", d.Name)
	}
	if len(d.Addrs) == 0 || len(d.Addrs) > maxAddrs {
		return fmt.Errorf("device %s has %d addresses: needs 1 to %d", d.Name, len(d.Addrs), maxAddrs)
	}
	least := minMTU
	for _, a := range d.Addrs {
		if !a.IsValid() || a.Addr().Is4In6() || a.Addr().IsUnspecified() || a.Addr().IsMulticast() || a.Addr().IsLoopback() {
			return fmt.Errorf("device %s: address %s is not usable", d.Name, a)
		}
		if a.Addr().Is6() {
			least = minMTUv6
		}
	}
	if d.MTU < least || d.MTU > maxMTU {
		return fmt.Errorf("device %s: MTU %d is not within %d and %d", d.Name, d.MTU, least, maxMTU)
	}
	seen := map[bool]bool{}
	for _, g := range d.Gateways {
		if _, ok := d.subnetOf(g); !ok {
			return fmt.Errorf("device %s: gateway %s is in none of its subnets", d.Name, g)
		}
		if seen[g.Is4()] {
			return fmt.Errorf("device %s has two gateways of one address family", d.Name)
		}
		seen[g.Is4()] = true
	}
	return nil
}

// HasIPv6 tells whether any device has an IPv6 address.
func (s Spec) HasIPv6() bool {
	for _, d := range s.Devices {
		if d.hasIPv6() {
			return true
		}
	}
	return false
}

func (d DeviceSpec) hasIPv6() bool {
	for _, a := range d.Addrs {
		if a.Addr().Is6() {
			return true
		}
	}
	return false
}

// subnetOf returns the device's address whose subnet contains g.
func (d DeviceSpec) subnetOf(g netip.Addr) (netip.Prefix, bool) {
	for _, a := range d.Addrs {
		if g.IsValid() && a.Contains(g) {
			return a, true
		}
	}
	return netip.Prefix{}, false
}

// Write puts the spec into the shared folder, atomically.
func (s Spec) Write(dir string) error {
	if err := s.Validate(); err != nil {
		return fmt.Errorf("sandbox spec: %w", err)
	}
	data, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("encode sandbox spec: %w", err)
	}
	tmp := filepath.Join(dir, SpecFile+".tmp")
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return fmt.Errorf("write sandbox spec: %w", err)
	}
	if err := os.Rename(tmp, filepath.Join(dir, SpecFile)); err != nil {
		return fmt.Errorf("write sandbox spec: %w", err)
	}
	return nil
}

// ReadSpec reads and checks the spec in the shared folder.
func ReadSpec(dir string) (Spec, error) {
	data, err := readLimited(filepath.Join(dir, SpecFile), maxSpecSize)
	if err != nil {
		return Spec{}, fmt.Errorf("read sandbox spec: %w", err)
	}
	var s Spec
	if err := json.Unmarshal(data, &s); err != nil {
		return Spec{}, fmt.Errorf("read sandbox spec: %w", err)
	}
	if err := s.Validate(); err != nil {
		return Spec{}, fmt.Errorf("sandbox spec: %w", err)
	}
	return s, nil
}
