// Package agent is a meshswarm node: it wires the rooms together and owns their lives.
//
// A Node enters a swarm (creates one, joins one, or resumes from its data directory), then runs, in one errgroup:
//
//   - the data plane: netstack (links, fabric, gVisor stack, DNS, published ports) on top of mesh (WireGuard);
//   - the worker (agent/task) over the container engine (agent/docker), whose sandboxes are attached to the fabric;
//   - the session client (agent/dispatch) that brings assignments down and statuses up;
//   - the local API (agent/api) on a unix socket;
//   - on managers: the control port (agent/rpc), raft, and while this node leads, sched and the dispatcher.
//
// What the leader assigned is the only source of the data plane's tables: tables.go turns state.Assignments into
// netstack.Tables and mesh peers, and nothing else writes them. The newest assignments are kept on disk, sealed, so that
// a restarted agent carries packets before it has found a manager.
//
// node.go is the only file that knows all the rooms; it only constructs, connects and runs.
package agent
