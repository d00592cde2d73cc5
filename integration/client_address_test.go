package integration

import (
	"bufio"
	"net"
	"strings"
	"testing"
	"time"
)

// TestClientAddress: a task sees who asks, be it on the node that was asked or on another one. A client on a node's own
// loopback address has none that means anything to a task, and appears as the network's gateway.
func TestClientAddress(t *testing.T) {
	l := newLab(t, 1, 1)
	host := hostAddr(t)
	token := strings.TrimSpace(l.on(t, 1, "join-token", "-q", "worker"))
	n := newSoleNode(t, l)
	n.up(t, "--join", addrOf(1)+":2377", "--token", token, "--listen-addr", "127.0.0.75", "--publish-addr", host, "--hostname", "gate", "--docker-host", l.engine)
	l.deploy(t, "--name", "far", "--constraint", "node.hostname==node1", "--publish", "8121:8080", "--publish", "7121:7000/udp", imageProbe)
	l.deploy(t, "--name", "near", "--constraint", "node.hostname==gate", "--publish", "8122:8080", "--publish", "7122:7000/udp",
		"--publish", "published=8123,target=8080,mode=host", "--publish", "published=7123,target=7000,protocol=udp,mode=host", imageProbe)

	for name, tt := range map[string]struct {
		network, from, to string
		seen              bool
	}{
		"task on another node":           {"tcp", host, host + ":8121", true},
		"task on this node":              {"tcp", host, host + ":8122", true},
		"host mode":                      {"tcp", host, host + ":8123", true},
		"UDP to a task on another node":  {"udp", host, host + ":7121", true},
		"UDP to a task on this node":     {"udp", host, host + ":7122", true},
		"UDP in host mode":               {"udp", host, host + ":7123", true},
		"loopback":                       {"tcp", "127.0.0.1", "127.0.0.1:8121", false},
		"loopback, task on another node": {"tcp", "127.0.0.1", "127.0.0.1:8122", false},
	} {
		t.Run(name, func(t *testing.T) {
			var seen, own string
			eventually(t, 10*time.Second, "an answer", func() (err error) {
				seen, own, err = askWho(tt.network, tt.from, tt.to)
				return err
			})
			seenIP, _, err := net.SplitHostPort(seen)
			if err != nil {
				t.Fatalf("the task saw %q", seen)
			}
			if tt.seen && seenIP != host {
				t.Errorf("the task saw %s, the client is %s", seen, own)
			}
			if !tt.seen && !strings.HasSuffix(seenIP, ".0.1") {
				t.Errorf("the task saw %s, want the gateway of the ingress network", seen)
			}
		})
	}
}

// askWho asks the probe who asks.
func askWho(network, from, to string) (seen, own string, err error) {
	d := net.Dialer{Timeout: 5 * time.Second}
	if network == "tcp" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	} else {
		d.LocalAddr = &net.UDPAddr{IP: net.ParseIP(from)}
	}
	c, err := d.Dial(network, to)
	if err != nil {
		return "", "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return "", "", err
	}
	// Over UDP the request is what comes back, after the names.
	if _, err := c.Write([]byte("GET / HTTP/1.0\r\n\r\n")); err != nil {
		return "", "", err
	}
	r := bufio.NewReader(c)
	line, err := r.ReadString('\n')
	for network == "tcp" && err == nil && strings.TrimSpace(line) != "" {
		line, err = r.ReadString('\n')
	}
	if network == "tcp" && err == nil {
		line, err = r.ReadString('\n')
	}
	if err != nil {
		return "", "", err
	}
	f := strings.Fields(line) // host client …
	if len(f) < 2 {
		return "", "", net.UnknownNetworkError(line)
	}
	return f[1], c.LocalAddr().String(), nil
}
