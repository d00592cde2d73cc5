package sandbox

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// TUNPath is the device file that TUN devices are made with.
const TUNPath = "/dev/net/tun"

// Offloads of linux/if_tun.h. USO came with Linux 6.2.
const (
	tunCSUM   = 0x01
	tunTSO4   = 0x02
	tunTSO6   = 0x04
	tunTSOECN = 0x08
	tunUSO4   = 0x20
	tunUSO6   = 0x40
)

// openTUN creates a TUN device with virtio-net headers and segmentation offloads: one read or write moves a super-packet
// of up to 64 KiB. The device lives as long as a descriptor of it is open.
func openTUN(name string) (int, error) {
	fd, err := unix.Open(TUNPath, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", TUNPath, err)
	}
	if err := attachTUN(fd, name); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func attachTUN(fd int, name string) error {
	req, err := unix.NewIfreq(name)
	if err != nil {
		return fmt.Errorf("name the TUN device: %w", err)
	}
	req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		return fmt.Errorf("create TUN device: %w", err)
	}
	offloads := tunCSUM | tunTSO4 | tunTSO6 | tunTSOECN
	if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, offloads|tunUSO4|tunUSO6); err == nil {
		return nil
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, offloads); err != nil {
		return fmt.Errorf("set TUN offloads: %w", err)
	}
	return nil
}
