// Package sim holds the simulation of the whole control loop at size: a thousand nodes and more on one machine, with
// everything between a service's spec and a node's tasks as in the product, and only the nodes' insides pretended.
//
// Real are the three managers (raft with its log on disk, the store, the scheduler, the dispatcher, the control port), the
// sessions (rpc streams over TLS on loopback, an address per node), and on each node the session's client and the worker.
// Simulated are the executor, whose containers are entries of a map that take a few milliseconds to prepare, start and
// stop; the failures of such steps, injected by name; and the loss of machines: their lines fall silent, or they die.
//
// The managers are in the process of the test, with what checks them; the nodes are in another one (nodes_test.go). So what
// managers and nodes use of processors and memory is told apart. The nodes share a line of limited rate (line_test.go).
//
// TestControlLoop plays one scenario (scenario_test.go): services with virtual IPs and published ports, the loss of a tenth
// of the nodes, their return, a rolling update with another loss and the leader's death in its middle. From beginning to
// end every commit of every manager is audited (audit_test.go), and so is what really runs (world_test.go). Its default
// size is that of an ordinary test; flags make it larger (options_test.go), and -report writes what it took.
package sim
