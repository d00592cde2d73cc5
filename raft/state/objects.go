package state

import (
	"net/netip"
	"time"

	"github.com/docker/docker/api/types/swarm"
)

// Kind names a table of the store, and with it the type of the objects in it.
type Kind string

// The kinds of objects the cluster remembers.
const (
	KindCluster  Kind = "cluster"
	KindNode     Kind = "node"
	KindService  Kind = "service"
	KindRevision Kind = "revision"
	KindTask     Kind = "task"
	KindNetwork  Kind = "network"
)

// Object is anything the store keeps. Objects handed out by a View are shared and must not be changed: Clone first.
type Object interface {
	// Kind tells the table.
	Kind() Kind
	// Key is the primary key inside the table.
	Key() string
	// Head gives the bookkeeping that Apply maintains.
	Head() *Header
	// CloneObject returns a deep enough copy that the caller may change and propose.
	CloneObject() Object
}

// Header is what the store maintains on every object.
//
// Docker's clients send back Version.Index to prove that they saw the newest spec. It moves only when a person (or tool)
// changes the object's spec, so that an allocation or a heartbeat never makes a user's update fail with
// "update out of sequence". Modified moves with every change, and is what proposals are checked against.
type Header struct {
	swarm.Meta
	// Modified is the raft index of the last change of any kind. 0 = not stored yet.
	Modified uint64 `json:",omitempty"`
}

// Head implements Object.
func (h *Header) Head() *Header { return h }

// Cluster is the one object of the swarm as a whole. Its key is always ClusterKey.
type Cluster struct {
	ID string
	Header
	Spec swarm.Spec
	// RootCert is the authority's certificate, PEM.
	RootCert []byte
	// RootKey is the authority's private key, PEM (PKCS#8). It never leaves the managers' encrypted storage.
	RootKey         []byte
	JoinTokens      swarm.JoinTokens
	DefaultAddrPool []netip.Prefix
	// SubnetSize is the prefix length of subnets carved from DefaultAddrPool for IPv4 networks.
	SubnetSize   int
	DataPathPort uint16
	// MeshSubnet holds the nodes' own addresses inside the mesh. Tasks cannot reach it.
	MeshSubnet netip.Prefix
	// RemovedNodes are the IDs of nodes that were removed while their certificate is still valid, with that
	// certificate's end: such a certificate is refused everywhere.
	RemovedNodes map[string]time.Time `json:",omitempty"`
}

// ClusterKey is the key of the only Cluster object.
const ClusterKey = "default"

// Node is a machine that runs tasks, and perhaps a manager.
type Node struct {
	ID string
	Header
	// Spec is what the user wants: labels, role, availability.
	Spec swarm.NodeSpec
	// Role is what the node's certificate says now.
	Role swarm.NodeRole
	// Description is what the node reported at its last session.
	Description swarm.NodeDescription
	Status      swarm.NodeStatus
	// Down is when Status.State last became down.
	Down time.Time `json:",omitzero"`
	// Downs are the latest times at which it became down, oldest first, at most MaxDowns: a node that comes and goes is
	// given new tasks only after a while.
	Downs []time.Time `json:",omitempty"`
	// ControlAddr is host:port of the node's control port (managers only).
	ControlAddr string `json:",omitempty"`
	Mesh        MeshIdentity
	// HostPrefixes are the networks that the host routes itself; the allocator keeps overlays out of them.
	HostPrefixes []netip.Prefix `json:",omitempty"`
	// MinPort is the lowest port that the node's agent may listen on (1 where it is privileged, usually 1024 else).
	MinPort uint16 `json:",omitempty"`
	// PortErrors tells, for published ports ("8080/tcp") that this node could not open, why.
	PortErrors map[string]string `json:",omitempty"`
	// CertExpiry is the end of the node's current certificate.
	CertExpiry time.Time `json:",omitzero"`
}

// MeshIdentity is how a node is reached in the mesh.
type MeshIdentity struct {
	// PublicKey is the WireGuard public key, base64.
	PublicKey string `json:",omitempty"`
	// Endpoint is the UDP ip:port that peers send to.
	Endpoint netip.AddrPort `json:",omitzero"`
	// Addr is the node's own address inside the mesh, out of Cluster.MeshSubnet; given by the allocator.
	Addr netip.Addr `json:",omitzero"`
}

