package dispatch

import (
	"context"
	"encoding/json"
	"net/netip"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

// The session's times. A node is down 2.5 s after its last sign of life, well within Swarm's promise here of three.
const (
	DefaultPeriod  = 750 * time.Millisecond  // between two signs of life, each way
	DefaultTimeout = 2500 * time.Millisecond // of silence
	// gracePeriods is what a new leader grants to all nodes, in periods.
	gracePeriods = 6
	// joinGrace is what a new node has for its first session.
	joinGrace = time.Minute
)

// Proposer changes the store through raft. Apply's sentinel errors survive errors.Is.
type Proposer interface {
	Propose(ctx context.Context, b state.Batch) (uint64, error)
}

// Clock is where the leader's time comes from. sched.Clock has the same shape.
type Clock interface {
	Now() time.Time
	// Timer fires once on the channel after d. stop releases it.
	Timer(d time.Duration) (fired <-chan time.Time, stop func())
}

// wall is the machine's clock.
type wall struct{}

// Now implements Clock.
func (wall) Now() time.Time { return time.Now() }

// Timer implements Clock.
func (wall) Timer(d time.Duration) (<-chan time.Time, func()) {
	t := time.NewTimer(d)
	return t.C, func() { t.Stop() }
}

// Facts is what a node tells of itself when a session begins, and whenever it changes.
type Facts struct {
	Description swarm.NodeDescription
	// Addr is the node's address as others know it; empty means the one it is seen with.
	Addr string `json:",omitempty"`
	// ControlAddr is host:port of the control port, for managers.
	ControlAddr string `json:",omitempty"`
	// MeshKey is the WireGuard public key, base64. Endpoint is where it is reached; an unspecified address means the one
	// that the node is seen with.
	MeshKey      string            `json:",omitempty"`
	Endpoint     netip.AddrPort    `json:",omitzero"`
	HostPrefixes []netip.Prefix    `json:",omitempty"`
	MinPort      uint16            `json:",omitempty"`
	PortErrors   map[string]string `json:",omitempty"`
}

// TaskStatus is what a node says about one task.
type TaskStatus struct {
	TaskID string
	Status swarm.TaskStatus
}

// LogRequest asks a node for the output of one of its tasks.
type LogRequest struct {
	TaskID  string
	Options container.LogsOptions
}

// Kinds of reverse streams.
const kindLogs = "logs"

// upMessage is what a node sends. An empty one is a sign of life.
type upMessage struct {
	Facts    *Facts       `json:",omitempty"`
	Batch    uint64       `json:",omitempty"` // number of Statuses
	Statuses []TaskStatus `json:",omitempty"`
	Resync   bool         `json:",omitempty"` // send the full assignments again
	Applied  uint64       `json:",omitempty"` // the delta with this index is in force
	Ask      []uint64     `json:",omitempty"` // say when all nodes have the store up to each of these
	Refusal  *refusal     `json:",omitempty"`
}

// downMessage is what the leader sends. An empty one is a sign of life.
type downMessage struct {
	Welcome *welcome     `json:",omitempty"`
	Delta   *state.Delta `json:",omitempty"`
	More    bool         `json:",omitempty"` // the next delta belongs to this one: wait for it
	Ack     uint64       `json:",omitempty"` // the batch with this number is in the store
	Known   uint64       `json:",omitempty"` // every node has the store up to this index in force
	Open    *opening     `json:",omitempty"`
	Renew   bool         `json:",omitempty"` // the node's role has changed: fetch a new certificate
}

type welcome struct {
	Period, Timeout time.Duration
}

// opening asks the node for a reverse stream; refusal is the answer when there will be none.
type opening struct {
	ID      string
	Kind    string
	Request json.RawMessage
}

type refusal struct {
	ID      string
	Message string
}

// NodeReady tells whether a node has a living session with the leader: what `docker node ls` shows as Ready.
func NodeReady(n *state.Node) bool { return n != nil && n.Status.State == swarm.NodeStateReady }
