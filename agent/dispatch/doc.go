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
// say for a heartbeat's period. Deltas are numbered: a node that sees a gap asks for the full assignments again. A large one
// goes in parts (More), which count when the last has come. Statuses travel in numbered batches, one at a time; the node
// keeps each until the leader says that it is in the store, so a status is never lost with a connection or a leader.
//
// A commit wakes the sessions of the nodes that must hear of it (sched.Assigner). Each sends at once when it has sent little
// lately, and what has gathered in the meantime otherwise; no more of them work out what to send than there are processors.
// Statuses are stored in the same way: at once after a quiet time, in batches when there are many.
//
// What all nodes know. Each delta carries the index of the store that it was made from (Index); the node answers with
// it when its packets go by these assignments (Applied). A node that nothing concerns says nothing, and counts as having
// all. From this the leader knows up to which index every node that is ready has the store in force, the horizon, and tells
// it (Known) to the sessions that asked for an index (Ask), as soon as it is reached: Client.Known. Nodes ask for the index
// at which one of their tasks was told to stop, before they stop it. A node without a session holds the horizon where it
// was until it is down (2.5 s), a new leader's begins at nothing, and is where it was when every node has a session again.
//
// The end of a connection means nothing: a node is down when it has not been heard of for 2.5 s, and until then may come
// back. A new leader grants all nodes six periods. A worker's word is taken for its own tasks only, and a task's observed
// state only grows.
//
// What a manager wants a node to send (logs) is asked for down the session; the node answers with a request of its own,
// whose body is the stream: a reverse stream. So a manager never dials a node.
//
// What nodes are told is worked out by package sched; what is stored goes through a Proposer, which has a fake in the tests.
package dispatch
