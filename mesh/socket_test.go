package mesh

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"
)

func openBind(t *testing.T, addr string) (*bind, []conn.ReceiveFunc, conn.Endpoint) {
	t.Helper()
	a := netip.MustParseAddrPort(addr)
	b := newBind(a, slog.New(slog.DiscardHandler))
	fns, port, err := b.Open(a.Port())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	ep, err := b.ParseEndpoint(netip.AddrPortFrom(a.Addr(), port).String())
	if err != nil {
		t.Fatal(err)
	}
	return b, fns, ep
}

// batch makes datagrams of the sizes, each with its own contents.
func batch(sizes ...int) [][]byte {
	out := make([][]byte, len(sizes))
	for i, n := range sizes {
		out[i] = bytes.Repeat([]byte{byte(i + 1)}, n)
	}
	return out
}

func equal(n, size int) []int {
	s := make([]int, n)
	for i := range s {
		s[i] = size
	}
	return s
}

func TestBatches(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		for _, gso := range []bool{true, false} {
			for name, sizes := range map[string][]int{
				"one": {100}, "equal": equal(128, 1452), "last is smaller": append(equal(40, 1452), 200),
				"mixed": {100, 200, 200, 50, 1452, 1452, 1452, 32, 32}, "tiny": equal(128, 32), "large": {65000, 65000, 65000},
			} {
				t.Run(fmt.Sprint(addr, " gso=", gso, " ", name), func(t *testing.T) {
					from, _, _ := openBind(t, addr)
					_, fns, to := openBind(t, addr)
					for _, s := range []*socket{from.v4, from.v6} {
						if s != nil && !gso {
							s.gso.Store(false)
						}
					}
					want := batch(sizes...)
					if err := from.Send(want, to); err != nil {
						t.Fatal(err)
					}
					got := receiveAll(t, fns[0], len(want))
					for i := range want {
						if !bytes.Equal(got[i], want[i]) {
							t.Fatalf("datagram %d: %d bytes, want %d", i, len(got[i]), len(want[i]))
						}
					}
				})
			}
		}
	}
}

// receiveAll receives n datagrams, a few at a time.
func receiveAll(t *testing.T, fn conn.ReceiveFunc, n int) [][]byte {
	t.Helper()
	var out [][]byte
	bufs, sizes, eps := make([][]byte, 7), make([]int, 7), make([]conn.Endpoint, 7)
	for i := range bufs {
		bufs[i] = make([]byte, maxUDP)
	}
	watchdog := time.AfterFunc(10*time.Second, func() { panic("datagrams were lost") })
	defer watchdog.Stop()
	for len(out) < n {
		got, err := fn(bufs, sizes, eps)
		if err != nil {
			t.Fatal(err)
		}
		for i := range got {
			if eps[i] == nil || eps[i].DstIP().IsUnspecified() {
				t.Fatalf("endpoint %v", eps[i])
			}
			out = append(out, append([]byte(nil), bufs[i][:sizes[i]]...))
		}
	}
	return out
}

// TestW4SegmentationRefused: a network card without checksum offload answers EIO in mid-stream, a narrow path EINVAL.
func TestW4SegmentationRefused(t *testing.T) {
	for _, tc := range []struct {
		errno   syscall.Errno
		forGood bool
	}{{syscall.EIO, true}, {syscall.EINVAL, false}, {syscall.EMSGSIZE, false}} {
		from, _, _ := openBind(t, "127.0.0.1:0")
		_, fns, to := openBind(t, "127.0.0.1:0")
		if !from.v4.gso.Load() {
			t.Skip("this kernel has no UDP segmentation offload")
		}
		from.v4.fault = func(segmented bool) syscall.Errno {
			if segmented {
				return tc.errno
			}
			return 0
		}
		want := batch(equal(20, 1000)...)
		if err := from.Send(want, to); err != nil {
			t.Fatalf("%v: %v", tc.errno, err)
		}
		receiveAll(t, fns[0], 20)
		if from.v4.gso.Load() == tc.forGood {
			t.Errorf("%v: offload is left out for good: %v, want %v", tc.errno, !from.v4.gso.Load(), tc.forGood)
		}
	}
}

func TestBindCloses(t *testing.T) {
	b, fns, to := openBind(t, "127.0.0.1:0")
	done := make(chan error, 1)
	go func() {
		_, err := fns[0](batch(100), make([]int, 1), make([]conn.Endpoint, 1))
		done <- err
	}()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("receive: %v", err)
	}
	if err := b.Send(batch(1), to); err == nil {
		t.Error("sent after close")
	}
	if _, _, err := b.Open(0); err != nil {
		t.Errorf("open again: %v", err)
	}
}

func TestRunLength(t *testing.T) {
	for _, tc := range []struct {
		sizes []int
		want  int
	}{
		{[]int{10}, 1}, {[]int{10, 10, 10}, 3}, {[]int{10, 10, 5, 10}, 3}, {[]int{10, 11}, 1}, {equal(100, 10), maxSegments}, {equal(64, 1452), maxGSO / 1452},
	} {
		if got := runLength(batch(tc.sizes...)); got != tc.want {
			t.Errorf("%v: %d, want %d", tc.sizes, got, tc.want)
		}
	}
}
