package agent

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/agent/dispatch"
	"github.com/meshswarm/meshswarm/mesh"
)

const (
	// factsEvery is how often a node looks at itself again, as Swarm's do.
	factsEvery = 20 * time.Second
	// firstLook is how long a session waits for the first look. Without it the leader would take a node that comes back for
	// one that has no CPUs and no labels any more, and move its tasks.
	firstLook = 5 * time.Second
)

// describer tells what a node has (docker.Executor).
type describer interface {
	Describe(ctx context.Context) (swarm.NodeDescription, error)
}

// facts are what a node reports of itself; they are collected here from whoever knows.
type facts struct {
	settings  settings
	describer describer
	changed   func()
	// looked is closed after the first look, whatever it saw.
	looked chan struct{}

	mu      sync.Mutex
	current dispatch.Facts
}

func newFacts(s settings, key mesh.PublicKey, manager bool) *facts {
	f := &facts{settings: s, looked: make(chan struct{}), current: dispatch.Facts{
		Addr: s.advertise.Addr().String(), MeshKey: key.String(), Endpoint: s.meshAt, MinPort: minPort(),
		Description: swarm.NodeDescription{Hostname: s.Hostname},
	}}
	if manager {
		f.current.ControlAddr = s.advertise.String()
	}
	return f
}

// get is asked by the session when it begins, and after changed was called. It waits for the first look, but not long.
func (f *facts) get() dispatch.Facts {
	select {
	case <-f.looked:
	case <-time.After(firstLook):
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.current
	c.PortErrors = maps.Clone(c.PortErrors)
	return c
}

// setPorts takes the data plane's word on published ports ("tcp/80"); the API writes them "80/tcp".
func (f *facts) setPorts(errors map[string]string) {
	ports := make(map[string]string, len(errors))
	for k, v := range errors {
		if proto, port, ok := strings.Cut(k, "/"); ok {
			k = port + "/" + proto
		}
		ports[k] = v
	}
	f.mu.Lock()
	f.current.PortErrors = ports
	f.mu.Unlock()
	f.changed()
}

// run looks at the engine and the host now and then. An engine that is away changes nothing of what was known.
func (f *facts) run(ctx context.Context) error {
	tick := time.NewTicker(factsEvery)
	defer tick.Stop()
	for first := true; ; first = false {
		seen := f.look(ctx)
		if first {
			close(f.looked)
		}
		if seen {
			f.changed()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (f *facts) look(ctx context.Context) bool {
	d, err := f.describer.Describe(ctx)
	if err != nil {
		f.settings.Logger.Warn("describe this node", "err", err)
		return false
	}
	if len(f.settings.Labels) > 0 {
		labels := maps.Clone(f.settings.Labels)
		for k, v := range d.Engine.Labels {
			if _, own := labels[k]; !own {
				labels[k] = v
			}
		}
		d.Engine.Labels = labels
	}
	if own := f.settings.GenericResources; len(own) > 0 {
		d.Resources.GenericResources = mergeResources(own, d.Resources.GenericResources)
	}
	prefixes, err := hostPrefixes()
	if err != nil {
		f.settings.Logger.Warn("list the host's networks", "err", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.current.Description = d
	if err == nil {
		f.current.HostPrefixes = prefixes
	}
	return true
}

// mergeResources is what this node was told it has, and of other kinds what the engine says.
func mergeResources(own, engine []swarm.GenericResource) []swarm.GenericResource {
	kind := func(r swarm.GenericResource) string {
		if r.NamedResourceSpec != nil {
			return r.NamedResourceSpec.Kind
		}
		if r.DiscreteResourceSpec != nil {
			return r.DiscreteResourceSpec.Kind
		}
		return ""
	}
	all := slices.Clone(own)
	for _, r := range engine {
		if !slices.ContainsFunc(own, func(o swarm.GenericResource) bool { return kind(o) == kind(r) }) {
			all = append(all, r)
		}
	}
	return all
}
