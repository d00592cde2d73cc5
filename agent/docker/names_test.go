package docker

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/swarm"
	"github.com/docker/docker/api/types/system"

	"github.com/meshswarm/meshswarm/raft/state"
)

func TestResolvConf(t *testing.T) {
	machine := []string{"lan.example"}
	for name, tt := range map[string]struct {
		dns  *swarm.DNSConfig
		want string
	}{
		"plain":         {nil, "search lan.example\nnameserver 127.0.0.11\noptions ndots:0\n"},
		"own domains":   {&swarm.DNSConfig{Search: []string{"a.example", "b.example"}}, "search a.example b.example\nnameserver 127.0.0.11\noptions ndots:0\n"},
		"no domains":    {&swarm.DNSConfig{Search: []string{"."}}, "nameserver 127.0.0.11\noptions ndots:0\n"},
		"other options": {&swarm.DNSConfig{Options: []string{"rotate"}}, "search lan.example\nnameserver 127.0.0.11\noptions ndots:0 rotate\n"},
		"own ndots":     {&swarm.DNSConfig{Options: []string{"ndots:2"}}, "search lan.example\nnameserver 127.0.0.11\noptions ndots:2\n"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := resolvConf(tt.dns, machine); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestHostSearch(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	if got := hostSearch(path); got != nil {
		t.Errorf("no file: %q", got)
	}
	if err := os.WriteFile(path, []byte("# search no.example\ndomain old.example\nnameserver 192.0.2.1\nsearch a.example b.example\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := hostSearch(path); !slices.Equal(got, []string{"a.example", "b.example"}) {
		t.Errorf("got %q", got)
	}
}

// What a service mounts itself is not covered by the node's files.
func TestNameMounts(t *testing.T) {
	c := &controller{e: &Executor{cfg: Config{Dir: "/data"}}, id: "t", task: state.AssignedTask{}}
	own := []mount.Mount{{Type: mount.TypeBind, Source: "/own", Target: "/etc/hosts/"}}
	got := c.nameMounts(&swarm.ContainerSpec{Mounts: own, ReadOnly: true})
	want := []mount.Mount{
		{Type: mount.TypeBind, Source: "/data/sandboxes/t/hostname", Target: "/etc/hostname", ReadOnly: true},
		{Type: mount.TypeBind, Source: "/data/sandboxes/t/resolv.conf", Target: "/etc/resolv.conf", ReadOnly: true},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %+v", got)
	}
	var plain, labelled container.HostConfig
	mountNames(&plain, got, system.Info{SecurityOptions: []string{"name=seccomp,profile=default"}})
	mountNames(&labelled, got, system.Info{SecurityOptions: []string{"name=selinux"}})
	binds := []string{"/data/sandboxes/t/hostname:/etc/hostname:ro,z", "/data/sandboxes/t/resolv.conf:/etc/resolv.conf:ro,z"}
	if !slices.Equal(plain.Mounts, want) || plain.Binds != nil || labelled.Mounts != nil || !slices.Equal(labelled.Binds, binds) {
		t.Errorf("mounted %+v and %+v", plain, labelled)
	}
}
