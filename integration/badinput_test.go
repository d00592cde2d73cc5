package integration

import (
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// up runs `meshswarm up` for one more node, which is expected to refuse.
func (l *lab) upRefused(t *testing.T, want string, args ...string) {
	t.Helper()
	dir := t.TempDir()
	out, err := l.run(append([]string{"up", "--data-dir", filepath.Join(dir, "d"), "--socket", filepath.Join(dir, "s"), "--listen-addr", "127.0.0.9",
		"--docker-host", l.engine}, args...)...)
	if err == nil || !strings.Contains(out, want) {
		t.Errorf("up %s: %v\n%s\nwant an error with %q", strings.Join(args, " "), err, out, want)
	}
}

// TestBadInput: whatever a person gets wrong ends in an error that says what to do, and the swarm goes on.
func TestBadInput(t *testing.T) {
	l := newLab(t, 2, 1)
	token := strings.TrimSpace(l.on(t, 1, "join-token", "-q", "worker"))
	other := newToken(t, l)

	t.Run("up", func(t *testing.T) {
		manager := addrOf(1) + ":2377"
		l.upRefused(t, "token", "--join", manager, "--token", "SWMTKN-1-nonsense")
		l.upRefused(t, "another swarm", "--join", manager, "--token", other)
		l.upRefused(t, "join-token", "--join", manager, "--token", token[:len(token)-4]+"0000")
		l.upRefused(t, "127.0.0.8:2377", "--join", "127.0.0.8:2377", "--token", token)
		l.upRefused(t, "--docker-host", "--docker-host", "unix:///nonexistent/engine.sock")
		l.upRefused(t, "--listen-addr", "--listen-addr", addrOf(1))
		l.upRefused(t, "allows 107", "--socket", "/tmp/"+strings.Repeat("x", 200))
		l.upRefused(t, "--data-dir", "--data-dir", "/proc/nowhere")
		l.upRefused(t, "publish-addr", "--publish-addr", "eth0")
	})
	t.Run("second up", func(t *testing.T) {
		out, err := l.run("up", "--data-dir", filepath.Join(l.dir, "node1", "data"))
		if err == nil || !strings.Contains(out, "meshswarm.sock") {
			t.Errorf("second up: %v\n%s", err, out)
		}
	})
	t.Run("no node", func(t *testing.T) {
		out, err := l.run("-H", "unix:///tmp/no-such.sock", "service", "ls")
		if err == nil || !strings.Contains(out, "meshswarm up") {
			t.Errorf("no node: %v\n%s", err, out)
		}
	})
	t.Run("worker's socket", func(t *testing.T) {
		out, err := l.run("-H", l.socket(2), "service", "ls")
		if err == nil || !strings.Contains(out, "manager") {
			t.Errorf("on a worker: %v\n%s", err, out)
		}
	})

	t.Run("unknown image", func(t *testing.T) {
		l.on(t, 1, "service", "create", "--detach", "--name", "noimage", "--restart-condition", "none", "meshswarm-test/no-such-image:1")
		l.psShows(t, "noimage", "meshswarm-test/no-such-image:1")
	})
	t.Run("failing program", func(t *testing.T) {
		l.on(t, 1, "service", "create", "--detach", "--name", "failing", "--restart-condition", "none", imageProbe, "/probe", "fail", "3")
		l.psShows(t, "failing", "non-zero exit (3)")
	})
	t.Run("impossible placement", func(t *testing.T) {
		l.on(t, 1, "service", "create", "--detach", "--name", "nowhere", "--constraint", "node.hostname==mars", imageProbe)
		l.psShows(t, "nowhere", "no suitable node (scheduling constraints not satisfied on 2 nodes)")
	})
	t.Run("port taken on a host", func(t *testing.T) {
		holder, err := net.Listen("tcp", addrOf(2)+":8085")
		if err != nil {
			t.Fatal(err)
		}
		defer holder.Close()
		l.on(t, 1, "service", "create", "--detach", "--name", "taken", "--publish", "8085:8080", imageProbe)
		l.psShows(t, "taken", "8085/tcp")
		l.psShows(t, "taken", "node2")
		if out, err := fetch("http://127.0.0.1:8085/", 5*time.Second); err != nil {
			t.Errorf("the port on the other node: %v %s", err, out)
		}
		if err := holder.Close(); err != nil {
			t.Fatal(err)
		}
		eventually(t, 30*time.Second, "the port once it is free", func() error {
			_, err := fetch("http://127.0.0.2:8085/", 5*time.Second)
			return err
		})
	})
	t.Run("exhausted subnet", func(t *testing.T) {
		l.on(t, 1, "network", "create", "--subnet", "10.99.0.0/29", "tiny")
		l.on(t, 1, "service", "create", "--detach", "--name", "many", "--replicas", "8", "--network", "tiny", imageProbe)
		l.psShows(t, "many", "no free address")
		l.on(t, 1, "service", "scale", "--detach", "many=2")
		l.backTo(t, 30*time.Second, "many", "2/2")
	})

	t.Run("garbage", func(t *testing.T) {
		junk := make([]byte, 64<<10)
		if _, err := rand.Read(junk); err != nil {
			t.Fatal(err)
		}
		for range 50 {
			if c, err := net.Dial("tcp", addrOf(1)+":2377"); err == nil {
				_, _ = c.Write(junk) // refused at some byte
				c.Close()
			}
			if c, err := net.Dial("udp", addrOf(1)+":4789"); err == nil {
				for i := 0; i < len(junk); i += 1200 {
					_, _ = c.Write(junk[i:min(i+1200, len(junk))])
				}
				c.Close()
			}
			if c, err := net.Dial("unix", strings.TrimPrefix(l.socket(1), "unix://")); err == nil {
				_, _ = c.Write(junk)
				c.Close()
			}
		}
		if out := l.on(t, 1, "node", "ls", "--format", "{{.Hostname}} {{.Status}}"); strings.Count(out, "Ready") != 2 {
			t.Errorf("after the garbage:\n%s", out)
		}
	})
}

// psShows waits until a service's tasks tell something.
func (l *lab) psShows(t *testing.T, service, want string) {
	t.Helper()
	eventually(t, 30*time.Second, fmt.Sprintf("%q in service ps %s", want, service), func() error {
		out := l.on(t, 1, "service", "ps", "--no-trunc", service)
		if !strings.Contains(out, want) {
			return fmt.Errorf("service ps says:\n%s", out)
		}
		return nil
	})
}

// newToken is a valid token of another swarm.
func newToken(t *testing.T, l *lab) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "msw")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "s")
	if out, err := l.run("up", "--detach", "--data-dir", filepath.Join(dir, "d"), "--socket", socket, "--listen-addr", "127.0.0.7",
		"--publish-addr", "127.0.0.7", "--docker-host", l.engine); err != nil {
		t.Fatalf("another swarm: %v\n%s", err, out)
	}
	out, err := l.run("-H", "unix://"+socket, "join-token", "-q", "worker")
	if err != nil {
		t.Fatalf("token of another swarm: %v\n%s", err, out)
	}
	if out, err := l.run("-H", "unix://"+socket, "leave", "--force"); err != nil {
		t.Fatalf("leave the other swarm: %v\n%s", err, out)
	}
	return strings.TrimSpace(out)
}
