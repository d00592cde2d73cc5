package docker_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	dockerimage "github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"
	"go.uber.org/goleak"

	"github.com/meshswarm/meshswarm/agent/docker"
	"github.com/meshswarm/meshswarm/agent/sandbox"
	"github.com/meshswarm/meshswarm/agent/sandbox/sandboxtest"
	"github.com/meshswarm/meshswarm/agent/task/tasktest"
	"github.com/meshswarm/meshswarm/raft/state"
)

const testLabel = "meshswarm.test=docker"

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if shared.dir != "" {
			os.RemoveAll(shared.dir)
			removeImages()
		}
		os.Exit(code)
	}))
}

// shared is made once: a static binary, which is the node's executable and the tasks' program, and the image with it.
var shared struct {
	once    sync.Once
	dir     string
	sandbox string // the image that executors make of the binary
	err     error
}

func program(t *testing.T) string {
	t.Helper()
	engine(t)
	return filepath.Join(shared.dir, "program")
}

// engine connects to the machine's engine, which has the image of the suite's tasks.
func engine(t *testing.T) *client.Client {
	t.Helper()
	api, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { api.Close() })
	if _, err := api.Ping(t.Context()); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("needs a Docker engine (make setup): %v", err)
		}
		t.Skipf("needs a Docker engine (make setup): %v", err)
	}
	shared.once.Do(func() { shared.err = prepare(t.Context(), api) })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return api
}

func prepare(ctx context.Context, api *client.Client) (err error) {
	if shared.dir, err = os.MkdirTemp("", "meshswarm-docker-test"); err != nil {
		return err
	}
	path := filepath.Join(shared.dir, "program")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, "./testdata/program")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build test program: %w: %s", err, out)
	}
	binary, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(binary)
	shared.sandbox = docker.SandboxRepository + ":" + hex.EncodeToString(sum[:])[:16]
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err = errors.Join(w.WriteHeader(&tar.Header{Name: "program", Mode: 0o755, Size: int64(len(binary))}), second(w.Write(binary)), w.Close())
	if err != nil {
		return err
	}
	r, err := api.ImageImport(ctx, dockerimage.ImportSource{Source: &b, SourceName: "-"}, tasktest.Image,
		dockerimage.ImportOptions{Changes: []string{`ENTRYPOINT ["/program"]`, "LABEL " + testLabel}})
	if err != nil {
		return err
	}
	return errors.Join(second(io.Copy(io.Discard, r)), r.Close())
}

func second[T any](_ T, err error) error { return err }

// removeImages removes the tests' images where nobody else uses them.
func removeImages() {
	api, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	if err != nil {
		return
	}
	defer api.Close()
	images, _ := api.ImageList(context.Background(), dockerimage.ListOptions{Filters: filters.NewArgs(filters.Arg("label", testLabel))})
	for _, i := range images {
		_, _ = api.ImageRemove(context.Background(), i.ID, dockerimage.RemoveOptions{})
	}
	_, _ = api.ImageRemove(context.Background(), shared.sandbox, dockerimage.RemoveOptions{})
}

// network plugs sandboxes into a switch.
type network struct {
	sw *sandboxtest.Switch

	mu       sync.Mutex
	attached map[string]int
	kinds    map[sandbox.Kind]int
	warnings []string
}

func newNetwork(t *testing.T) *network {
	n := &network{sw: sandboxtest.NewSwitch(), attached: map[string]int{}, kinds: map[sandbox.Kind]int{}}
	t.Cleanup(n.sw.Close)
	return n
}

func (n *network) Attach(_ context.Context, at state.AssignedTask, h *sandbox.Handover) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.attached[at.Task.ID]++
	for _, d := range h.Devices {
		n.kinds[d.Kind]++
	}
	n.warnings = append(n.warnings, h.Warnings...)
	n.sw.Plug(h)
	return nil
}

func (n *network) Detach(taskID string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.attached, taskID)
}

func networks(id string) (state.AssignedNetwork, bool) {
	n := state.AssignedNetwork{ID: id, Name: id, Subnets: []netip.Prefix{netip.MustParsePrefix("10.0.16.0/24")}, Gateways: []netip.Addr{netip.MustParseAddr("10.0.16.1")}}
	switch id {
	case "net1":
	case "ingress":
		n.Ingress, n.Gateways = true, []netip.Addr{netip.MustParseAddr("10.0.0.1")}
	default:
		return n, false
	}
	return n, true
}

// node is one node on the engine, over several lives of its agent.
type node struct {
	api  *client.Client
	cfg  docker.Config
	stop func()
}

func newNode(t *testing.T, api *client.Client, change func(*docker.Config)) *node {
	t.Helper()
	n := &node{api: api, stop: func() {}, cfg: docker.Config{
		Client: api, NodeID: "node" + state.NewID(), SwarmID: "swarm" + state.NewID(), Hostname: "host1", Dir: t.TempDir(),
		Binary: program(t), Networks: networks, Network: newNetwork(t),
	}}
	if change != nil {
		change(&n.cfg)
	}
	t.Cleanup(func() {
		n.stop()
		list, err := api.ContainerList(context.Background(), container.ListOptions{All: true, Filters: filters.NewArgs(filters.Arg("label", docker.LabelNode+"="+n.cfg.NodeID))})
		if err != nil {
			t.Error(err)
		}
		for _, c := range list {
			t.Errorf("left behind: %s", c.Names)
			_ = api.ContainerRemove(context.Background(), c.ID, container.RemoveOptions{Force: true})
		}
	})
	return n
}

// life starts an agent's executor, and ends the one before.
func (n *node) life(t *testing.T) *docker.Executor {
	t.Helper()
	n.stop()
	e, err := docker.New(n.cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	n.stop = func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		n.stop = func() {}
	}
	return e
}

func (n *node) killSandbox(t *testing.T, taskID string) {
	t.Helper()
	if err := n.api.ContainerKill(t.Context(), "meshswarm-sandbox-"+taskID, "KILL"); err != nil {
		t.Fatal(err)
	}
}

func (n *node) sicken(t *testing.T, taskID string) {
	t.Helper()
	list, err := n.api.ContainerList(t.Context(), container.ListOptions{Filters: filters.NewArgs(filters.Arg("label", "com.docker.swarm.task.id="+taskID))})
	if err != nil || len(list) != 1 {
		t.Fatalf("%d containers of task %s, %v", len(list), taskID, err)
	}
	if err := n.api.ContainerKill(t.Context(), list[0].ID, "HUP"); err != nil {
		t.Fatal(err)
	}
}
