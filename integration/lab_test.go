package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/client"
)

// Where the tests find what they need. scripts/test.sh sets them; by hand the defaults do.
const (
	envEngine = "MESHSWARM_TEST_ENGINE" // address of the engine; default the usual socket
	envBinary = "MESHSWARM_TEST_BINARY" // a built meshswarm; default bin/meshswarm of this checkout
	envDevice = "MESHSWARM_TEST_DEVICE" // tun or veth: what kind of device tasks get; default what the node chooses
)

// Images that scripts make on the spot.
const (
	imageProbe = "meshswarm-example/probe:1"
	imageWeb   = "meshswarm-example/web:1"
	imageRedis = "meshswarm-example/redis:1"
	imageNginx = "meshswarm-example/nginx:1"
)

// engineHost is the engine under test. Without one the test is skipped, but never in CI: there it fails.
func engineHost(t testing.TB) string {
	t.Helper()
	host := os.Getenv(envEngine)
	if host == "" {
		host = client.DefaultDockerHost
	}
	c, err := client.NewClientWithOpts(client.WithHost(host), client.WithAPIVersionNegotiation())
	if err == nil {
		defer c.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err = c.Ping(ctx)
	}
	if err == nil {
		return host
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("no container engine at %s: %v", host, err)
	}
	t.Skipf("no container engine at %s (`make setup` installs one): %v", host, err)
	return ""
}

// binary is the meshswarm under test.
func binary(t testing.TB) string {
	t.Helper()
	path := os.Getenv(envBinary)
	if path == "" {
		path = filepath.Join("..", "bin", "meshswarm")
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(abs); err != nil {
		t.Fatalf("no binary to test: %v (`make build` makes it)", err)
	}
	return abs
}

// lab is a swarm of whole nodes in processes of their own, on 127.0.0.1, 127.0.0.2, …
type lab struct {
	bin, dir, engine string
	nodes            int
}

// newLab starts a lab and takes it down at the end of the test. The directory's path is short: sockets live in it.
func newLab(t testing.TB, nodes, managers int) *lab {
	t.Helper()
	return newLabOn(t, engineHost(t), nodes, managers)
}

// newLabOn is newLab with an engine of the test's own.
func newLabOn(t testing.TB, engine string, nodes, managers int) *lab {
	t.Helper()
	l := &lab{bin: binary(t), engine: engine, nodes: nodes}
	dir, err := os.MkdirTemp("", "msw")
	if err != nil {
		t.Fatal(err)
	}
	l.dir = dir
	t.Cleanup(func() {
		if t.Failed() {
			l.dumpLogs(t)
		}
		if out, err := l.run("lab", "down", "--dir", l.dir); err != nil {
			t.Errorf("lab down: %v\n%s", err, out)
		}
		if err := os.RemoveAll(l.dir); err != nil {
			t.Errorf("remove %s: %v", l.dir, err)
		}
	})
	args := []string{"lab", "up", "--dir", l.dir, "--nodes", fmt.Sprint(nodes), "--managers", fmt.Sprint(managers), "--docker-host", l.engine}
	if d := os.Getenv(envDevice); d != "" {
		args = append(args, "--task-device", d)
	}
	if out, err := l.run(args...); err != nil {
		t.Fatalf("lab up: %v\n%s", err, out)
	}
	return l
}

// dumpLogs shows the end of each node's log.
func (l *lab) dumpLogs(t testing.TB) {
	for i := 1; i <= l.nodes; i++ {
		b, err := os.ReadFile(filepath.Join(l.dir, fmt.Sprintf("node%d", i), "log"))
		if err != nil {
			t.Logf("log of node%d: %v", i, err)
			continue
		}
		const last = 6 << 10
		t.Logf("node%d:\n%s", i, b[max(0, len(b)-last):])
	}
}

// run runs the command line and gives what it printed.
func (l *lab) run(args ...string) (string, error) {
	return runCommand(l.bin, nil, args...)
}

func runCommand(name string, env []string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// socket is node i's API (from 1).
func (l *lab) socket(i int) string {
	return "unix://" + filepath.Join(l.dir, fmt.Sprintf("node%d", i), "meshswarm.sock")
}

// addr is node i's address.
func addrOf(i int) string { return fmt.Sprintf("127.0.0.%d", i) }

// on runs a command against node i and must succeed.
func (l *lab) on(t testing.TB, i int, args ...string) string {
	t.Helper()
	out, err := l.run(append([]string{"-H", l.socket(i)}, args...)...)
	if err != nil {
		t.Fatalf("meshswarm %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// lab runs a `lab` subcommand on this lab and must succeed.
func (l *lab) lab(t *testing.T, args ...string) string {
	t.Helper()
	out, err := l.run(append(append([]string{"lab"}, args[0], "--dir", l.dir), args[1:]...)...)
	if err != nil {
		t.Fatalf("lab %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// docker runs the unmodified docker command against node i and must succeed.
func (l *lab) docker(t *testing.T, i int, args ...string) string {
	t.Helper()
	out, err := l.tryDocker(i, args...)
	if err != nil {
		t.Fatalf("docker %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func (l *lab) tryDocker(i int, args ...string) (string, error) {
	return runCommand("docker", []string{"DOCKER_HOST=" + l.socket(i)}, args...)
}

// eventually polls until check gives nil, or fails the test with its last reason.
func eventually(t *testing.T, limit time.Duration, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v: %v", what, limit, err)
		}
		select {
		case <-tick.C:
		case <-t.Context().Done():
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// fetch gets one URL over a connection of its own.
func fetch(url string, limit time.Duration) (string, error) {
	c := &http.Client{Timeout: limit, Transport: &http.Transport{DisableKeepAlives: true, DialContext: (&net.Dialer{Timeout: limit}).DialContext}}
	defer c.CloseIdleConnections()
	resp, err := c.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(resp.Body); err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return b.String(), errors.New(resp.Status)
	}
	return b.String(), nil
}
