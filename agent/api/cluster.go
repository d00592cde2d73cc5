package api

import (
	"context"
	"io"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

// Cluster is a manager's side of the swarm. Its methods are safe for concurrent use.
type Cluster interface {
	// Store is this manager's replica.
	Store() *state.Store
	// Propose makes a batch true everywhere and returns once Store has applied it. state's errors come through (errors.Is);
	// any other error means that it is not known whether the batch will be applied.
	Propose(ctx context.Context, b state.Batch) (index uint64, err error)
	// Leader is the leader's node ID and control address; "" when unknown.
	Leader() (id, addr string)
	// IsLeader tells whether this manager leads and serves: Store has all that earlier leaders committed.
	IsLeader() bool
	// Members are the raft members.
	Members() []Member
	// RemoveManager takes a manager out of raft, on the leader. The rest must keep a quorum.
	RemoveManager(ctx context.Context, nodeID string) error
	// Logs streams the log of a task from its node: the engine's own stream, with timestamps if asked for, multiplexed
	// (Docker's 8-byte frames) unless tty. An unreachable node is an error, soon.
	Logs(ctx context.Context, nodeID, taskID string, o LogOptions) (stream io.ReadCloser, tty bool, err error)
}

// Member is a manager in raft.
type Member struct {
	ID    string
	Addr  string // host:port of its control port
	Voter bool
}

// LogOptions are those of the Docker Engine API: Since is a Unix time with an optional fraction, Tail a count or "all".
type LogOptions struct {
	Follow, Stdout, Stderr, Timestamps bool
	Since, Tail                        string
}

// Local is the life of the node that the socket belongs to. Its methods are safe for concurrent use.
type Local interface {
	// Status is what the node is right now.
	Status() Status
	// Cluster is the node's manager side; false unless it is a manager whose store is open.
	Cluster() (Cluster, bool)
	// Assignments are the last ones the node got; zero when there are none.
	Assignments() state.Assignments
	// Init makes a new swarm and returns this node's ID. Called only while Status is inactive.
	Init(ctx context.Context, req swarm.InitRequest) (nodeID string, err error)
	// Join makes the node a member of a swarm. Called only while Status is inactive.
	Join(ctx context.Context, req swarm.JoinRequest) error
	// Leave ends the membership, with all tasks of the node. force: also when it is a manager, or the swarm cannot be told.
	Leave(ctx context.Context, force bool) error
	// Down stops the node and its tasks and keeps its membership. It may end the server before it returns.
	Down(ctx context.Context) error
}

// Status is a node as it sees itself.
type Status struct {
	State swarm.LocalNodeState
	// Error is why State is error or pending.
	Error    string
	NodeID   string
	NodeAddr string // address without port
	Hostname string
	// Manager is the role of the node's certificate.
	Manager bool
	// Managers are the managers this node knows of.
	Managers []swarm.Peer
}
