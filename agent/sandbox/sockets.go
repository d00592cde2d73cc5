package sandbox

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"strconv"
	"strings"
)

// parseSocket reads a line of /proc/net/tcp or tcp6 (Documentation/networking/proc_net_tcp.rst) and tells whether it is a
// connection past its handshake, with at least one direction open, that does not stay inside the namespace.
func parseSocket(line string) (Socket, bool) {
	fields := strings.Fields(line)
	if len(fields) < 4 {
		return Socket{}, false
	}
	switch fields[3] {
	case "01", "04", "05", "08": // ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT
	default:
		return Socket{}, false
	}
	local, ok1 := parseProcAddr(fields[1])
	remote, ok2 := parseProcAddr(fields[2])
	if !ok1 || !ok2 || local.Addr().IsLoopback() {
		return Socket{}, false
	}
	return Socket{Local: local, Remote: remote}, true
}

// parseProcAddr reads "0100007F:0035": 32-bit words as the machine orders them, port in hexadecimal. IPv4-mapped addresses
// come back as IPv4.
func parseProcAddr(s string) (netip.AddrPort, bool) {
	host, portText, ok := strings.Cut(s, ":")
	if !ok || (len(host) != 8 && len(host) != 32) {
		return netip.AddrPort{}, false
	}
	raw, err := hex.DecodeString(host)
	if err != nil {
		return netip.AddrPort{}, false
	}
	port, err := strconv.ParseUint(portText, 16, 16)
	if err != nil {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(raw); i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	addr, ok := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(addr.Unmap(), uint16(port)), ok
}
