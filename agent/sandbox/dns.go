package sandbox

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// DNSAddr is where a task finds its DNS server, as under Docker.
const DNSAddr = "127.0.0.11"

const (
	dnsPort    = 53
	dnsBacklog = 128
)

// openDNS opens the UDP and the TCP socket at 127.0.0.11:53. SO_REUSEADDR and SO_REUSEPORT leave room for a DNS server
// of the task's own at 0.0.0.0:53 that sets them too.
func openDNS() (udp, tcp int, err error) {
	udp, err = openDNSSocket(unix.SOCK_DGRAM)
	if err != nil {
		return -1, -1, fmt.Errorf("open UDP %s:%d: %w", DNSAddr, dnsPort, err)
	}
	tcp, err = openDNSSocket(unix.SOCK_STREAM)
	if err == nil {
		err = unix.Listen(tcp, dnsBacklog)
	}
	if err != nil {
		return -1, -1, fmt.Errorf("open TCP %s:%d: %w", DNSAddr, dnsPort, err)
	}
	return udp, tcp, nil
}

func openDNSSocket(kind int) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	for _, opt := range []int{unix.SO_REUSEADDR, unix.SO_REUSEPORT} {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, opt, 1); err != nil {
			return -1, err
		}
	}
	return fd, unix.Bind(fd, &unix.SockaddrInet4{Port: dnsPort, Addr: [4]byte{127, 0, 0, 11}})
}