// Service is a set of like tasks, a name and an endpoint.
type Service struct {
	ID string
	Header
	Spec         swarm.ServiceSpec
	PreviousSpec *swarm.ServiceSpec `json:",omitempty"`
	// SpecVersion counts what tasks must follow: it grows by one whenever Spec.TaskTemplate or Spec.EndpointSpec changed.
	// The Revision with this number holds the task spec.
	SpecVersion uint64
	Endpoint    swarm.Endpoint
	// PendingDelete is set when the user removed the service and its tasks are still stopping. Such a service is
	// not visible in the API and serves no new flow.
	PendingDelete bool                `json:",omitempty"`
	UpdateStatus  *swarm.UpdateStatus `json:",omitempty"`
	// JobStatus is set for jobs: JobIteration grows with every update, LastExecution is when.
	JobStatus *swarm.JobStatus `json:",omitempty"`
	// Rebalance is set while replicas move to other nodes for a better spread.
	Rebalance *Rebalance `json:",omitempty"`
}

// Rebalance asks for some tasks of a service to be replaced on other nodes, by the rules of its updates.
type Rebalance struct {
	Requested time.Time
	// Tasks are the IDs of those to replace.
	Tasks []string
}

// Revision is one version of the part of a service's spec that its tasks follow. Tasks refer to it, so that a million
// tasks share a few of them. Key: RevisionKey(ServiceID, SpecVersion).
type Revision struct {
	ServiceID   string
	SpecVersion uint64
	Header
	Spec     swarm.TaskSpec
	Endpoint *swarm.EndpointSpec `json:",omitempty"`
}

// Task is one attempt to run one slot of a service on one node. It is never moved: a replacement is another task.
type Task struct {
	ID string
	Header
	ServiceID string
	// ServiceName is kept because a task may outlive its service while it stops.
	ServiceName string
	SpecVersion uint64
	// Slot numbers the tasks of replicated services and jobs, from 1. It is 0 for those of global ones: such a task is
	// its node's, and has a NodeID from the start.
	Slot   int
	NodeID string `json:",omitempty"`
	// Iteration is the job's iteration that the task belongs to; 0 for services that are no jobs.
	Iteration uint64 `json:",omitempty"`
	// DesiredState only grows (Rank); Status.State only grows.
	DesiredState swarm.TaskState
	Status       swarm.TaskStatus
	// AppliedAt is when the leader took the newest Status in, by the leader's clock.
	AppliedAt time.Time `json:",omitzero"`
	// RunningAt is when the leader learned that the task runs, by the leader's clock.
	RunningAt time.Time    `json:",omitzero"`
	Networks  []Attachment `json:",omitempty"`
	// GenericResources are those of the node that the scheduler gave to this task.
	GenericResources []swarm.GenericResource `json:",omitempty"`
	// Crashes counts the tasks in the same place just before this one that ended by themselves soon after their start.
	Crashes uint32 `json:",omitempty"`
	// Evicted is set when the leader ended the task because its node no longer meets what its service asks for: that
	// costs no restart attempt.
	Evicted bool `json:",omitempty"`
}

// MaxDowns bounds Node.Downs.
const MaxDowns = 8

// Place is what a task stands for in its service: a numbered slot, or a node.
type Place struct {
	Slot   int
	NodeID string // "" when Slot is not 0
}

// Place tells what the task stands for.
func (t *Task) Place() Place {
	if t.Slot != 0 {
		return Place{Slot: t.Slot}
	}
	return Place{NodeID: t.NodeID}
}

// Attachment is a task's place in one network.
type Attachment struct {
	NetworkID string
	// Addresses, one per address family, with the subnet's prefix length.
	Addresses []netip.Prefix
	Aliases   []string `json:",omitempty"`
}

// Network is an overlay network of the swarm.
type Network struct {
	ID string
	Header
	Spec swarm.NetworkSpec
	// IPAM is what the allocator decided: one config per address family, Subnet and Gateway always set.
	// nil while the network waits for its allocation.
	IPAM *swarm.IPAMOptions `json:",omitempty"`
	// PendingDelete: removed by the user, waits for the last task to let go.
	PendingDelete bool `json:",omitempty"`
}
