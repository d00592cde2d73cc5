// Package sched is the leader's mind: from services and nodes it makes tasks on nodes, gives them addresses, and keeps
// them running as their services want. It does no IO: it reads the store, and it changes the store through a Proposer.
//
// Leader.Run is one term. One goroutine follows the store's watch; one goroutine thinks, in passes. A pass works on the
// board (board.go), the leader's own indexed picture of the store, and runs the parts one after another:
//
//	allocator     networks get subnets, nodes mesh addresses, services virtual IPs and ports, tasks addresses
//	enforcer      tasks whose node no longer has what they need are evicted
//	orchestrator  places (slots, nodes) of services and jobs: create, scale, remove; with the restart supervisor, the
//	              updater (updates, rollbacks, rebalances) and the automatic rebalance
//	scheduler     pending tasks get a node, or the reason why there is none
//	reaper        what is over is deleted: history, removed tasks, services, revisions, networks
//
// Each part drafts changes on the board, so that the next one sees them in the same pass: a service that was just
// created has assigned tasks after one round of consensus. At the end of the pass the draft is proposed in batches. What
// the store refuses (somebody else was faster) is taken off the board and thought about again; nothing is ever decided
// on a draft that the store did not accept.
//
// Nothing that matters lives in memory only: addresses in use, restart attempts, the delay of a replacement and the
// state of a rolling update are read from the store at the start of a term. What memory adds (which workers of an update
// wait out the delay) costs at most an earlier next step when the leader changes.
//
// Given Config.Clock and Config.NewID a run is deterministic: ties are broken by ID, there is no randomness.
//
// What nodes must know is Assigner's (assigner.go): it follows the commits, and tells for each node what has changed. It is safe
// for concurrent use and has no goroutine. Assign, Diff and Patch (assign.go, diff.go) say the same as pure functions;
// Patch is also what nodes do with what they are told. CheckSubnet, CheckConstraints and
// CheckPreferences are for whoever validates specs, Explain is for whoever asks why.
//
// The rules are Swarm's; where and why they differ: DESIGN.md.
package sched
