package state

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/docker/docker/api/types/swarm"
	memdb "github.com/hashicorp/go-memdb"
)

// View is an immutable snapshot of the store. Objects are shared: never change them. Slices are the caller's, in order of
// keys unless said otherwise. A getter returns nil where nothing is there. Views are cheap, safe for concurrent use, and
// need no closing.
type View struct {
	txn   *memdb.Txn
	index uint64
}

// Index is the raft index of the last batch in this view (also of a refused one).
func (v View) Index() uint64 { return v.index }

// Cluster is the one Cluster object.
func (v View) Cluster() *Cluster { return get[*Cluster](v, KindCluster, ClusterKey) }

// Node finds a node by ID.
func (v View) Node(id string) *Node { return get[*Node](v, KindNode, id) }

// Nodes lists all nodes.
func (v View) Nodes() []*Node { return list[*Node](v, KindNode, byID+prefix, "") }

// Service finds a service by ID, also one that waits for its deletion.
func (v View) Service(id string) *Service { return get[*Service](v, KindService, id) }

// ServiceByName finds the service that owns a name, in any case; never one that waits for its deletion.
func (v View) ServiceByName(name string) *Service {
	return get[*Service](v, KindService, v.owner(nameThing(KindService, name)...))
}

// Services lists all services, also those that wait for their deletion.
func (v View) Services() []*Service { return list[*Service](v, KindService, byID+prefix, "") }

// Revision finds one version of a service's task spec.
func (v View) Revision(serviceID string, spec uint64) *Revision {
	return get[*Revision](v, KindRevision, RevisionKey(serviceID, spec))
}

// Revisions lists a service's revisions, oldest first.
func (v View) Revisions(serviceID string) []*Revision {
	out := list[*Revision](v, KindRevision, byID+prefix, serviceID+".")
	slices.SortFunc(out, func(a, b *Revision) int { return cmp.Compare(a.SpecVersion, b.SpecVersion) })
	return out
}

// Task finds a task by ID.
func (v View) Task(id string) *Task { return get[*Task](v, KindTask, id) }

// Tasks lists all tasks.
func (v View) Tasks() []*Task { return list[*Task](v, KindTask, byID+prefix, "") }

// TasksByService lists a service's tasks, in order of slots.
func (v View) TasksByService(id string) []*Task { return list[*Task](v, KindTask, bySlot+prefix, id) }

// TasksByNode lists a node's tasks; those of no node yet for "".
func (v View) TasksByNode(id string) []*Task { return list[*Task](v, KindTask, byNode, id) }

// TasksBySlot lists the tasks, past and present, of one slot of a service.
func (v View) TasksBySlot(serviceID string, slot int) []*Task {
	return list[*Task](v, KindTask, bySlot, serviceID, slot)
}

// Network finds a network by ID, also one that waits for its deletion.
func (v View) Network(id string) *Network { return get[*Network](v, KindNetwork, id) }

// NetworkByName finds the network that owns a name, in any case; never one that waits for its deletion.
func (v View) NetworkByName(name string) *Network {
	return get[*Network](v, KindNetwork, v.owner(nameThing(KindNetwork, name)...))
}

// Networks lists all networks, also those that wait for their deletion.
func (v View) Networks() []*Network { return list[*Network](v, KindNetwork, byID+prefix, "") }

// Taken tells whether an address of a network belongs to a task, a VIP or a gateway: what Apply would refuse with
// ErrTaken.
func (v View) Taken(networkID string, a netip.Addr) bool {
	return v.owner(addrThing(networkID, a)) != ""
}

// PortOwner is the ID of the service that publishes a port in ingress mode, "" if none does.
func (v View) PortOwner(proto swarm.PortConfigProtocol, port uint32) string {
	return v.owner(thing{class: classPort, scope: string(proto), name: fmt.Sprint(port)})
}

// ByIDPrefix lists the objects of a kind whose keys start with pre, at most limit of them (lookups by truncated ID); with
// a limit of 0, all.
func (v View) ByIDPrefix(kind Kind, pre string, limit int) []Object {
	if newObject(kind) == nil {
		return nil
	}
	it, err := v.txn.Get(string(kind), byID+prefix, pre)
	must(err)
	var out []Object
	for raw := it.Next(); raw != nil; raw = it.Next() {
		out = append(out, raw.(Object))
		if len(out) == limit {
			break
		}
	}
	return out
}

// owner is the key of the object that owns a thing, "" for none (or no thing).
func (v View) owner(t ...thing) string {
	if len(t) == 0 {
		return ""
	}
	c, err := claimOf(v.txn, t[0])
	must(err)
	if c == nil {
		return ""
	}
	return c.key
}

func get[T Object](v View, k Kind, key string) T {
	o, err := first(v.txn, k, key)
	must(err)
	t, _ := o.(T)
	return t
}

func list[T Object](v View, k Kind, index string, args ...interface{}) []T {
	it, err := v.txn.Get(string(k), index, args...)
	must(err)
	var out []T
	for raw := it.Next(); raw != nil; raw = it.Next() {
		out = append(out, raw.(T))
	}
	return out
}

func first(txn *memdb.Txn, k Kind, key string) (Object, error) {
	if newObject(k) == nil {
		return nil, unknownKind(k)
	}
	raw, err := txn.First(string(k), byID, key)
	if err != nil {
		return nil, fmt.Errorf("look up %s %s: %w", k, key, err)
	}
	if raw == nil {
		return nil, nil
	}
	return raw.(Object), nil
}

// must guards lookups whose table, index and argument types are constants of this package.
func must(err error) {
	if err != nil {
		panic(fmt.Sprintf("state: %v", err))
	}
}
