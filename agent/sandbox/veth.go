package sandbox

import (
	"encoding/binary"
	"fmt"
	"net"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// socketBuffer is what a packet socket may hold: some dozen super-packets.
const socketBuffer = 4 << 20

// packetNamespace is a private network namespace with the far ends of veth pairs and a packet socket on each. It has no
// address, so its own stack answers nothing; the sockets keep it alive.
type packetNamespace struct {
	fd   int
	work chan func()
}

// newPacketNamespace starts a thread inside a fresh namespace. Needs CAP_SYS_ADMIN.
func newPacketNamespace() (*packetNamespace, error) {
	p := &packetNamespace{work: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := p.enter()
		ready <- err
		if err != nil {
			return
		}
		for f := range p.work {
			f()
		}
	}()
	if err := <-ready; err != nil {
		return nil, err
	}
	return p, nil
}

func (p *packetNamespace) enter() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("create a private network namespace: %w", err)
	}
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the private network namespace: %w", err)
	}
	p.fd = fd
	return nil
}

func (p *packetNamespace) close() {
	close(p.work)
	unix.Close(p.fd)
}

// open makes a veth pair between the caller's namespace and the private one, and the socket at the far end.
func (p *packetNamespace) open(d DeviceSpec) (fd int, mac net.HardwareAddr, err error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = d.Name, d.MTU
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: d.Name, PeerMTU: uint32(d.MTU), PeerNamespace: netlink.NsFd(p.fd)}
	if err := netlink.LinkAdd(veth); err != nil {
		return -1, nil, fmt.Errorf("create veth pair: %w", err)
	}
	link, err := netlink.LinkByName(d.Name)
	if err != nil {
		return -1, nil, fmt.Errorf("find veth: %w", err)
	}
	// Without ARP the kernel addresses every frame to the device's own address; nobody has to answer for neighbours.
	if err := netlink.LinkSetARPOff(link); err != nil {
		return -1, nil, fmt.Errorf("turn ARP off: %w", err)
	}
	done := make(chan struct{})
	p.work <- func() {
		defer close(done)
		fd, err = openPacketSocket(d.Name)
	}
	<-done
	return fd, link.Attrs().HardwareAddr, err
}

// openPacketSocket runs inside the private namespace.
func openPacketSocket(name string) (int, error) {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return -1, fmt.Errorf("find the far end: %w", err)
	}
	quietIPv6(link)
	if err := netlink.LinkSetARPOff(link); err != nil {
		return -1, fmt.Errorf("turn ARP off at the far end: %w", err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return -1, fmt.Errorf("set the far end up: %w", err)
	}
	// Protocol 0 until it is bound: no packet of another device gets in.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open packet socket: %w", err)
	}
	if err := bindPacketSocket(fd, link.Attrs().Index); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func bindPacketSocket(fd, index int) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
		return fmt.Errorf("turn virtio headers on: %w", err)
	}
	// Saves work where the kernel has it (4.20); a socket never sees its own packets anyway.
	_ = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1)
	for _, opt := range [][2]int{{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}, {unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}} {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, opt[0], socketBuffer) != nil {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, opt[1], socketBuffer)
		}
	}
	all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index}); err != nil {
		return fmt.Errorf("bind packet socket: %w", err)
	}
	return nil
}
