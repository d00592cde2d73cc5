// Package task runs the tasks that a node is assigned.
//
// A Worker is given the whole set of assigned tasks (Assign) and moves each of them up Docker Swarm's state ladder, one
// transition at a time, through an Executor: the only thing it knows of a container runtime. What happens is reported
// through Config.Report and remembered in one sealed file, so that a restarted agent goes on where it was.
//
//	ACCEPTED → PREPARING → READY → STARTING → RUNNING → COMPLETE
//	              └ REJECTED          └ FAILED            SHUTDOWN, when asked to stop
//
// READY is a pause point: a task passes it only when more than READY is desired. An error ends the task, REJECTED before
// STARTING and FAILED from there on, unless it is an ErrTemporary: then the same step is tried again after a second and the
// status says why. A task that leaves the assignment is stopped and all that is left of it removed.
//
// Between the order to stop and the stop signal lies Config.Drain: nobody sends the task new flows any more and the old ones
// end. It is bounded by the task's grace period, and what it waits for in vain never keeps a task from stopping.
//
// Concurrency: Run owns one goroutine per task, one that saves the record, and one that removes what earlier lives of the
// agent left behind. A task's Controller is called by its goroutine only, one call at a time.
//
// Not here: which tasks there are (agent/dispatch brings them), containers (agent/docker), networks (package agent).
// Package tasktest has an executor in memory, and the conformance suite that every executor passes.
package task
