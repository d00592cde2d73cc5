// Package state is the cluster's memory without the cluster: the objects that a swarm consists of, and an indexed store
// that changes by batches. It knows no raft, no network and no disk.
//
// Objects (objects.go) are small structs around Docker's own spec types. A Task refers to a Revision of its service's
// spec instead of copying it. Assignments (assignments.go) is what a node is told; the store does not keep it.
//
// A Batch is the unit of change: applied whole or not at all, by Store.Apply, at a raft index. Apply is deterministic:
// times, IDs and choices come from the proposer, so that every manager that applies the same batches has the same store.
// Optimistic concurrency is Op.Expected against Header.Modified (ErrSequence: read again, decide again). Uniqueness is
// the store's own business, not the proposers': names of services and networks, addresses inside a network (tasks,
// virtual IPs, gateways), mesh addresses and published ingress ports are claims (claims.go) that Apply moves with the
// objects and refuses to give twice.
//
// Readers take a View, an immutable snapshot that costs nothing, or ViewAndWatch: a view and all commits after it, with
// nothing between. A reader too slow for its watch gets ErrLagged and starts again from a view.
//
// A batch travels as one version byte and JSON (encode.go); a snapshot is lines of JSON with a checksum (snapshot.go).
//
// The store sits on hashicorp/go-memdb (immutable radix trees). There are no goroutines here. Objects in views, commits
// and the store are shared: Clone before changing one.
//
// Who proposes what: ../../sched and ../../agent. How batches reach every manager: ../DESIGN.md.
package state
