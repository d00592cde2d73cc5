package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
)

// The protocol: a SOCK_SEQPACKET unix socket, one request packet, then one or more reply packets, then close. DESIGN.md
// has the tables.
const (
	protocolVersion = 1
	maxRequest      = 256
	maxReply        = 1 << 16
	maxSockets      = 1 << 16
	socketsPerReply = 256
	maxWarnings     = 16
	maxFiles        = 2 + maxDevices
)

const (
	wantHandover = "handover"
	wantSockets  = "sockets"
	wantTraffic  = "traffic"
)

type request struct {
	Version int    `json:"version"`
	Want    string `json:"want"`
}

type reply struct {
	Version  int           `json:"version"`
	Error    string        `json:"error,omitempty"`
	Devices  []deviceReply `json:"devices,omitempty"`
	Warnings []string      `json:"warnings,omitempty"`
	Sockets  []Socket      `json:"sockets,omitempty"`
	Traffic  *Traffic      `json:"traffic,omitempty"`
	// More: another reply packet follows.
	More bool `json:"more,omitempty"`
}

type deviceReply struct {
	DeviceSpec
	Kind Kind   `json:"kind"`
	MAC  string `json:"mac,omitempty"`
}

// Socket is an established TCP connection as the task's side sees it.
type Socket struct {
	Local  netip.AddrPort `json:"l"`
	Remote netip.AddrPort `json:"r"`
}

var errProtocol = errors.New("sandbox speaks nonsense")

func parseRequest(data []byte) (request, error) {
	var q request
	if len(data) > maxRequest {
		return q, errors.New("request is too long")
	}
	if err := json.Unmarshal(data, &q); err != nil {
		return q, errors.New("request is not JSON")
	}
	if q.Version != protocolVersion {
		return q, fmt.Errorf("version %d is not spoken here, only %d", q.Version, protocolVersion)
	}
	return q, nil
}

// parseReply decodes a reply and refuses whatever no sandbox of ours says.
func parseReply(data []byte) (reply, error) {
	var r reply
	if len(data) > maxReply {
		return r, fmt.Errorf("%w: reply is too long", errProtocol)
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, fmt.Errorf("%w: %v", errProtocol, err)
	}
	if r.Error != "" {
		return r, fmt.Errorf("sandbox refused: %.200q", r.Error)
	}
	if r.Version != protocolVersion {
		return r, fmt.Errorf("%w: version %d", errProtocol, r.Version)
	}
	if len(r.Warnings) > maxWarnings || len(r.Sockets) > socketsPerReply {
		return r, fmt.Errorf("%w: too many entries", errProtocol)
	}
	return r, nil
}

// handover pairs the described devices with the descriptors that came along: DNS UDP, DNS TCP, then one per device.
// It does not touch the descriptors.
func (r reply) devices(files int) ([]Device, error) {
	spec := Spec{}
	out := make([]Device, 0, len(r.Devices))
	for _, d := range r.Devices {
		dev := Device{DeviceSpec: d.DeviceSpec, Kind: d.Kind}
		switch d.Kind {
		case KindTUN:
		case KindPacket:
			mac, err := net.ParseMAC(d.MAC)
			if err != nil || len(mac) != 6 {
				return nil, fmt.Errorf("%w: device %q has no hardware address", errProtocol, d.Name)
			}
			dev.MAC = mac
		default:
			return nil, fmt.Errorf("%w: device kind %q", errProtocol, d.Kind)
		}
		spec.Devices = append(spec.Devices, d.DeviceSpec)
		out = append(out, dev)
	}
	if err := spec.Validate(); err != nil {
		return nil, fmt.Errorf("%w: %v", errProtocol, err)
	}
	if files != 2+len(out) {
		return nil, fmt.Errorf("%w: %d descriptors for %d devices", errProtocol, files, len(out))
	}
	return out, nil
}
