package netstack

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// kernelTask is a network namespace of its own with a device, as a sandbox makes it.
type kernelTask struct {
	calls chan func()
	file  *os.File
	mac   net.HardwareAddr
}

// newKernelTask makes a namespace with a TUN, or a veth whose other end is read through an AF_PACKET socket.
func newKernelTask(tb testing.TB, kind Kind, addr netip.Addr) *kernelTask {
	tb.Helper()
	if f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0); err != nil {
		tb.Skipf("needs /dev/net/tun and namespaces: %v", err)
	} else {
		f.Close()
	}
	k := &kernelTask{calls: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine, and the namespace with the last descriptor
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = k.setup(kind, addr)
		}
		ready <- err
		for f := range k.calls {
			f()
		}
	}()
	if err := <-ready; err != nil {
		close(k.calls)
		tb.Skipf("make namespace: %v", err)
	}
	tb.Cleanup(func() { close(k.calls) })
	return k
}

// in runs f in the namespace.
func (k *kernelTask) in(f func()) {
	done := make(chan struct{})
	k.calls <- func() { defer close(done); f() }
	<-done
}

func (k *kernelTask) setup(kind Kind, addr netip.Addr) error {
	var err error
	if kind == TUN {
		k.file, err = openTUN("eth0")
	} else {
		k.file, k.mac, err = openVeth()
	}
	if err != nil {
		return err
	}
	l, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	ip := &netlink.Addr{IPNet: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(addr.BitLen(), addr.BitLen())}}
	for _, err := range []error{netlink.LinkSetMTU(l, DefaultMTU), netlink.AddrAdd(l, ip), netlink.LinkSetUp(l)} {
		if err != nil {
			return err
		}
	}
	return netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}})
}

func openTUN(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return nil, err
	}
	ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		return nil, err
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, vnetLen); err != nil {
		return nil, err
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, unix.TUN_F_CSUM|unix.TUN_F_TSO4|unix.TUN_F_TSO6); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "tun"), nil
}

// openVeth keeps both ends in one namespace: only eth0 has an address.
func openVeth() (*os.File, net.HardwareAddr, error) {
	v := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "out"}
	if err := netlink.LinkAdd(v); err != nil {
		return nil, nil, err
	}
	in, err := netlink.LinkByName("eth0")
	if err != nil {
		return nil, nil, err
	}
	out, err := netlink.LinkByName("out")
	if err != nil {
		return nil, nil, err
	}
	if err := netlink.LinkSetARPOff(in); err != nil {
		return nil, nil, err
	}
	if err := netlink.LinkSetMTU(out, 1500); err != nil {
		return nil, nil, err
	}
	if err := netlink.LinkSetUp(out); err != nil {
		return nil, nil, err
	}
	all := int(unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, all)
	if err != nil {
		return nil, nil, err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
		return nil, nil, err
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: uint16(all), Ifindex: out.Attrs().Index}); err != nil {
		return nil, nil, err
	}
	return os.NewFile(uintptr(fd), "packet"), in.Attrs().HardwareAddr, nil
}

// attachKernel attaches a kernel's task to network a of n.
func (n *fabricNode) attachKernel(tb testing.TB, kind Kind, a string) *kernelTask {
	tb.Helper()
	k := newKernelTask(tb, kind, addr(a))
	l, err := n.attach(LinkConfig{TaskID: a, NetworkID: "a", Addrs: []netip.Addr{addr(a)}, Kind: kind, File: k.file, MAC: k.mac})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { l.Close() })
	return k
}

func (k *kernelTask) listen(tb testing.TB, at string) net.Listener {
	tb.Helper()
	var l net.Listener
	var err error
	k.in(func() { l, err = net.Listen("tcp", at) })
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { l.Close() })
	return l
}

func (k *kernelTask) dial(tb testing.TB, to string) *net.TCPConn {
	tb.Helper()
	// net.Dial may create its socket in another thread only when it races addresses; an IP has one.
	var c net.Conn
	var err error
	k.in(func() { c, err = net.DialTimeout("tcp", to, 5*time.Second) })
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

// TestKernelTasks sends megabytes between real kernels: super-packets, merged packets and translated flows are judged by Linux.
func TestKernelTasks(t *testing.T) {
	for _, kind := range []Kind{TUN, Packet} {
		for _, server := range []string{"10.0.16.3", "10.0.16.10"} {
			t.Run(fmt.Sprint(kind, " ", server), func(t *testing.T) {
				n1, n2 := newFabricNode(t, node1), newFabricNode(t, node2)
				join(t, n1, n2)
				tables := vipTables(Backend{Addr: addr(server)})
				n1.set(tables)
				n2.set(tables)
				client := n1.attachKernel(t, kind, "10.0.16.2")
				on := n1
				if server == "10.0.16.10" {
					on = n2
				}
				echoAll(t, on.attachKernel(t, kind, server).listen(t, server+":80"))
				exchange(t, client.dial(t, vip4+":80"), 8<<20)
				for _, n := range []*fabricNode{n1, n2} {
					if d := n.drops(); d["write"]+d["malformed"] > 0 {
						t.Errorf("drops: %v", d)
					}
				}
			})
		}
	}
}

func echoAll(t testing.TB, l net.Listener) {
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
}

// exchange sends n random bytes, and wants them back.
func exchange(t testing.TB, c *net.TCPConn, n int) {
	t.Helper()
	data := make([]byte, n)
	rng := rand.New(rand.NewPCG(1, uint64(n)))
	for i := 0; i+8 <= n; i += 8 {
		data[i], data[i+3] = byte(rng.Uint32()), byte(i>>8)
	}
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _ = c.Write(data)
		_ = c.CloseWrite()
	}()
	h := sha256.New()
	got, err := io.Copy(h, c)
	want := sha256.Sum256(data)
	if err != nil || int(got) != n || !bytes.Equal(h.Sum(nil), want[:]) {
		t.Errorf("%d bytes of %d came back, intact: %v, %v", got, n, bytes.Equal(h.Sum(nil), want[:]), err)
	}
}
