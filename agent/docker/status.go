package docker

import (
	"context"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/swarm"
)

// freshFor is how long what was seen of a container answers for it.
const freshFor = 100 * time.Millisecond

// Status implements task.Controller.
func (c *controller) Status(ctx context.Context) (*swarm.ContainerStatus, error) {
	if st, ok := c.seen(); ok {
		return &st, nil
	}
	found, err := c.inspect(ctx)
	if err != nil || found == nil {
		return nil, err
	}
	st := statusOf(found)
	return &st, nil
}

func statusOf(found *container.InspectResponse) swarm.ContainerStatus {
	return swarm.ContainerStatus{ContainerID: found.ID, PID: found.State.Pid, ExitCode: found.State.ExitCode}
}

// saw keeps what was just seen for the Status that follows.
func (c *controller) saw(st swarm.ContainerStatus) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fresh, c.freshAt = st, time.Now()
}

// seen is what saw kept, once, and only for a moment.
func (c *controller) seen() (swarm.ContainerStatus, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := c.freshAt
	c.freshAt = time.Time{}
	return c.fresh, time.Since(at) < freshFor
}
