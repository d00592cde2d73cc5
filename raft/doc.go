// Package raft is the cluster's memory: it replicates batches of changes among the managers with hashicorp/raft, and
// applies them to each manager's raft/state.Store. It is the only package that imports hashicorp/raft (as hraft).
//
// A Raft is made by New, which does no IO, and lives in Run, which opens the directory, takes part in elections and
// replication, and returns when its context ends (nil) or the storage fails (an error: the process should end). Propose
// replicates one batch; Lead runs the leader's loops once per term, after everything committed is applied; Verify confirms
// the leadership for a linearizable read; AddManager and RemoveManager change the membership.
//
// Everything on disk except term, vote, indexes and the managers' addresses in a snapshot's head is sealed. Connections
// come from a Stream, which has authenticated them; this package bounds what they can make it read.
//
// What runs concurrently: in Run, one errgroup with the watch over leadership and the watch over the storage, besides
// hashicorp/raft's own goroutines, all of which have ended when Run returns. Calls run hashicorp/raft's blocking functions
// in a goroutine each, so that a context can end the wait.
//
// It does not decide who is a manager, does not forward calls to the leader, and does not interpret what it stores.
// Protocol, files and trade-offs: DESIGN.md. Twins for tests: rafttest.
package raft
