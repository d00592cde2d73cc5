package state

import (
	"net/netip"

	"github.com/docker/docker/api/types/swarm"
)

// Assignments is everything one node is told: what it runs, and what it must know to carry packets for it. The leader
// computes it (sched.Assign), the session carries its changes (Delta), the node keeps the last one on disk.
type Assignments struct {
	// Tasks that this node runs or has to stop, by ID.
	Tasks map[string]AssignedTask `json:",omitempty"`
	// Networks by ID: those with a task on this node, and the ingress network.
	Networks map[string]AssignedNetwork `json:",omitempty"`
	// Services by ID: those in Networks, and all that publish ports.
	Services map[string]AssignedService `json:",omitempty"`
	// Endpoints by task ID: tasks of any node that are in Networks or serve a published port.
	Endpoints map[string]Endpoint `json:",omitempty"`
	// Nodes by ID: all other members of the swarm, and this node itself.
	Nodes map[string]AssignedNode `json:",omitempty"`
}

// AssignedTask is a task with the spec it follows.
type AssignedTask struct {
	Task Task
	Spec swarm.TaskSpec
	// EndpointSpec holds the host-mode ports.
	EndpointSpec *swarm.EndpointSpec `json:",omitempty"`
	// ServiceLabels are for templates.
	ServiceLabels map[string]string `json:",omitempty"`
}

// AssignedNetwork is what a node must know of a network.
type AssignedNetwork struct {
	ID       string
	Name     string
	Subnets  []netip.Prefix
	Gateways []netip.Addr // one per subnet
	Internal bool         `json:",omitempty"`
	Ingress  bool         `json:",omitempty"`
	MTU      int          `json:",omitempty"` // 0: the node's choice
}

// AssignedService is a service's face in its networks.
type AssignedService struct {
	ID   string
	Name string
	// VIPs by network ID; empty for dnsrr.
	VIPs map[string][]netip.Addr `json:",omitempty"`
	// Aliases by network ID.
	Aliases map[string][]string `json:",omitempty"`
	// Ports are the published ports with the numbers that the allocator gave.
	Ports []swarm.PortConfig `json:",omitempty"`
}

// Endpoint is a task as others may reach it.
type Endpoint struct {
	TaskID    string
	ServiceID string
	NodeID    string
	Slot      int
	// Name is service.slot.taskid, the container's name. Hostname is what the container calls itself.
	Name     string
	Hostname string `json:",omitempty"`
	// Addrs by network ID.
	Addrs map[string][]netip.Addr
	State EndpointState
}

// EndpointState tells whether an endpoint takes new flows.
type EndpointState string

// Endpoint states. An endpoint that is gone is no longer listed.
const (
	// EndpointUp: routed to, not (yet) serving: starting, or not healthy. It has an address but no name and no flows.
	EndpointUp EndpointState = "up"
	// EndpointServing: running and healthy.
	EndpointServing EndpointState = "serving"
	// EndpointDraining: asked to stop, still running; old flows live on.
	EndpointDraining EndpointState = "draining"
)

// AssignedNode is another member of the swarm.
type AssignedNode struct {
	ID       string
	Hostname string
	Mesh     MeshIdentity
	// ControlAddr is set for managers: where sessions may go.
	ControlAddr string `json:",omitempty"`
	Down        bool   `json:",omitempty"`
}

// Delta is a change of Assignments. Full replaces everything; otherwise Seq must be the last one plus one, and a gap
// means the receiver has to ask for a full one.
type Delta struct {
	Seq uint64
	// Index is that of the store which the assignments after this delta were made from: with it in force, the node has
	// taken in every change up to there.
	Index  uint64
	Full   bool `json:",omitempty"`
	Set    Assignments
	Remove Removals `json:",omitzero"`
}

// Removals lists the keys to forget, per map of Assignments.
type Removals struct {
	Tasks, Networks, Services, Endpoints, Nodes []string `json:",omitempty"`
}
