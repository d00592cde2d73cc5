package sandbox

import (
	"encoding/binary"
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func FuzzParseReply(f *testing.F) {
	good := reply{Version: 1, Devices: []deviceReply{{Kind: KindPacket, MAC: "02:00:00:00:00:01", DeviceSpec: DeviceSpec{
		Name: "eth0", NetworkID: "n", MTU: 1420, Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.5/24")},
	}}}}
	data, err := json.Marshal(good)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"version":1,"sockets":[{"l":"10.0.0.1:80","r":"10.0.0.2:4000"}],"more":true}`))
	f.Add([]byte(`{"version":1,"error":"no"}`))
	f.Add([]byte(`{"version":2}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parseReply(data)
		if err != nil {
			return
		}
		devices, err := r.devices(2 + len(r.Devices))
		if err != nil {
			return
		}
		for _, d := range devices {
			if err := d.Validate(); err != nil {
				t.Errorf("accepted a device that is not usable: %v", err)
			}
		}
	})
}

func FuzzParseRequest(f *testing.F) {
	f.Add([]byte(`{"version":1,"want":"handover"}`))
	f.Add([]byte(`{"version":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if q, err := parseRequest(data); err == nil && q.Version != protocolVersion {
			t.Error("accepted another version")
		}
	})
}

func FuzzParseRights(f *testing.F) {
	f.Add(unix.UnixRights(3, 4)[:16])
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = parseRights(data)
	})
}

func FuzzParseSocket(f *testing.F) {
	f.Add("   1: 0100007F:0035 0200000A:1F90 01 00000000:00000000 00:00000000 00000000     0        0 1 1")
	f.Fuzz(func(t *testing.T, line string) {
		if s, ok := parseSocket(line); ok && (!s.Local.IsValid() || !s.Remote.IsValid()) {
			t.Errorf("accepted %v", s)
		}
	})
}

func FuzzParseDiag(f *testing.F) {
	socket := make([]byte, unix.NLMSG_HDRLEN+diagMessageLen+4+infoLen)
	binary.NativeEndian.PutUint32(socket, uint32(len(socket)))
	binary.NativeEndian.PutUint16(socket[4:], unix.SOCK_DIAG_BY_FAMILY)
	socket[unix.NLMSG_HDRLEN] = unix.AF_INET
	info := socket[unix.NLMSG_HDRLEN+diagMessageLen:]
	binary.NativeEndian.PutUint16(info, 4+infoLen)
	binary.NativeEndian.PutUint16(info[2:], diagInfo)
	f.Add(socket)
	failed := make([]byte, unix.NLMSG_HDRLEN+4)
	binary.NativeEndian.PutUint32(failed, uint32(len(failed)))
	binary.NativeEndian.PutUint16(failed[4:], unix.NLMSG_ERROR)
	f.Add(failed)
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = parseDiag(data, func(s diagSocket) {
			if !s.local.IsValid() || !s.remote.IsValid() {
				t.Errorf("accepted %v", s)
			}
		})
	})
}

func TestParseSocket(t *testing.T) {
	for _, c := range []struct {
		name, line, want string
	}{
		{"established", "  0: 0510000A:0050 0610000A:9C40 01 0:0", "10.0.16.5:80 10.0.16.6:40000"},
		{"mapped", "  0: 0000000000000000FFFF00000510000A:0050 0000000000000000FFFF00000610000A:9C40 08 0:0", "10.0.16.5:80 10.0.16.6:40000"},
		{"v6", "  0: 000000FD000000000000000005000000:0050 000000FD000000000000000006000000:9C40 01 0:0", "[fd00::5]:80 [fd00::6]:40000"},
		{"listening", "  0: 0510000A:0050 00000000:0000 0A 0:0", ""},
		{"loopback", "  0: 0B00007F:0035 0100007F:9C40 01 0:0", ""},
		{"title", "  sl  local_address rem_address   st", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, ok := parseSocket(c.line)
			got := ""
			if ok {
				got = s.Local.String() + " " + s.Remote.String()
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestSpecValidate(t *testing.T) {
	good := DeviceSpec{Name: "eth0", MTU: 1420, Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.16.5/24")}, Gateways: []netip.Addr{netip.MustParseAddr("10.0.16.1")}}
	for _, c := range []struct {
		name   string
		change func(*Spec)
		want   string
	}{
		{"good", func(*Spec) {}, ""},
		{"kind", func(s *Spec) { s.Kind = "tap" }, "unknown device kind"},
		{"twice", func(s *Spec) { s.Devices = append(s.Devices, s.Devices[0]) }, "listed twice"},
		{"two defaults", func(s *Spec) {
			d := s.Devices[0]
			d.Name = "eth1"
			s.Devices = append(s.Devices, d)
			s.Devices[0].Default, s.Devices[1].Default = true, true
		}, "more than one default"},
		{"name", func(s *Spec) { s.Devices[0].Name = "../x" }, "not usable"},
		{"loopback name", func(s *Spec) { s.Devices[0].Name = "lo" }, "not usable"},
		{"no address", func(s *Spec) { s.Devices[0].Addrs = nil }, "0 addresses"},
		{"loopback address", func(s *Spec) { s.Devices[0].Addrs[0] = netip.MustParsePrefix("127.0.0.1/8") }, "not usable"},
		{"small MTU", func(s *Spec) { s.Devices[0].MTU = 100 }, "MTU 100"},
		{"small MTU for IPv6", func(s *Spec) {
			s.Devices[0].MTU = 1000
			s.Devices[0].Addrs = append(s.Devices[0].Addrs, netip.MustParsePrefix("fd00::1/64"))
		}, "MTU 1000"},
		{"foreign gateway", func(s *Spec) { s.Devices[0].Gateways[0] = netip.MustParseAddr("10.0.17.1") }, "none of its subnets"},
		{"too many", func(s *Spec) { s.Devices = make([]DeviceSpec, maxDevices+1) }, "at most 64"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := good
			d.Addrs, d.Gateways = append([]netip.Prefix(nil), good.Addrs...), append([]netip.Addr(nil), good.Gateways...)
			s := Spec{Devices: []DeviceSpec{d}}
			c.change(&s)
			err := s.Validate()
			if (err == nil) != (c.want == "") || (err != nil && !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestCleanMappings(t *testing.T) {
	smaps := `00400000-00500000 r-xp 00000000 00:30 5 /meshswarm
Size:               1024 kB
Anonymous:             0 kB
00500000-00600000 r--p 00100000 00:30 5 /meshswarm
Anonymous:             4 kB
00600000-00700000 rw-p 00200000 00:30 5 /meshswarm
Anonymous:             0 kB
00700000-00800000 r--p 00000000 00:00 0
Anonymous:             0 kB
`
	got := cleanMappings(smaps)
	if len(got) != 1 || got[0] != (mapping{0x400000, 0x100000}) {
		t.Errorf("got %x", got)
	}
}
