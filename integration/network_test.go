package integration

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
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
	l.deploy(t, "--name", "b", "--network", "name=red,alias=bee", "--replicas", "2", "--hostname", "{{.Service.Name}}-on-{{.Node.Hostname}}", "--publish", "9000:7000/udp", "--publish", "9001:8080", imageProbe)
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
			"service is its VIP":      {"b A", "NOERROR " + bVIP},
			"alias":                   {"bee A", "NOERROR " + bVIP},
			"any case":                {"B A", "NOERROR " + bVIP},
			"over TCP":                {"b A tcp:127.0.0.11:53", "NOERROR " + bVIP},
			"container name":          {b2 + " A", "NOERROR " + b2Addr},
			"host name":               {"alpha A", "NOERROR " + aAddr},
			"host name of a template": {"b-on-node2 A", "NOERROR " + b2Addr},
			"AAAA of a v4 name":       {"b AAAA", "NOERROR"},
			"unknown in other nets":   {"d A", ""},
			"at the network gateway":  {"b A " + gatewayOf(aAddr) + ":53", "NOERROR " + bVIP},
			"gateway over TCP":        {"b A tcp:" + gatewayOf(aAddr) + ":53", "NOERROR " + bVIP},
			"PTR":                     {reverse(b2Addr) + " PTR", "NOERROR " + b2 + "."},
			"AAAA of an alias":        {"bee AAAA", "NOERROR"},
		}
		for name, tt := range tests {
			t.Run(name, func(t *testing.T) {
				got := l.probe(t, a, append([]string{"lookup"}, strings.Fields(tt.args)...)...)
				if tt.want == "" && strings.HasPrefix(got, "NOERROR 10.") || tt.want != "" && got != tt.want {
					t.Errorf("lookup %s: %q, want %q", tt.args, got, tt.want)
				}
			})
		}
		for _, name := range []string{"tasks.b", "tasks.bee"} {
			if got := strings.Fields(l.probe(t, a, "lookup", name)); len(got) != 3 || !slices.Contains(got, b2Addr) {
				t.Errorf("%s: %v, want both tasks", name, got)
			}
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

	t.Run("ping the outside", func(t *testing.T) {
		if !mayPing(t) {
			t.Skip("net.ipv4.ping_group_range does not let this account ping")
		}
		if got := l.probe(t, a, "ping", hostAddr(t)); got != "pong" {
			t.Errorf("ping to the outside: %s", got)
		}
		if got := l.probe(t, d, "ping", hostAddr(t)); got == "pong" {
			t.Error("an internal network pinged the outside")
		}
	})

	t.Run("outside DNS", func(t *testing.T) {
		server := serveNames(t, hostAddr(t))
		l.deploy(t, "--name", "asker", "--network", "red", "--dns", server, imageProbe)
		asker := l.anyTask(t, "asker")
		for question, want := range map[string]string{
			"host.example.test":                        "NOERROR 198.51.100.1",
			"host.example.test A tcp:127.0.0.11:53":    "NOERROR 198.51.100.1",
			"edns.example.test TXT 127.0.0.11:53 1232": `NOERROR "1232"`, // the client's EDNS size reaches the server
			"edns.example.test TXT 127.0.0.11:53":      `NOERROR "none"`,
			"nobody.example.test":                      "NXDOMAIN",
			"b":                                        "NOERROR " + bVIP, // what the swarm knows is not asked outside
		} {
			if got := l.probe(t, asker, append([]string{"lookup"}, strings.Fields(question)...)...); got != want {
				t.Errorf("lookup %s: %s, want %s", question, got, want)
			}
		}
		// An answer that fits no datagram: all of it over TCP, what fits over UDP.
		if got := strings.Fields(l.probe(t, asker, "lookup", "many.example.test", "A", "tcp:127.0.0.11:53")); len(got) != 1+manyAddrs {
			t.Errorf("over TCP: %d records, want %d", len(got)-1, manyAddrs)
		}
		if got := strings.Fields(l.probe(t, asker, "lookup", "many.example.test")); len(got) < 2 || len(got) > manyAddrs {
			t.Errorf("over UDP: %d records, want some of %d", len(got)-1, manyAddrs)
		}
		// A network without a way out asks nobody there.
		l.deploy(t, "--name", "mute", "--network", "closed", "--dns", server, imageProbe)
		if got := l.probe(t, l.anyTask(t, "mute"), "lookup", "host.example.test"); strings.Contains(got, "198.51.100.1") {
			t.Errorf("an internal network asked outside: %s", got)
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
		if out := l.on(t, 1, "service", "ps", "h", "--format", "{{.Ports}}"); strings.TrimSpace(out) != "*:9100->8080/tcp" {
			t.Errorf("service ps shows the host-mode port as %q", out)
		}
		if out, err := fetch("http://127.0.0.1:9100/", 5*time.Second); err == nil {
			t.Errorf("host-mode port answers where no task runs: %s", out)
		}
	})
}

// mayPing tells whether this account, and so its nodes, may open ICMP sockets (icmp(7)).
func mayPing(t *testing.T) bool {
	t.Helper()
	if os.Geteuid() == 0 {
		return true
	}
	b, err := os.ReadFile("/proc/sys/net/ipv4/ping_group_range")
	if err != nil {
		t.Fatal(err)
	}
	var from, to int
	if _, err := fmt.Sscan(string(b), &from, &to); err != nil {
		t.Fatal(err)
	}
	groups, err := os.Getgroups()
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(append(groups, os.Getgid()), func(g int) bool { return from <= g && g <= to })
}

// manyAddrs is how many addresses many.example.test has: too many for a datagram.
const manyAddrs = 300

// serveNames is a name server of the outside, at port 53 because a service's --dns has no port.
func serveNames(t *testing.T, addr string) string {
	t.Helper()
	answer := dns.HandlerFunc(func(w dns.ResponseWriter, req *dns.Msg) {
		m := new(dns.Msg).SetReply(req)
		q, size := req.Question[0], dns.MinMsgSize
		head := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: 1}
		edns := req.IsEdns0()
		if edns != nil {
			size = int(edns.UDPSize())
			m.SetEdns0(dns.DefaultMsgSize, false)
		}
		switch {
		case q.Name == "edns.example.test." && edns == nil:
			m.Answer = append(m.Answer, &dns.TXT{Hdr: head, Txt: []string{"none"}})
		case q.Name == "edns.example.test.":
			m.Answer = append(m.Answer, &dns.TXT{Hdr: head, Txt: []string{fmt.Sprint(size)}})
		case q.Name == "host.example.test.":
			m.Answer = append(m.Answer, &dns.A{Hdr: head, A: net.IPv4(198, 51, 100, 1)})
		case q.Name == "many.example.test.":
			for i := range manyAddrs {
				m.Answer = append(m.Answer, &dns.A{Hdr: head, A: net.IPv4(198, 51, byte(i>>8), byte(i))})
			}
		default:
			m.Rcode = dns.RcodeNameError
		}
		if w.LocalAddr().Network() == "udp" {
			m.Truncate(size)
		}
		_ = w.WriteMsg(m) // a client that went away asks again
	})
	grams, err := net.ListenPacket("udp", net.JoinHostPort(addr, "53"))
	if errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EADDRINUSE) {
		t.Skipf("no name server can be played here: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	streams, err := net.Listen("tcp", net.JoinHostPort(addr, "53"))
	if err != nil {
		grams.Close()
		t.Fatal(err)
	}
	for _, s := range []*dns.Server{{PacketConn: grams, Handler: answer}, {Listener: streams, Handler: answer}} {
		up, ended := make(chan struct{}), make(chan error, 1)
		s.NotifyStartedFunc = func() { close(up) }
		go func() { ended <- s.ActivateAndServe() }()
		<-up
		t.Cleanup(func() {
			if err := errors.Join(s.Shutdown(), <-ended); err != nil {
				t.Errorf("name server: %v", err)
			}
		})
	}
	return addr
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
