package sandbox_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meshswarm/meshswarm/agent/sandbox"
	"github.com/meshswarm/meshswarm/agent/sandbox/sandboxtest"
)

// host is one namespace with a sandbox and a task in it.
type host struct {
	t   *testing.T
	dir string
	in  io.WriteCloser
	out *bufio.Scanner
}

// start needs user namespaces, which unprivileged users have almost everywhere; the race detector does not mind.
func start(t *testing.T, spec sandbox.Spec) *host {
	t.Helper()
	// Longer than a unix socket's path may be.
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 30))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := spec.Write(dir); err != nil {
		t.Fatal(err)
	}
	c := exec.Command("/proc/self/exe", "task", dir)
	c.Stderr = os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("user namespaces: %v", err)
		}
		t.Skipf("needs user namespaces: %v", err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := c.Wait(); err != nil {
			t.Errorf("sandbox ended with %v, not on its signal", err)
		}
	})
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	return &host{t: t, dir: dir, in: in, out: lines}
}

func (h *host) do(format string, args ...any) string {
	h.t.Helper()
	fmt.Fprintf(h.in, format+"\n", args...)
	if !h.out.Scan() {
		h.t.Fatalf("task ended at %q", fmt.Sprintf(format, args...))
	}
	if strings.HasPrefix(h.out.Text(), "error: ") {
		h.t.Fatalf("%s: %s", fmt.Sprintf(format, args...), h.out.Text())
	}
	return h.out.Text()
}

func (h *host) ask() *sandbox.Handover {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), 20*time.Second)
	defer cancel()
	got, err := sandbox.Ask(ctx, h.dir)
	if err != nil {
		h.t.Fatal(err)
	}
	return got
}

func kinds(t *testing.T, test func(t *testing.T, kind sandbox.Kind)) {
	t.Run("tun", func(t *testing.T) {
		f, err := os.OpenFile(sandbox.TUNPath, os.O_RDWR, 0)
		if err != nil {
			t.Skip("TUN is closed to this user: ", err)
		}
		f.Close()
		test(t, sandbox.KindTUN)
	})
	t.Run("packet", func(t *testing.T) { test(t, sandbox.KindPacket) })
}

func spec(kind sandbox.Kind, last int) sandbox.Spec {
	prefix := func(format string) netip.Prefix { return netip.MustParsePrefix(fmt.Sprintf(format, last)) }
	return sandbox.Spec{Kind: kind, Devices: []sandbox.DeviceSpec{
		{
			Name: "eth0", NetworkID: "net0", MTU: 1420, Default: true,
			Addrs:    []netip.Prefix{prefix("10.0.16.%d/24"), prefix("fd00:16::%d/64")},
			Gateways: []netip.Addr{netip.MustParseAddr("10.0.16.1"), netip.MustParseAddr("fd00:16::1")},
		},
		{
			Name: "eth1", NetworkID: "net1", MTU: 1400,
			Addrs:    []netip.Prefix{prefix("10.0.17.%d/24")},
			Gateways: []netip.Addr{netip.MustParseAddr("10.0.17.1")},
		},
	}}
}

func TestTwoTasksTalk(t *testing.T) {
	kinds(t, func(t *testing.T, kind sandbox.Kind) {
		a, b := start(t, spec(kind, 5)), start(t, spec(kind, 6))
		sw := sandboxtest.NewSwitch()
		defer sw.Close()
		sw.Plug(a.ask())
		sw.Plug(b.ask())
		for _, addr := range []string{"10.0.16.6:80", "10.0.17.6:80", "[fd00:16::6]:80"} {
			b.do("listen %s", addr)
			a.do("dial %s", addr)
			a.do("send 4000000")
		}
		if sw.Super.Load() == 0 {
			t.Error("no super-packet was seen: offloads are off")
		}
		if got := a.do("udp 203.0.113.9:53"); !strings.HasPrefix(got, "10.0.16.5:") {
			t.Errorf("the outside is reached from %s, not from the default device", got)
		}
		if got := a.do("devices"); !strings.Contains(got, "eth0 1420 [10.0.16.5/24 fd00:16::5/64]") || strings.Contains(got, "fe80") {
			t.Errorf("devices: %s", got)
		}
	})
}

