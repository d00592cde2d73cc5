package netstack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestOpenPing: both kinds of ICMP socket carry an echo, each its own only.
func TestOpenPing(t *testing.T) {
	for name, open := range map[string]func(netip.Addr) (net.Conn, error){"unprivileged": openPingSocket, "raw": openRawPing} {
		for _, dst := range []string{"127.0.0.1", "::1"} {
			t.Run(name+" "+dst, func(t *testing.T) {
				addr := netip.MustParseAddr(dst)
				c, err := open(addr)
				if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT) {
					t.Skipf("not for this account, or not on this machine: %v", err)
				}
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				other, err := open(addr)
				if err != nil {
					t.Fatal(err)
				}
				defer other.Close()
				if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
					t.Fatal(err)
				}
				for i, from := range []net.Conn{other, c} {
					msg := append([]byte{echoRequest(addr), 0, 0, 0, 0x12, 0x34, 0, byte(i)}, "meshswarm"...)
					if _, err := from.Write(msg); err != nil {
						t.Fatal(err)
					}
				}
				buf := make([]byte, 200)
				n, err := c.Read(buf)
				if err != nil {
					t.Fatal(err)
				}
				if got := buf[:n]; binary.BigEndian.Uint16(got[6:]) != 1 || !bytes.Equal(got[icmpLen:], []byte("meshswarm")) {
					t.Errorf("got %x: not the reply to the socket's own request", got)
				}
			})
		}
	}
}
