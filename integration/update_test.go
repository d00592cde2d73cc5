package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshswarm/meshswarm/integration/load"
)

// offered is what the load through VIP and ports together should be, requests a second.
const offered = 1000

// TestUpdateLosesNothing is the promise about updates: requests go on, new connections and kept ones, through the VIP and
// the published port of every node, while the image changes and the service is scaled, and none fails; with a server that
// ends gracefully, and with one that dies at once.
func TestUpdateLosesNothing(t *testing.T) {
	l := newLab(t, 3, 1)
	const next = "meshswarm-test/web:next"
	l.engineDo(t, "tag", imageWeb, next)
	defer l.engineDo(t, "rmi", next)
	l.on(t, 1, "network", "create", "app")
	l.deploy(t, "--name", "client", "--network", "app", imageProbe)
	for name, signal := range map[string]string{"graceful": "SIGTERM", "at-once": "SIGKILL"} {
		t.Run(name, func(t *testing.T) {
			l.deploy(t, "--name", "web", "--replicas", "3", "--network", "app", "--publish", "8301:8080", "--env", "REDIS=",
				"--stop-signal", signal, "--update-delay", "0s", "--update-monitor", "1s", imageWeb)
			stop := l.offer(t, "web", 8080, 8301)
			for _, change := range [][]string{
				{"update", "--image", next, "--update-order", "start-first", "web"},
				{"update", "--image", imageWeb, "--update-order", "stop-first", "web"},
				{"scale", "web=6"},
				{"scale", "web=2"},
				{"update", "--image", next, "--update-parallelism", "1", "web"}, // two replicas, stop-first
			} {
				began := time.Now()
				l.on(t, 1, append([]string{"service"}, change...)...)
				t.Logf("%s: service %s took %v", began.Format("15:04:05.000"), strings.Join(change, " "), time.Since(began).Round(time.Millisecond))
			}
			r := stop()
			t.Log(r)
			if r.Failed > 0 {
				t.Errorf("%d of %d requests failed:\n%s", r.Failed, r.Sent, strings.Join(r.Errors, "\n"))
			}
			if r.Rate < 0.9*offered {
				t.Logf("this machine could not offer %d requests a second: %.0f were", offered, r.Rate)
			}
			id := strings.TrimSpace(l.on(t, 1, "service", "inspect", "--format", "{{.ID}}", "web"))
			l.on(t, 1, "service", "rm", "web")
			eventually(t, 30*time.Second, "web is gone", func() error {
				if out := l.engineDo(t, "ps", "--quiet", "--filter", "label=com.docker.swarm.service.id="+id); out != "" {
					return fmt.Errorf("containers are left: %s", out)
				}
				return nil
			})
		})
	}
}

// offer loads a service, half through its VIP, from a task of the service "client", half through its published port on
// all nodes; of each a fifth over kept connections, and some requests with slow answers.
func (l *lab) offer(t *testing.T, service string, target, port int) (stop func() load.Report) {
	t.Helper()
	vip := fmt.Sprintf("http://%s:%d", service, target)
	var ports, slow []string
	for i := 1; i <= l.nodes; i++ {
		ports = append(ports, fmt.Sprintf("http://%s:%d/name", addrOf(i), port))
		slow = append(slow, fmt.Sprintf("http://%s:%d/slow?for=1s", addrOf(i), port))
	}
	ctx, cancel := context.WithCancel(t.Context())
	reports := make(chan load.Report, 6)
	var wg sync.WaitGroup
	for _, c := range []load.Config{
		{URLs: ports, Rate: offered * 4 / 10, Workers: 64}, {URLs: ports, Rate: offered / 10, Workers: 8, KeepAlive: true}, {URLs: slow, Rate: 5, Workers: 16},
	} {
		wg.Go(func() { reports <- load.Run(ctx, c) })
	}
	container := l.anyTask(t, "client")
	for _, args := range [][]string{
		{fmt.Sprint(offered * 4 / 10), "64", "new", vip + "/name"}, {fmt.Sprint(offered / 10), "8", "keep", vip + "/name"}, {"5", "16", "new", vip + "/slow?for=1s"},
	} {
		wg.Go(func() { reports <- l.offerInside(ctx, t, container, args) })
	}
	return func() (all load.Report) {
		cancel()
		wg.Wait()
		close(reports)
		for r := range reports {
			t.Log(r)
			all = all.Add(r)
		}
		return all
	}
}

// offerInside runs the generator in a container until ctx ends.
func (l *lab) offerInside(ctx context.Context, t *testing.T, container string, args []string) (r load.Report) {
	cmd := exec.Command("docker", append([]string{"exec", "-i", container, "/probe", "load"}, args...)...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST="+l.engine)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	in, write := io.Pipe()
	defer in.Close()
	cmd.Stdin = in
	defer context.AfterFunc(ctx, func() { write.Close() })()
	if err := cmd.Run(); err != nil {
		t.Errorf("the generator in %s: %v\n%s", container, err, out.String())
		return r
	}
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Errorf("the generator in %s: %v\n%s", container, err, out.String())
	}
	return r
}