// An agent that restarts asks again: connections through the devices go on.
func TestHandoverAgain(t *testing.T) {
	kinds(t, func(t *testing.T, kind sandbox.Kind) {
		a, b := start(t, spec(kind, 5)), start(t, spec(kind, 6))
		sw := sandboxtest.NewSwitch()
		sw.Plug(a.ask())
		sw.Plug(b.ask())
		b.do("listen 10.0.16.6:80")
		a.do("dial 10.0.16.6:80")
		a.do("send 100000")
		sw.Close()

		again := sandboxtest.NewSwitch()
		defer again.Close()
		again.Plug(a.ask())
		again.Plug(b.ask())
		a.do("send 100000")

		got, err := sandbox.Sockets(t.Context(), b.dir)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != 1 || got[0].Local != netip.MustParseAddrPort("10.0.16.6:80") || got[0].Remote.Addr() != netip.MustParseAddr("10.0.16.5") {
			t.Errorf("sockets: %v", got)
		}
	})
}

// Who waits for an answer, and who does not; what is the task's own question, and what comes to it.
func TestTraffic(t *testing.T) {
	kinds(t, func(t *testing.T, kind sandbox.Kind) {
		a, b := start(t, spec(kind, 5)), start(t, spec(kind, 6))
		sw := sandboxtest.NewSwitch()
		defer sw.Close()
		sw.Plug(a.ask())
		sw.Plug(b.ask())
		if got := b.traffic(); got.Connections != 0 || got.Silent != -1 {
			t.Errorf("nobody is connected: %+v", got)
		}
		b.do("listen 10.0.16.6:80")
		b.do("hear [fd00:16::6]:81")
		a.do("dial 10.0.16.6:80")
		a.do("send 1000")
		b.traffics("answered", func(got sandbox.Traffic) bool {
			return got.Connections == 1 && got.Waiting == 0 && got.Unsent == 0 && got.Silent >= 50
		})
		a.do("dial [fd00:16::6]:81")
		b.traffics("nothing was asked yet", func(got sandbox.Traffic) bool { return got.Connections == 2 && got.Waiting == 1 && got.Silent >= 50 })
		a.do("say hello?")
		b.traffics("a question", func(got sandbox.Traffic) bool { return got.Connections == 2 && got.Waiting == 1 })
		b.do("stream 10.0.16.6:82")
		a.do("dial 10.0.16.6:82")
		b.traffics("a stream", func(got sandbox.Traffic) bool { return got.Connections == 3 && got.Answering == 1 })
		if got := a.traffic(); got.Connections != 0 || got.Waiting != 0 {
			t.Errorf("the one that asked: %+v", got)
		}
	})
}

func (h *host) traffic() sandbox.Traffic {
	h.t.Helper()
	got, err := sandbox.AskTraffic(h.t.Context(), h.dir)
	if err != nil {
		h.t.Fatal(err)
	}
	return got
}

// traffics waits for traffic as wanted.
func (h *host) traffics(what string, ok func(sandbox.Traffic) bool) {
	h.t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for {
		got := h.traffic()
		if ok(got) {
			return
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("%s: %+v", what, got)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestNoPrivilegeIsLeft(t *testing.T) {
	h := start(t, spec(sandbox.KindPacket, 5))
	h.ask().Close()
	status := h.do("status")
	for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
		if !strings.Contains(status, set+":\t0000000000000000;") {
			t.Errorf("%s is not empty in %s", set, status)
		}
	}
	if !strings.Contains(status, "NoNewPrivs:\t1;") {
		t.Error("no_new_privs is not set")
	}
	t.Log(h.do("memory"))
}

func TestDNSSockets(t *testing.T) {
	h := start(t, sandbox.Spec{})
	got := h.ask()
	defer got.Close()
	udp, err := net.FilePacketConn(got.DNSUDP)
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	tcp, err := net.FileListener(got.DNSTCP)
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	if udp.LocalAddr().String() != "127.0.0.11:53" || tcp.Addr().String() != "127.0.0.11:53" {
		t.Errorf("DNS sockets at %s and %s", udp.LocalAddr(), tcp.Addr())
	}
	h.do("dial 127.0.0.11:53")
	c, err := tcp.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

func TestSetupErrorIsTold(t *testing.T) {
	dir := t.TempDir()
	c := exec.Command("/proc/self/exe", "sandbox", dir)
	if err := c.Run(); err == nil {
		t.Fatal("a sandbox without spec goes on")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err := sandbox.Ask(ctx, dir)
	if err == nil || !strings.Contains(err.Error(), "read sandbox spec") {
		t.Errorf("got %v", err)
	}
}
