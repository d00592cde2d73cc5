// Package dispatch is the conversation between the leader and the nodes: what a node has to run goes down, what became of
// it comes up.
//
// On the leader:
//
//	Dispatcher  holds one session per node: registers what the node tells of itself, sends it its assignments (a full one,
//	            then deltas), takes its statuses into the store in batches, and marks it down when it falls silent
//	Joiner      lets new nodes in by token, and renews certificates
//
// On every manager:
//
//	Guard       tells the control port who is still a member, and cuts off who no longer is
//
// On every node:
//
//	Client      finds the leader, keeps the session, hands the node its assignments, delivers its statuses
//	Renewer     replaces the node's certificate in time
//
// A session is one full-duplex stream (rpc.Stream). The node begins with its Facts; the leader answers with a welcome and
// the full assignments. From then on both sides send what they have, and an empty message when they have had nothing to
// say for a heartbeat's period. Deltas are numbered: a node that sees a gap asks for the full assignments again. Statuses
// travel in numbered batches, one at a time; the node keeps each until the leader says that it is in the store, so a status
// is never lost with a connection or a leader.
//
// The end of a connection means nothing: a node is down when it has not been heard of for 2.5 s, and until then may come
// back. A new leader grants all nodes six periods. A worker's word is taken for its own tasks only, and a task's observed
// state only grows.
//
// What a manager wants a node to send (logs) is asked for down the session; the node answers with a request of its own,
// whose body is the stream: a reverse stream. So a manager never dials a node.
//
// What is computed (assignments, their differences) comes as functions from package sched; what is stored goes
// through a Proposer. Both have fakes in the tests.
package dispatch
