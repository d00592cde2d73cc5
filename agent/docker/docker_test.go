package docker_test

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/swarm"
	"github.com/docker/docker/client"
	"github.com/docker/docker/pkg/stdcopy"

	"github.com/meshswarm/meshswarm/agent/docker"
	"github.com/meshswarm/meshswarm/agent/sandbox"
	"github.com/meshswarm/meshswarm/agent/task"
	"github.com/meshswarm/meshswarm/agent/task/tasktest"
	"github.com/meshswarm/meshswarm/raft/state"
)

func TestSuite(t *testing.T) {
	t.Parallel()
	api, p := throughProxy(t, engine(t))
	n := newNode(t, api, nil)
	tasktest.Suite(t, tasktest.Subject{
		New:         func(t *testing.T) task.Executor { return n.life(t) },
		KillSandbox: n.killSandbox, Sicken: n.sicken,
		SetAway: func(away bool) { p.setAway(t, away) },
	})
}

func attach(at state.AssignedTask, network, addr string) state.AssignedTask {
	at.Task.Networks = append(at.Task.Networks, state.Attachment{NetworkID: network, Addresses: []netip.Prefix{netip.MustParsePrefix(addr)}})
	return at
}

// run prepares and starts a task, and removes it at the end of the test.
func run(t *testing.T, e *docker.Executor, at state.AssignedTask) task.Controller {
	t.Helper()
	c, err := e.Controller(at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Remove(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if err := c.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

func output(t *testing.T, e *docker.Executor, taskID string) string {
	t.Helper()
	r, _, err := e.Logs(t.Context(), taskID, task.LogOptions{Stdout: true, Stderr: true, Tail: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var b strings.Builder
	if _, err := stdcopy.StdCopy(&b, &b, r); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func ended(t *testing.T, e *docker.Executor, c task.Controller, at state.AssignedTask) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := c.Wait(ctx); err != nil {
		t.Errorf("wait: %v: %s", err, output(t, e, at.Task.ID))
	}
	return output(t, e, at.Task.ID)
}

// Two containers reach each other through the devices of their sandboxes, whatever kind these are.
func TestTasksTalk(t *testing.T) {
	t.Parallel()
	api := engine(t)
	for _, c := range []struct {
		name string
		kind sandbox.Kind
		want sandbox.Kind
	}{
		{"tun where it works", "", kindHere()},
		{"without the device", sandbox.KindPacket, sandbox.KindPacket},
	} {
		t.Run(c.name, func(t *testing.T) {
			net := newNetwork(t)
			n := newNode(t, api, func(cfg *docker.Config) { cfg.Kind, cfg.Network = c.kind, net })
			e := n.life(t)
			run(t, e, attach(tasktest.NewTask("echo", "10.0.16.5:80"), "net1", "10.0.16.5/24"))
			from := attach(attach(tasktest.NewTask("send", "10.0.16.5:80", "20000000"), "ingress", "10.0.0.6/20"), "net1", "10.0.16.6/24")
			if got := ended(t, e, run(t, e, from), from); got != "received 20000000\n" {
				t.Errorf("task says: %s", got)
			}
			if len(net.kinds) != 1 || net.kinds[c.want] != 3 {
				t.Errorf("devices: %v (%v), want %s", net.kinds, net.warnings, c.want)
			}
			if net.sw.Super.Load() == 0 {
				t.Error("no super-packet was seen")
			}
		})
	}
}

func kindHere() sandbox.Kind {
	f, err := os.OpenFile(sandbox.TUNPath, os.O_RDWR, 0)
	if err != nil {
		return sandbox.KindPacket
	}
	f.Close()
	return sandbox.KindTUN
}

// What the spec says and what the sandbox owns arrives in the task's container.
func TestInside(t *testing.T) {
	t.Parallel()
	n := newNode(t, engine(t), nil)
	e := n.life(t)
	at := attach(attach(tasktest.NewTask("print", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/proc/net/route", "/data/file"), "ingress", "10.0.0.7/20"), "net1", "10.0.16.7/24")
	s := at.Spec.ContainerSpec
	s.Hostname = "web-{{.Task.Slot}}"
	s.Env = []string{"WHERE={{.Node.Hostname}}/{{.Service.Name}}", "PLAIN=x=y"}
	s.Hosts = []string{"10.9.9.9 other alias"}
	s.DNSConfig = &swarm.DNSConfig{Nameservers: []string{"192.0.2.1"}, Search: []string{"example.org"}}
	s.Labels = map[string]string{"own": "label", "com.docker.swarm.task.id": "forged", docker.LabelSandbox: "forged"}
	s.Sysctls = map[string]string{"net.ipv4.tcp_keepalive_time": "123", "kernel.shmmax": "18446744073692774399"}
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/file", []byte("from a bind mount\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	s.Mounts = []mount.Mount{{Type: mount.TypeBind, Source: dir, Target: "/data", ReadOnly: true}}
	at.Spec.ContainerSpec.StopGracePeriod = nil
	got := ended(t, e, run(t, e, at), at)
	for _, want := range []string{
		"10.0.16.7\tweb-1", "10.9.9.9\tother", "10.9.9.9\talias", "\nweb-1\n", "nameserver 127.0.0.11\n", "search example.org", "options ndots:0",
		"WHERE=host1/web", "PLAIN=x=y", "hostname web-1 ", "from a bind mount",
		"eth1\t00000000\t0100000A\t0003", // the default route: through ingress, as answers to clients outside go
		"eth0\t0010000A\t00000000\t0001",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in the task's output", want)
		}
	}
	if strings.Contains(got, "192.0.2.1") {
		t.Error("the user's DNS server is asked around the node's")
	}
	if t.Failed() {
		t.Log(got)
	}
	found, err := n.api.ContainerInspect(t.Context(), at.Task.Name())
	if err != nil {
		t.Fatal(err)
	}
	for k, want := range map[string]string{
		"com.docker.swarm.task": "", "com.docker.swarm.task.id": at.Task.ID, "com.docker.swarm.task.name": "web.1." + at.Task.ID,
		"com.docker.swarm.node.id": n.cfg.NodeID, "com.docker.swarm.service.id": "service1", "com.docker.swarm.service.name": "web",
		"own": "label", docker.LabelTask: at.Task.ID,
	} {
		if v, ok := found.Config.Labels[k]; !ok || v != want {
			t.Errorf("label %s is %q, %v", k, v, ok)
		}
	}
	if _, ok := found.Config.Labels[docker.LabelSandbox]; ok {
		t.Error("the task's container passes for a sandbox")
	}
	list, err := n.api.ContainerList(t.Context(), container.ListOptions{All: true, Filters: filters.NewArgs(filters.Arg("label", docker.LabelSandbox+"="+at.Task.ID))})
	if err != nil || len(list) != 1 {
		t.Fatalf("%d sandboxes, %v", len(list), err)
	}
	for k := range list[0].Labels {
		if strings.HasPrefix(k, "com.docker.swarm.") {
			t.Errorf("the sandbox has label %s", k)
		}
	}
}

// An exit that happens while the engine cannot be reached is noticed when it is back.
func TestEngineComesBack(t *testing.T) {
	t.Parallel()
	direct := engine(t)
	api, p := throughProxy(t, direct)
	n := newNode(t, api, nil)
	e := n.life(t)
	at := tasktest.NewTask("run")
	c := run(t, e, at)
	waited := make(chan error, 1)
	go func() { waited <- c.Wait(context.Background()) }()
	p.setAway(t, true)
	if err := <-waited; !errors.Is(err, task.ErrTemporary) {
		t.Fatalf("engine away: %v", err)
	}
	if err := direct.ContainerKill(t.Context(), at.Task.Name(), "KILL"); err != nil {
		t.Fatal(err)
	}
	p.setAway(t, false)
	if err := c.Wait(t.Context()); err == nil || err.Error() != "task: non-zero exit (137)" {
		t.Errorf("engine back: %v", err)
	}
	// Its own exit after that is seen through the new stream of events.
	other := tasktest.NewTask("run")
	c = run(t, e, other)
	go func() { waited <- c.Wait(context.Background()) }()
	if err := direct.ContainerKill(t.Context(), other.Task.Name(), "KILL"); err != nil {
		t.Fatal(err)
	}
	if err := <-waited; err == nil || err.Error() != "task: non-zero exit (137)" {
		t.Errorf("after that: %v", err)
	}
}

// Nodes that share an engine do not see each other's tasks.
func TestSharedEngine(t *testing.T) {
	t.Parallel()
	api := engine(t)
	a, b := newNode(t, api, nil), newNode(t, api, nil)
	at := tasktest.NewTask("run")
	ea, eb := a.life(t), b.life(t)
	c := run(t, ea, at)
	ids, err := eb.Leftovers(t.Context())
	if err != nil || len(ids) != 0 {
		t.Errorf("leftovers of the other: %v, %v", ids, err)
	}
	if err := eb.Remove(t.Context(), at.Task.ID); err != nil {
		t.Error(err)
	}
	foreign, err := eb.Controller(at)
	if err != nil {
		t.Fatal(err)
	}
	if err := foreign.Prepare(t.Context()); err == nil || !strings.Contains(err.Error(), "is taken by a container that is not this task's") {
		t.Errorf("prepare: %v", err)
	}
	if st, err := c.Status(t.Context()); err != nil || st.PID == 0 {
		t.Errorf("the task was touched: %+v, %v", st, err)
	}
}

func TestRestartKeepsConnections(t *testing.T) {
	t.Parallel()
	api := engine(t)
	net := newNetwork(t)
	n := newNode(t, api, func(cfg *docker.Config) { cfg.Network = net })
	e := n.life(t)
	at := attach(tasktest.NewTask("run"), "net1", "10.0.16.8/24")
	run(t, e, at)
	e = n.life(t)
	c, err := e.Controller(at)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if err := c.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	net.mu.Lock()
	defer net.mu.Unlock()
	if net.attached[at.Task.ID] != 2 {
		t.Errorf("attached %d times", net.attached[at.Task.ID])
	}
}

// A task whose sandbox runs but cannot be reached any more has no network after a restart of the agent: it fails.
func TestRestartWithoutTheSandboxFolder(t *testing.T) {
	t.Parallel()
	dir := ""
	n := newNode(t, engine(t), func(cfg *docker.Config) { cfg.SandboxTimeout, dir = 2*time.Second, cfg.Dir })
	at := attach(tasktest.NewTask("run"), "net1", "10.0.16.9/24")
	run(t, n.life(t), at)
	if err := os.RemoveAll(filepath.Join(dir, "sandboxes", at.Task.ID)); err != nil {
		t.Fatal(err)
	}
	c, err := n.life(t).Controller(at)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err = c.Wait(ctx)
	if err == nil || errors.Is(err, task.ErrTemporary) || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("wait: %v, want an error that ends the task", err)
	}
}

var private = regexp.MustCompile(`(?m)^(Anonymous|Private_Dirty|Private_Clean|Rss): +([0-9]+) kB`)

// The sandbox stays small although the executable it is made of is not.
func TestSandboxMemory(t *testing.T) {
	t.Parallel()
	api := engine(t)
	n := newNode(t, api, nil)
	at := attach(tasktest.NewTask("run"), "net1", "10.0.16.9/24")
	run(t, n.life(t), at)
	if os.Getuid() != 0 {
		t.Skip("only root may read the memory of the engine's processes")
	}
	anonymous := func() int { return memory(t, api, at.Task.ID)["Anonymous"] }
	if got := anonymous(); got == 0 || got > 6<<10 {
		t.Errorf("private memory: %d KiB", got)
	}
	t.Log(memory(t, api, at.Task.ID))
}

func memory(t *testing.T, api *client.Client, taskID string) map[string]int {
	t.Helper()
	found, err := api.ContainerInspect(t.Context(), "meshswarm-sandbox-"+taskID)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile("/proc/" + strconv.Itoa(found.State.Pid) + "/smaps_rollup")
	if err != nil {
		t.Skip("the engine's processes are elsewhere: ", err)
	}
	out := map[string]int{}
	for _, m := range private.FindAllStringSubmatch(string(b), -1) {
		out[m[1]], _ = strconv.Atoi(m[2])
	}
	return out
}
