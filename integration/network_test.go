package integration

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// probe runs a probe command inside a task's container and gives its one line; errors are lines too.
func (l *lab) probe(t *testing.T, container string, args ...string) string {
	t.Helper()
	out, err := runCommand("docker", []string{"DOCKER_HOST=" + l.engine}, append([]string{"exec", container, "/probe"}, args...)...)
	if err != nil && out == "" {
		t.Fatalf("probe %s: %v", strings.Join(args, " "), err)
	}
	return strings.TrimSpace(out)
}

// addrIn is a task's address in a network, as `docker inspect` of the task tells.
func (l *lab) addrIn(t *testing.T, container, network string) string {
	t.Helper()
	task := container[strings.LastIndexByte(container, '.')+1:]
	out := l.docker(t, 1, "inspect", "--type", "task", "--format",
		`{{range .NetworksAttachments}}{{.Network.Spec.Name}} {{index .Addresses 0}}{{"\n"}}{{end}}`, task)
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == network {
			p, err := netip.ParsePrefix(f[1])
			if err != nil {
				t.Fatal(err)
			}
			return p.Addr().String()
		}
	}
	t.Fatalf("%s has no address in %s:\n%s", container, network, out)
	return ""
}

// TestNetwork is what tasks may reach and what they may not.
func TestNetwork(t *testing.T) {
	l := newLab(t, 2, 1)
	l.on(t, 1, "network", "create", "red")
	l.on(t, 1, "network", "create", "blue")
	l.on(t, 1, "network", "create", "--internal", "--subnet", "10.77.0.0/24", "closed")
	l.deploy(t, "--name", "a", "--network", "red", "--hostname", "alpha", "--constraint", "node.hostname==node1", imageProbe)
	l.deploy(t, "--name", "b", "--network", "name=red,alias=bee", "--replicas", "2", "--publish", "9000:7000/udp", "--publish", "9001:8080", imageProbe)
	l.deploy(t, "--name", "c", "--network", "blue", "--constraint", "node.hostname==node2", imageProbe)
	l.deploy(t, "--name", "d", "--network", "closed", "--constraint", "node.hostname==node1", imageProbe)
	l.deploy(t, "--name", "h", "--constraint", "node.hostname==node2", "--publish", "published=9100,target=8080,mode=host", imageProbe)
	a, c, d := l.taskOn(t, "a", "node1"), l.taskOn(t, "c", "node2"), l.taskOn(t, "d", "node1")
	b2 := l.taskOn(t, "b", "node2")
	vip := func(service, name string) string {
		out := l.probe(t, map[string]string{"red": a, "blue": c, "closed": d}[name], "lookup", service)
		return strings.TrimPrefix(out, "NOERROR ")
	}
	bVIP := vip("b", "red")
	aAddr, b2Addr := l.addrIn(t, a, "red"), l.addrIn(t, b2, "red")

	t.Run("dns", func(t *testing.T) {
		tests := map[string]struct{ args, want string }{
			"service is its VIP":     {"b A", "NOERROR " + bVIP},
			"alias":                  {"bee A", "NOERROR " + bVIP},
			"any case":               {"B A", "NOERROR " + bVIP},
			"over TCP":               {"b A tcp:127.0.0.11:53", "NOERROR " + bVIP},
			"container name":         {b2 + " A", "NOERROR " + b2Addr},
			"host name":              {"alpha A", "NOERROR " + aAddr},
			"AAAA of a v4 name":      {"b AAAA", "NOERROR"},
			"unknown in other nets":  {"d A", ""},
			"at the network gateway": {"b A " + gatewayOf(aAddr) + ":53", "NOERROR " + bVIP},
			"gateway over TCP":       {"b A tcp:" + gatewayOf(aAddr) + ":53", "NOERROR " + bVIP},
			"PTR":                    {reverse(b2Addr) + " PTR", "NOERROR " + b2 + "."},
		}
		for name, tt := range tests {
			t.Run(name, func(t *testing.T) {
				got := l.probe(t, a, append([]string{"lookup"}, strings.Fields(tt.args)...)...)
				if tt.want == "" && strings.HasPrefix(got, "NOERROR 10.") || tt.want != "" && got != tt.want {
					t.Errorf("lookup %s: %q, want %q", tt.args, got, tt.want)
				}
			})
		}
		if got := strings.Fields(l.probe(t, a, "lookup", "tasks.b")); len(got) != 3 {
			t.Errorf("tasks.b: %v, want both tasks", got)
		}
	})

	t.Run("reach", func(t *testing.T) {
		tests := map[string]struct {
			from, cmd, to, want string
		}{
			"VIP by name":                     {a, "tcp", "b:8080", "open"},
			"task on the other node":          {a, "tcp", b2Addr + ":8080", "open"},
			"ping a VIP":                      {a, "ping", bVIP, "pong"},
			"ping a task on the other node":   {a, "ping", b2Addr, "pong"},
			"own VIP, landing on itself":      {a, "tcp", "a:8080", "open"},
			"VIP port nobody serves":          {a, "tcp", bVIP + ":81", "refused"},
			"another network's task":          {c, "tcp", aAddr + ":8080", "!open"},
			"another network's VIP":           {c, "tcp", bVIP + ":8080", "!open"},
			"another network by ping":         {c, "ping", aAddr, "!pong"},
			"a node's mesh address":           {a, "tcp", "100.127.0.1:2378", "!open"},
			"gateway has no open port but 53": {a, "tcp", gatewayOf(aAddr) + ":2377", "!open"},
		}
		for name, tt := range tests {
			t.Run(name, func(t *testing.T) {
				got := l.probe(t, tt.from, tt.cmd, tt.to)
				if want, not := strings.CutPrefix(tt.want, "!"); (got == want) == not {
					t.Errorf("%s %s: %q, want %s", tt.cmd, tt.to, got, tt.want)
				}
			})
		}
		got := strings.Fields(l.probe(t, a, "udp", "b:7000", "hello"))
		if len(got) != 3 || got[2] != "hello" || !strings.HasPrefix(got[1], aAddr+":") {
			t.Errorf("UDP to a VIP: %v, want an echo that names %s", got, aAddr)
		}
	})

	t.Run("host loopback", func(t *testing.T) {
		canary, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer canary.Close()
		hit := make(chan struct{}, 16)
		go func() {
			for {
				conn, err := canary.Accept()
				if err != nil {
					return
				}
				hit <- struct{}{}
				conn.Close()
			}
		}()
		port := canary.Addr().(*net.TCPAddr).Port
		for _, ip := range []string{"127.0.0.1", gatewayOf(aAddr), bVIP, "10.0.0.1", "100.127.0.1", "169.254.1.1"} {
			l.probe(t, a, "tcp", fmt.Sprintf("%s:%d", ip, port))
		}
		select {
		case <-hit:
			t.Error("a task reached the host's loopback")
		default:
		}
	})

	t.Run("egress", func(t *testing.T) {
		host := hostAddr(t)
		canary, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
		if err != nil {
			t.Fatal(err)
		}
		defer canary.Close()
		go func() {
			for {
				conn, err := canary.Accept()
				if err != nil {
					return
				}
				conn.Close()
			}
		}()
		if got := l.probe(t, a, "tcp", canary.Addr().String()); got != "open" {
			t.Errorf("to the outside: %s", got)
		}
		if got := l.probe(t, d, "tcp", canary.Addr().String()); got == "open" {
			t.Error("an internal network reached the outside")
		}
	})

	t.Run("published", func(t *testing.T) {
		for i := 1; i <= 2; i++ {
			c, err := net.Dial("udp", net.JoinHostPort(addrOf(i), "9000"))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := c.Write([]byte("ping")); err != nil {
				t.Fatal(err)
			}
			if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 200)
			n, err := c.Read(buf)
			if err != nil || !strings.HasSuffix(string(buf[:n]), " ping") {
				t.Errorf("UDP to node%d: %q %v", i, buf[:n], err)
			}
		}
		if out, err := fetch("http://127.0.0.2:9100/", 5*time.Second); err != nil {
			t.Errorf("host-mode port where the task runs: %v %s", err, out)
		}
		if out, err := fetch("http://127.0.0.1:9100/", 5*time.Second); err == nil {
			t.Errorf("host-mode port answers where no task runs: %s", out)
		}
	})
}

func gatewayOf(addr string) string {
	a := netip.MustParseAddr(addr)
	return netip.PrefixFrom(a, 24).Masked().Addr().Next().String()
}

func reverse(addr string) string {
	b := netip.MustParseAddr(addr).As4()
	return fmt.Sprintf("%d.%d.%d.%d.in-addr.arpa", b[3], b[2], b[1], b[0])
}

// hostAddr is an address of this machine that is not loopback.
func hostAddr(t *testing.T) string {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && !p.Addr().IsLoopback() {
			return p.Addr().String()
		}
	}
	t.Fatal("this machine has loopback addresses only: nothing can play the outside")
	return ""
}
