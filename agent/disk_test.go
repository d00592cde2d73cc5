package agent

import (
	"testing"

	"github.com/docker/docker/api/types/swarm"
	"github.com/google/go-cmp/cmp"
)

// TestWithFlags: a later start without flags means the same node; one with flags means what they say.
func TestWithFlags(t *testing.T) {
	dir := t.TempDir()
	first := Config{
		ListenAddr: "192.0.2.7:3000", AdvertiseAddr: "198.51.100.7", PublishAddr: "192.0.2.8", Hostname: "h", DockerHost: "unix:///e.sock",
		TaskDevice: "veth", DataPathPort: 5000, Labels: map[string]string{"a": "b"},
		GenericResources: []swarm.GenericResource{{DiscreteResourceSpec: &swarm.DiscreteGenericResource{Kind: "GPU", Value: 2}}},
	}
	var m membership
	m.remember(first)
	if err := m.save(dir); err != nil {
		t.Fatal(err)
	}
	m, err := loadMembership(dir)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(first, m.withFlags(Config{Labels: map[string]string{}})); d != "" {
		t.Errorf("without flags (-first +later):\n%s", d)
	}
	other := Config{
		ListenAddr: "192.0.2.9:3001", AdvertiseAddr: "198.51.100.9", PublishAddr: "192.0.2.1", Hostname: "i", DockerHost: "unix:///f.sock",
		TaskDevice: "tun", DataPathPort: 5001, Labels: map[string]string{"c": "d"},
		GenericResources: []swarm.GenericResource{{NamedResourceSpec: &swarm.NamedGenericResource{Kind: "GPU", Value: "UUID1"}}},
	}
	if d := cmp.Diff(other, m.withFlags(other)); d != "" {
		t.Errorf("with flags (-given +taken):\n%s", d)
	}
}
