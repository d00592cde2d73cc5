package agent

import (
	"strings"
	"testing"

	"github.com/docker/docker/api/types/swarm"
	"github.com/google/go-cmp/cmp"
)

func counted(kind string, n int64) swarm.GenericResource {
	return swarm.GenericResource{DiscreteResourceSpec: &swarm.DiscreteGenericResource{Kind: kind, Value: n}}
}

func named(kind, name string) swarm.GenericResource {
	return swarm.GenericResource{NamedResourceSpec: &swarm.NamedGenericResource{Kind: kind, Value: name}}
}

func TestSettle(t *testing.T) {
	base := Config{DataDir: "/d", Socket: "/s", Hostname: "h"}
	tests := map[string]struct {
		change func(*Config)
		err    string
		check  func(settings) bool
	}{
		"defaults on loopback": {
			change: func(c *Config) { c.ListenAddr = "127.0.0.2" },
			check: func(s settings) bool {
				return s.listen.String() == "127.0.0.2:2377" && s.advertise == s.listen && s.meshAt.String() == "127.0.0.2:4789"
			},
		},
		"advertise without port takes the listen port": {
			change: func(c *Config) { c.ListenAddr, c.AdvertiseAddr = "0.0.0.0:3000", "192.0.2.7" },
			check:  func(s settings) bool { return s.advertise.String() == "192.0.2.7:3000" },
		},
		"advertise unspecified": {change: func(c *Config) { c.AdvertiseAddr = "0.0.0.0" }, err: "unspecified"},
		"listen to a name":      {change: func(c *Config) { c.ListenAddr = "host:2377" }, err: "not an IP address"},
		"port out of range":     {change: func(c *Config) { c.ListenAddr = "127.0.0.1:70000" }, err: "1 to 65535"},
		"join without token":    {change: func(c *Config) { c.ListenAddr, c.Join = "127.0.0.1", "a:1" }, err: "go together"},
		"publish on a name":     {change: func(c *Config) { c.ListenAddr, c.PublishAddr = "127.0.0.1", "eth0" }, err: "not an IP"},
		"pools overlap": {
			change: func(c *Config) { c.ListenAddr, c.DefaultAddrPool = "127.0.0.1", []string{"10.0.0.0/8", "10.1.0.0/16"} },
			err:    "overlaps",
		},
		"pool too small": {
			change: func(c *Config) { c.ListenAddr, c.DefaultAddrPool = "127.0.0.1", []string{"10.0.0.0/28"} }, err: "at most /24",
		},
		"resources of two kinds": {
			change: func(c *Config) {
				c.ListenAddr = "127.0.0.1"
				c.GenericResources = []swarm.GenericResource{counted("FPGA", 1), named("GPU", "a"), named("GPU", "b")}
			},
			check: func(s settings) bool { return len(s.GenericResources) == 3 },
		},
		"resource counted and named": {
			change: func(c *Config) {
				c.ListenAddr, c.GenericResources = "127.0.0.1", []swarm.GenericResource{counted("GPU", 1), named("GPU", "a")}
			},
			err: "as a number and by name",
		},
		"resource counted twice": {
			change: func(c *Config) {
				c.ListenAddr, c.GenericResources = "127.0.0.1", []swarm.GenericResource{counted("GPU", 1), counted("GPU", 2)}
			},
			err: "given twice",
		},
		"resource named twice": {
			change: func(c *Config) {
				c.ListenAddr, c.GenericResources = "127.0.0.1", []swarm.GenericResource{named("GPU", "a"), named("GPU", "a")}
			},
			err: "given twice",
		},
		"less than nothing of a resource": {
			change: func(c *Config) {
				c.ListenAddr, c.GenericResources = "127.0.0.1", []swarm.GenericResource{counted("GPU", -1)}
			},
			err: "KIND=NUMBER",
		},
		"no data dir": {change: func(c *Config) { c.DataDir = "" }, err: "data directory"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := base
			tt.change(&c)
			s, err := settle(c)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error %v, want one with %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !tt.check(s) {
				t.Errorf("settled to %+v", s)
			}
		})
	}
}

// What a node was told about a kind of resource wins over what its engine says of that kind.
func TestMergeResources(t *testing.T) {
	got := mergeResources([]swarm.GenericResource{counted("GPU", 4)},
		[]swarm.GenericResource{named("GPU", "a"), named("FPGA", "x"), named("FPGA", "y")})
	if d := cmp.Diff([]swarm.GenericResource{counted("GPU", 4), named("FPGA", "x"), named("FPGA", "y")}, got); d != "" {
		t.Error(d)
	}
}
