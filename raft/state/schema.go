package state

import (
	"encoding/binary"
	"fmt"

	memdb "github.com/hashicorp/go-memdb"
)

// kinds in the order of snapshots: what is referred to comes before what refers.
var kinds = []Kind{KindCluster, KindNode, KindNetwork, KindService, KindRevision, KindTask}

// newObject returns an empty object of a kind, nil for an unknown one.
func newObject(k Kind) Object {
	switch k {
	case KindCluster:
		return &Cluster{}
	case KindNode:
		return &Node{}
	case KindService:
		return &Service{}
	case KindRevision:
		return &Revision{}
	case KindTask:
		return &Task{}
	case KindNetwork:
		return &Network{}
	}
	return nil
}

// newObjectWithKey returns an object that has nothing but its key.
func newObjectWithKey(k Kind, key string) (Object, error) {
	o := newObject(k)
	switch o := o.(type) {
	case nil:
		return nil, unknownKind(k)
	case *Cluster:
		if key != ClusterKey {
			return nil, fmt.Errorf("%w: cluster key %q", ErrInvalid, key)
		}
	case *Node:
		o.ID = key
	case *Service:
		o.ID = key
	case *Revision:
		var err error
		if o.ServiceID, o.SpecVersion, err = parseRevisionKey(key); err != nil {
			return nil, err
		}
	case *Task:
		o.ID = key
	case *Network:
		o.ID = key
	}
	return o, nil
}

func unknownKind(k Kind) error {
	return fmt.Errorf("%w: unknown kind of object %q: written by a newer version? upgrade this node", ErrInvalid, k)
}

// Index names. The store's tables are named by kind, and claimTable.
const (
	byID   = "id"
	byNode = "node" // tasks by NodeID ("" = unassigned)
	bySlot = "slot" // tasks by ServiceID, Slot; its prefix lists a service's tasks
	prefix = "_prefix"
)

func newDB() *memdb.MemDB {
	tables := map[string]*memdb.TableSchema{
		claimTable: {Name: claimTable, Indexes: map[string]*memdb.IndexSchema{byID: unique(claimIndex{})}},
	}
	for _, k := range kinds {
		tables[string(k)] = &memdb.TableSchema{Name: string(k), Indexes: map[string]*memdb.IndexSchema{byID: unique(keyIndex{})}}
	}
	tasks := tables[string(KindTask)].Indexes
	tasks[byNode] = &memdb.IndexSchema{Name: byNode, Indexer: nodeIndex{}}
	tasks[bySlot] = &memdb.IndexSchema{Name: bySlot, Indexer: slotIndex{}}
	db, err := memdb.NewMemDB(&memdb.DBSchema{Tables: tables})
	if err != nil {
		panic(fmt.Sprintf("state: schema: %v", err)) // a constant: cannot happen once it did not in tests
	}
	// A snapshot is a database like another, without the tracking of watch channels that this store does not use.
	return db.Snapshot()
}

func unique(i memdb.Indexer) *memdb.IndexSchema {
	return &memdb.IndexSchema{Name: byID, Unique: true, Indexer: i}
}

// term ends a string in an index, so that no key is a prefix of another.
func term(s string) []byte { return append([]byte(s), 0) }

func stringArg(args []interface{}) (string, error) {
	if len(args) != 1 {
		return "", fmt.Errorf("index wants one argument, got %d", len(args))
	}
	s, ok := args[0].(string)
	if !ok {
		return "", fmt.Errorf("index wants a string, got %T", args[0])
	}
	return s, nil
}

// stringArgs serves the lookup side of indexes over one string.
type stringArgs struct{}

func (stringArgs) FromArgs(args ...interface{}) ([]byte, error) {
	s, err := stringArg(args)
	return term(s), err
}

func (stringArgs) PrefixFromArgs(args ...interface{}) ([]byte, error) {
	s, err := stringArg(args)
	return []byte(s), err
}

type keyIndex struct{ stringArgs }

func (keyIndex) FromObject(o interface{}) (bool, []byte, error) {
	return true, term(o.(Object).Key()), nil
}

type nodeIndex struct{ stringArgs }

func (nodeIndex) FromObject(o interface{}) (bool, []byte, error) {
	return true, term(o.(*Task).NodeID), nil
}

// slotIndex is ServiceID, then the slot big endian.
type slotIndex struct{}

func (slotIndex) FromObject(o interface{}) (bool, []byte, error) {
	t := o.(*Task)
	return true, slotKey(t.ServiceID, t.Slot), nil
}

func (slotIndex) FromArgs(args ...interface{}) ([]byte, error) {
	if len(args) != 2 {
		return nil, fmt.Errorf("slot index wants service and slot, got %d arguments", len(args))
	}
	service, ok1 := args[0].(string)
	slot, ok2 := args[1].(int)
	if !ok1 || !ok2 {
		return nil, fmt.Errorf("slot index wants string and int, got %T and %T", args[0], args[1])
	}
	return slotKey(service, slot), nil
}

// PrefixFromArgs takes a whole ServiceID.
func (slotIndex) PrefixFromArgs(args ...interface{}) ([]byte, error) {
	s, err := stringArg(args)
	return term(s), err
}

func slotKey(service string, slot int) []byte {
	return binary.BigEndian.AppendUint64(term(service), uint64(slot))
}
