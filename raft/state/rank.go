package state

import "github.com/docker/docker/api/types/swarm"

// terminal is the rank from which a task has ended.
const terminal = 576

// Rank orders task states: a task's observed and desired state only grow. The numbers are Swarm's own (swarmkit
// api/types.proto, TaskState). The empty state ranks as NEW, an unknown one below it (-1).
func Rank(s swarm.TaskState) int {
	switch s { // not a map: this is asked several times for each change of a task
	case "", swarm.TaskStateNew:
		return 0
	case swarm.TaskStateAllocated, swarm.TaskStatePending: // the first is the old name of the second
		return 64
	case swarm.TaskStateAssigned:
		return 192
	case swarm.TaskStateAccepted:
		return 256
	case swarm.TaskStatePreparing:
		return 320
	case swarm.TaskStateReady:
		return 384
	case swarm.TaskStateStarting:
		return 448
	case swarm.TaskStateRunning:
		return 512
	case swarm.TaskStateComplete:
		return terminal
	case swarm.TaskStateShutdown:
		return 640
	case swarm.TaskStateFailed:
		return 704
	case swarm.TaskStateRejected:
		return 768
	case swarm.TaskStateRemove:
		return 800
	case swarm.TaskStateOrphaned:
		return 832
	}
	return -1
}

// Terminal tells whether a task in this observed state has ended and will never run again.
func Terminal(s swarm.TaskState) bool { return Rank(s) >= terminal }
