package netstack

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// maxHolderScan bounds the processes looked at for the holder of a port.
const maxHolderScan = 4096

// portHolder names the process that holds a port ("nginx (pid 812)"), or the user when the process is not ours to see; "" when unknown.
func portHolder(key portKey, at netip.Addr) string {
	inode, uid, ok := socketOf(key, at)
	if !ok {
		return ""
	}
	want := "socket:[" + inode + "]"
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return ""
	}
	for i, d := range procs {
		if _, err := strconv.Atoi(d.Name()); err != nil || i > maxHolderScan {
			continue
		}
		if holds("/proc/"+d.Name()+"/fd", want) {
			name, _ := os.ReadFile("/proc/" + d.Name() + "/comm")
			return fmt.Sprintf("%s (pid %s)", strings.TrimSpace(string(name)), d.Name())
		}
	}
	return "a process of uid " + uid
}

func holds(dir, want string) bool {
	fds, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	for _, fd := range fds {
		if target, err := os.Readlink(dir + "/" + fd.Name()); err == nil && target == want {
			return true
		}
	}
	return false
}

// socketOf finds the inode and the owner of the socket that listens on a port where at would (proc_net_tcp in the kernel's documentation).
func socketOf(key portKey, at netip.Addr) (inode, uid string, ok bool) {
	const tcpListen, udpUnconnected = "0A", "07"
	state := tcpListen
	if key.protocol == "udp" {
		state = udpUnconnected
	}
	for _, file := range []string{key.protocol, key.protocol + "6"} {
		data, err := readCapped("/proc/thread-self/net/"+file, 4<<20)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(data)) {
			f := strings.Fields(line)
			if len(f) < 10 || f[3] != state {
				continue
			}
			if a, err := procAddr(f[1]); err == nil && a.Port() == key.port && clash(a.Addr(), at) {
				return f[9], f[7], true
			}
		}
	}
	return "", "", false
}

// clash reports whether sockets at two addresses exclude each other; the zero Addr is all addresses.
func clash(a, b netip.Addr) bool {
	return !a.IsValid() || !b.IsValid() || a.IsUnspecified() || b.IsUnspecified() || a == b
}

// procAddr reads an address of /proc/net: the address in hex, as words of the machine's byte order, and the port.
func procAddr(s string) (netip.AddrPort, error) {
	host, port, _ := strings.Cut(s, ":")
	p, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return netip.AddrPort{}, err
	}
	b, err := hex.DecodeString(host)
	if err != nil {
		return netip.AddrPort{}, err
	}
	for w := b; len(w) >= 4; w = w[4:] {
		binary.BigEndian.PutUint32(w, binary.NativeEndian.Uint32(w))
	}
	a, _ := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(a.Unmap(), uint16(p)), nil
}
