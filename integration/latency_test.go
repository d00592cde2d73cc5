package integration

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/swarm"
	"github.com/docker/docker/client"
)

// BenchmarkCreateToRunning starts one container after another, in turn by the engine alone (create and start, in its
// default network and in none) and as a service of an idle swarm (from the request to the first time that the API shows the
// task running), and tells the medians: -bench CreateToRunning -benchtime 30x.
func BenchmarkCreateToRunning(b *testing.B) {
	l := newLab(b, 3, 1)
	engine, swarmed := connect(b, l.engine), connect(b, l.socket(1))
	l.on(b, 1, "network", "create", "app")
	took := map[string][]time.Duration{}
	for i := range b.N {
		took["bridge"] = append(took["bridge"], runAlone(b, engine, "bridge"))
		took["none"] = append(took["none"], runAlone(b, engine, "none"))
		took["service"] = append(took["service"], runAsService(b, swarmed, fmt.Sprint("one", i)))
	}
	median := func(of string) float64 {
		slices.Sort(took[of])
		return float64(took[of][len(took[of])/2].Microseconds()) / 1000
	}
	b.ReportMetric(median("bridge"), "bridge-ms/p50")
	b.ReportMetric(median("none"), "none-ms/p50")
	b.ReportMetric(median("service"), "service-ms/p50")
	b.ReportMetric(median("service")-median("bridge"), "more-ms/p50")
}

func connect(tb testing.TB, host string) *client.Client {
	tb.Helper()
	c, err := client.NewClientWithOpts(client.WithHost(host), client.WithAPIVersionNegotiation())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.Close() })
	return c
}

// runAlone has the engine create and start a container, and tells how long that took.
func runAlone(b *testing.B, c *client.Client, network container.NetworkMode) time.Duration {
	b.Helper()
	begin := time.Now()
	made, err := c.ContainerCreate(b.Context(), &container.Config{Image: imageProbe}, &container.HostConfig{NetworkMode: network}, nil, nil, "")
	if err != nil {
		b.Fatal(err)
	}
	if err := c.ContainerStart(b.Context(), made.ID, container.StartOptions{}); err != nil {
		b.Fatal(err)
	}
	took := time.Since(begin)
	if err := c.ContainerRemove(b.Context(), made.ID, container.RemoveOptions{Force: true}); err != nil {
		b.Fatal(err)
	}
	return took
}

// runAsService creates a service and waits until its task runs, then removes it and waits until nothing is left of it.
func runAsService(b *testing.B, c *client.Client, name string) time.Duration {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	begin := time.Now()
	grace := time.Duration(0)
	made, err := c.ServiceCreate(ctx, swarm.ServiceSpec{
		Annotations: swarm.Annotations{Name: name},
		TaskTemplate: swarm.TaskSpec{
			ContainerSpec: &swarm.ContainerSpec{Image: imageProbe, StopGracePeriod: &grace},
			Networks:      []swarm.NetworkAttachmentConfig{{Target: "app"}},
		},
	}, swarm.ServiceCreateOptions{})
	if err != nil {
		b.Fatal(err)
	}
	tasks := func() []swarm.Task {
		list, err := c.TaskList(ctx, swarm.TaskListOptions{Filters: filters.NewArgs(filters.Arg("service", made.ID))})
		if err != nil {
			b.Fatal(err)
		}
		return list
	}
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for list := tasks(); len(list) != 1 || list[0].Status.State != swarm.TaskStateRunning; list = tasks() {
		<-tick.C
	}
	took := time.Since(begin)
	if err := c.ServiceRemove(ctx, made.ID); err != nil {
		b.Fatal(err)
	}
	for tick.Reset(50 * time.Millisecond); ; {
		_, _, err := c.ServiceInspectWithRaw(ctx, made.ID, swarm.ServiceInspectOptions{})
		list, err2 := c.TaskList(ctx, swarm.TaskListOptions{})
		if cerrdefs.IsNotFound(err) && err2 == nil && len(list) == 0 {
			return took
		}
		if err := context.Cause(ctx); err != nil {
			b.Fatal(err)
		}
		<-tick.C
	}
}
