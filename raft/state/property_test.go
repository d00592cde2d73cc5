package state

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/swarm"
	"pgregory.net/rapid"
)

// drawObject makes an object out of few IDs, names, addresses and ports, so that they collide often.
func drawObject(t *rapid.T) Object {
	id := fmt.Sprint("id", rapid.IntRange(0, 4).Draw(t, "id"))
	name := rapid.SampledFrom([]string{"", "web", "WEB", "db"}).Draw(t, "name")
	addr := fmt.Sprint("10.0.0.", rapid.IntRange(1, 4).Draw(t, "addr"))
	switch rapid.SampledFrom(kinds).Draw(t, "kind") {
	case KindNode:
		return &Node{ID: id, Mesh: MeshIdentity{Addr: netip.MustParseAddr(addr)}, Status: swarm.NodeStatus{Message: name}}
	case KindService:
		s := service(id, name)
		s.PendingDelete = rapid.Bool().Draw(t, "pending")
		s.Endpoint.VirtualIPs = []swarm.EndpointVirtualIP{{NetworkID: "id0", Addr: addr + "/24"}}
		s.Endpoint.Ports = []swarm.PortConfig{{PublishedPort: uint32(rapid.IntRange(0, 2).Draw(t, "port"))}}
		return s
	case KindRevision:
		return &Revision{ServiceID: id, SpecVersion: rapid.Uint64Range(0, 3).Draw(t, "version")}
	case KindTask:
		x := task(id, "id0", addr+"/24")
		x.Status.State = rapid.SampledFrom([]swarm.TaskState{"", "running", "failed"}).Draw(t, "state")
		x.NodeID = rapid.SampledFrom([]string{"", "id1"}).Draw(t, "node")
		return x
	case KindNetwork:
		n := network(id, name)
		n.PendingDelete = rapid.Bool().Draw(t, "pending")
		n.IPAM = &swarm.IPAMOptions{Configs: []swarm.IPAMConfig{{Gateway: addr}}}
		return n
	default:
		return &Cluster{ID: id, RemovedNodes: map[string]time.Time{name: t0}}
	}
}

func drawBatch(t *rapid.T, s *Store) Batch {
	b := Batch{Time: t0.Add(time.Duration(rapid.IntRange(0, 1000).Draw(t, "time")) * time.Millisecond)}
	for range rapid.IntRange(0, 4).Draw(t, "ops") {
		o := drawObject(t)
		op := Op{Action: rapid.SampledFrom([]Action{Create, Update, Delete}).Draw(t, "action"), Object: o, SpecChange: rapid.Bool().Draw(t, "spec")}
		if op.Action != Create && rapid.IntRange(0, 9).Draw(t, "current") > 0 {
			if old := s.View().ByIDPrefix(o.Kind(), o.Key(), 1); len(old) == 1 && old[0].Key() == o.Key() {
				op.Expected = old[0].Head().Modified
			}
		}
		b.Ops = append(b.Ops, op)
	}
	return b
}

// TestReplayAndSnapshot: whatever happens, a replay of the encoded batches, and a snapshot restored in the middle with the
// rest replayed, give the same store, byte for byte; claims always match the objects.
func TestReplayAndSnapshot(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s, replayed, resumed := New(), New(), New()
		steps := rapid.IntRange(1, 30).Draw(rt, "steps")
		snapshotAt := rapid.IntRange(0, steps-1).Draw(rt, "snapshotAt")
		for i := range steps {
			if i == snapshotAt {
				if err := resumed.Restore(strings.NewReader(dump(t, s))); err != nil {
					rt.Fatal(err)
				}
			}
			data, err := drawBatch(rt, s).Encode()
			if err != nil {
				rt.Fatal(err)
			}
			errs := []error{applyEncoded(rt, s, data), applyEncoded(rt, replayed, data)}
			if i >= snapshotAt {
				errs = append(errs, applyEncoded(rt, resumed, data))
			}
			for _, err := range errs[1:] {
				if fmt.Sprint(err) != fmt.Sprint(errs[0]) {
					rt.Fatalf("step %d: %v and %v", i, errs[0], err)
				}
			}
			checkClaims(t, s)
		}
		want := dump(t, s)
		if dump(t, replayed) != want || dump(t, resumed) != want {
			rt.Fatalf("stores differ:\n%s\nreplayed:\n%s\nresumed:\n%s", want, dump(t, replayed), dump(t, resumed))
		}
		checkClaims(t, resumed)
	})
}

func applyEncoded(t *rapid.T, s *Store, data []byte) error {
	b, err := DecodeBatch(bytes.Clone(data))
	if err != nil {
		t.Fatal(err)
	}
	return s.Apply(s.Index()+1, b)
}
