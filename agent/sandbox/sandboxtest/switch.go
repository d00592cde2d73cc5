// Package sandboxtest moves packets between sandboxes in tests: Switch is the smallest network that can carry what their
// devices say, both kinds of device, super-packets included.
package sandboxtest

import (
	"encoding/binary"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"

	"github.com/meshswarm/meshswarm/agent/sandbox"
)

const (
	virtioHeader   = 10
	ethernetHeader = 14
	needsChecksum  = 1 // VIRTIO_NET_HDR_F_NEEDS_CSUM
	maxPacket      = 1<<16 + virtioHeader + ethernetHeader
)

// Switch forwards IP packets by destination address between the devices plugged into it.
type Switch struct {
	// Super counts forwarded packets larger than their device's MTU.
	Super atomic.Int64

	mu    sync.Mutex
	ports map[netip.Addr]*sandbox.Device
	files []*os.File
	wg    sync.WaitGroup
}

// NewSwitch returns an empty switch. Close it.
func NewSwitch() *Switch { return &Switch{ports: map[netip.Addr]*sandbox.Device{}} }

// Plug takes the devices of a handover over, and closes the rest of it. Later devices with the same address win.
func (s *Switch) Plug(h *sandbox.Handover) {
	h.DNSUDP.Close()
	h.DNSTCP.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range h.Devices {
		d := &h.Devices[i]
		for _, a := range d.Addrs {
			s.ports[a.Addr()] = d
		}
		s.files = append(s.files, d.File)
		s.wg.Go(func() { s.pump(d) })
	}
}

// Close unplugs everything and waits.
func (s *Switch) Close() {
	s.mu.Lock()
	for _, f := range s.files {
		f.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

func (s *Switch) pump(from *sandbox.Device) {
	buf := make([]byte, maxPacket)
	for {
		n, err := from.File.Read(buf)
		if err != nil {
			return
		}
		header, packet, ok := unframe(from, buf[:n])
		if !ok {
			continue
		}
		dst, ok := destination(packet)
		if !ok {
			continue
		}
		s.mu.Lock()
		to := s.ports[dst]
		s.mu.Unlock()
		if to == nil {
			continue
		}
		if len(packet) > from.MTU {
			s.Super.Add(1)
		}
		_, _ = to.File.Write(frame(to, header, packet))
	}
}

// unframe splits what a device read into a virtio header whose offsets count from the IP header, and the IP packet.
func unframe(d *sandbox.Device, b []byte) (header [virtioHeader]byte, packet []byte, ok bool) {
	skip := virtioHeader
	if d.Kind == sandbox.KindPacket {
		skip += ethernetHeader
	}
	if len(b) <= skip {
		return header, nil, false
	}
	copy(header[:], b)
	if d.Kind == sandbox.KindPacket {
		shift(&header, -ethernetHeader)
	}
	return header, b[skip:], true
}

func frame(d *sandbox.Device, header [virtioHeader]byte, packet []byte) []byte {
	if d.Kind == sandbox.KindTUN {
		return append(header[:], packet...)
	}
	shift(&header, ethernetHeader)
	out := append(header[:], d.MAC...)
	out = append(out, 2, 0, 0, 0, 0, 1)
	if packet[0]>>4 == 6 {
		return append(append(out, 0x86, 0xdd), packet...)
	}
	return append(append(out, 0x08, 0x00), packet...)
}

// shift moves hdr_len and csum_start, which count from the start of the frame (struct virtio_net_hdr, linux/virtio_net.h).
func shift(header *[virtioHeader]byte, by int) {
	for _, at := range []int{2, 6} {
		v := int(binary.NativeEndian.Uint16(header[at:]))
		if v == 0 || (at == 6 && header[0]&needsChecksum == 0) {
			continue
		}
		binary.NativeEndian.PutUint16(header[at:], uint16(v+by))
	}
}

func destination(p []byte) (netip.Addr, bool) {
	switch {
	case len(p) >= 20 && p[0]>>4 == 4:
		return netip.AddrFrom4([4]byte(p[16:20])), true
	case len(p) >= 40 && p[0]>>4 == 6:
		return netip.AddrFrom16([16]byte(p[24:40])), true
	}
	return netip.Addr{}, false
}
