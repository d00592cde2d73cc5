package api

import (
	"errors"
	"fmt"

	"github.com/docker/docker/errdefs"
)

// Docker's own texts: clients and tools match on parts of them.
const (
	textNotInSwarm       = `This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm and try again.`
	textPreparing        = "This node is not a swarm manager. Manager is being prepared or has trouble connecting to the cluster."
	textWorker           = "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. Please run this command on a manager node or promote the current node to a manager."
	textLocked           = `Swarm is encrypted and needs to be unlocked before it can be used. Please use "docker swarm unlock" to unlock it.`
	textSwarmExists      = `This node is already part of a swarm. Use "docker swarm leave" to leave this swarm and join another one.`
	textNoSwarm          = "This node is not part of a swarm"
	textNoLeader         = "The swarm does not have a leader. It's possible that too few managers are online. Make sure more than half of the managers are online."
	textOutOfSequence    = "update out of sequence"
	textNameConflict     = "name conflicts with an existing object"
	textLeavingManager   = "You are attempting to leave the swarm on a node that is participating as a manager. "
	textLastManager      = "Removing the last manager erases all current state of the swarm. Use `--force` to ignore this message. "
	textOnlyWayToRestore = "The only way to restore a swarm that has lost consensus is to reinitialize it with `--force-new-cluster`. Use `--force` to suppress this message."
)

// errNotLeader answers a forwarded request on a manager that does not lead; the forwarding manager tries again.
var errNotLeader = errdefs.Unavailable(errors.New("this manager is not the leader"))

// The error classes of the Docker Engine API, by status: 400, 403, 404, 409, 501, 503.

func invalid(format string, args ...any) error {
	return errdefs.InvalidParameter(fmt.Errorf(format, args...))
}

func forbidden(format string, args ...any) error {
	return errdefs.Forbidden(fmt.Errorf(format, args...))
}

func notFound(format string, args ...any) error {
	return errdefs.NotFound(fmt.Errorf(format, args...))
}

func conflict(format string, args ...any) error {
	return errdefs.Conflict(fmt.Errorf(format, args...))
}

func notSupported(format string, args ...any) error {
	return errdefs.NotImplemented(fmt.Errorf(format, args...))
}

func unavailable(format string, args ...any) error {
	return errdefs.Unavailable(fmt.Errorf(format, args...))
}

// outOfSequence has no class in Docker's API, so it is a 500; tools match on the text.
func outOfSequence() error { return errors.New(textOutOfSequence) }
