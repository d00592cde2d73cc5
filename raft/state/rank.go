package state

import "github.com/docker/docker/api/types/swarm"

// ranks are Swarm's own numbers (swarmkit api/types.proto, TaskState).
var ranks = map[swarm.TaskState]int{
	swarm.TaskStateNew:       0,
	swarm.TaskStateAllocated: 64, // old name of pending
	swarm.TaskStatePending:   64,
	swarm.TaskStateAssigned:  192,
	swarm.TaskStateAccepted:  256,
	swarm.TaskStatePreparing: 320,
	swarm.TaskStateReady:     384,
	swarm.TaskStateStarting:  448,
	swarm.TaskStateRunning:   512,
	swarm.TaskStateComplete:  576,
	swarm.TaskStateShutdown:  640,
	swarm.TaskStateFailed:    704,
	swarm.TaskStateRejected:  768,
	swarm.TaskStateRemove:    800,
	swarm.TaskStateOrphaned:  832,
}

// Rank orders task states: a task's observed and desired state only grow. The empty state ranks as NEW, an unknown one
// below it (-1).
func Rank(s swarm.TaskState) int {
	if s == "" {
		return 0
	}
	if r, ok := ranks[s]; ok {
		return r
	}
	return -1
}

// Terminal tells whether a task in this observed state has ended and will never run again.
func Terminal(s swarm.TaskState) bool { return Rank(s) >= ranks[swarm.TaskStateComplete] }
