// Package netstacktest has in-memory twins of what package netstack is attached to: the device of a link, and a task's TCP/IP behind it.
//
// NewTUN and NewPacket return the file that a link takes, and the other end of it, from which a test sends and receives frames. They are
// the two ends of a SOCK_SEQPACKET socket pair, so that the link's code runs as it does on a real device.
// NewStack puts a gVisor stack behind such an end: a task that really speaks TCP, UDP and ICMP.
package netstacktest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	vnetLen = 10
	ethLen  = 14
	maxIP   = 65535
)

// Header is the virtio-net header of a frame. Offsets count from the IP header on both kinds of device.
type Header struct {
	Flags, GSOType        uint8
	HdrLen, GSOSize       uint16
	CsumStart, CsumOffset uint16
}

// Device is the task's end of a link.
type Device struct {
	file *os.File
	eth  int // length of the Ethernet header
	mac  net.HardwareAddr
}

// NewTUN returns a twin of a TUN device: the link's file and the task's end.
func NewTUN() (*os.File, *Device, error) { return newDevice(0, nil) }

// NewPacket returns a twin of an AF_PACKET socket on a veth pair whose task's end has the address mac.
func NewPacket(mac net.HardwareAddr) (*os.File, *Device, error) { return newDevice(ethLen, mac) }

func newDevice(eth int, mac net.HardwareAddr) (*os.File, *Device, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
	for _, fd := range fds {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 4<<20)
	}
	d := &Device{file: os.NewFile(uintptr(fds[1]), "task"), eth: eth, mac: mac}
	return os.NewFile(uintptr(fds[0]), "link"), d, nil
}

// Close takes the task's end away.
func (d *Device) Close() error { return d.file.Close() }

// Send sends an IP packet as the task.
func (d *Device) Send(h Header, ip []byte) error {
	f := make([]byte, vnetLen+d.eth+len(ip))
	off := uint16(0)
	if h.Flags&1 != 0 {
		off = uint16(d.eth)
	}
	f[0], f[1] = h.Flags, h.GSOType
	for i, v := range []uint16{h.HdrLen + off, h.GSOSize, h.CsumStart + off, h.CsumOffset} {
		binary.NativeEndian.PutUint16(f[2+2*i:], v)
	}
	if d.eth > 0 {
		copy(f[vnetLen+6:], d.mac)
		typ := uint16(unix.ETH_P_IP)
		if len(ip) > 0 && ip[0]>>4 == 6 {
			typ = unix.ETH_P_IPV6
		}
		binary.BigEndian.PutUint16(f[vnetLen+12:], typ)
	}
	copy(f[vnetLen+d.eth:], ip)
	_, err := d.file.Write(f)
	return err
}

// SendFrame sends a frame as it is, headers included.
func (d *Device) SendFrame(f []byte) error {
	_, err := d.file.Write(f)
	return err
}

// ErrTimeout says that nothing arrived in time.
var ErrTimeout = errors.New("nothing arrived")

// Receive waits for the next IP packet that the task gets; timeout 0 waits for ever.
func (d *Device) Receive(timeout time.Duration) (Header, []byte, error) {
	var deadline time.Time
	if timeout > 0 {
		deadline = time.Now().Add(timeout)
	}
	if err := d.file.SetReadDeadline(deadline); err != nil {
		return Header{}, nil, err
	}
	b := make([]byte, vnetLen+ethLen+maxIP)
	n, err := d.file.Read(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return Header{}, nil, ErrTimeout
	}
	if err != nil {
		return Header{}, nil, err
	}
	if n < vnetLen+d.eth {
		return Header{}, nil, fmt.Errorf("frame of %d bytes", n)
	}
	u16 := func(at int) uint16 { return binary.NativeEndian.Uint16(b[at:]) }
	h := Header{Flags: b[0], GSOType: b[1], HdrLen: u16(2), GSOSize: u16(4), CsumStart: u16(6), CsumOffset: u16(8)}
	if d.eth > 0 {
		if got := net.HardwareAddr(b[vnetLen : vnetLen+6]); got.String() != d.mac.String() {
			return h, nil, fmt.Errorf("frame for %s, want %s", got, d.mac)
		}
		if h.Flags&1 != 0 {
			h.CsumStart -= ethLen
		}
		if h.HdrLen != 0 {
			h.HdrLen -= ethLen
		}
	}
	return h, b[vnetLen+d.eth : n], nil
}
