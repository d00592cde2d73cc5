package agent

import (
	"context"
	"errors"
	"testing"

	"github.com/docker/docker/api/types/swarm"
	"github.com/google/go-cmp/cmp"

	"github.com/meshswarm/meshswarm/mesh"
)

type describes func() (swarm.NodeDescription, error)

func (d describes) Describe(context.Context) (swarm.NodeDescription, error) { return d() }

// The first facts of a session are those of the first look: the leader moves the tasks of a node that has lost what they need.
func TestFirstFacts(t *testing.T) {
	s, err := settle(Config{
		DataDir: "/d", Socket: "/s", Hostname: "h", ListenAddr: "127.0.0.1", Labels: map[string]string{"a": "b"},
		GenericResources: []swarm.GenericResource{counted("GPU", 2)},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := swarm.NodeDescription{Hostname: "h", Resources: swarm.Resources{NanoCPUs: 1e9, GenericResources: []swarm.GenericResource{counted("GPU", 2)}}}
	want.Engine.Labels = map[string]string{"a": "b"}
	for name, c := range map[string]struct {
		sees error
		want swarm.NodeDescription
	}{
		"engine answers": {nil, want},
		"engine is away": {errors.New("no engine"), swarm.NodeDescription{Hostname: "h"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFacts(s, mesh.PublicKey{}, false)
			changes := make(chan struct{}, 1)
			f.changed = func() { changes <- struct{}{} }
			asked := make(chan struct{})
			f.describer = describes(func() (swarm.NodeDescription, error) {
				<-asked
				return swarm.NodeDescription{Hostname: "h", Resources: swarm.Resources{NanoCPUs: 1e9}}, c.sees
			})
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan error)
			go func() { ended <- f.run(ctx) }()
			got := make(chan swarm.NodeDescription)
			go func() { got <- f.get().Description }()
			close(asked)
			if d := cmp.Diff(c.want, <-got); d != "" {
				t.Error(d)
			}
			stop()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
}
