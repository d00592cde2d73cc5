package agent

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
	"github.com/meshswarm/meshswarm/secrets"
)

// Addresses of a new swarm.
var (
	// meshSubnet holds the nodes' own addresses: shared address space (RFC 6598), which no overlay is carved from.
	meshSubnet = netip.MustParsePrefix("100.127.0.0/16")
	// ingressSubnet has room for 4,000 tasks with published ports; Swarm's /24 runs out at 250.
	ingressSubnet = netip.MustParsePrefix("10.0.0.0/20")
)

const (
	// subnetSize is the prefix length of automatic overlay subnets, as Swarm's default.
	subnetSize  = 24
	ingressName = "ingress"
	certExpiry  = 90 * 24 * time.Hour
)

// newSwarm is what the first manager makes before the first log entry: the authority and its own certificate.
type newSwarm struct {
	swarmID   string
	authority *secrets.Authority
	identity  *secrets.Identity
}

// createSwarm makes a new authority and this node's manager identity. Nothing is stored yet.
func createSwarm(now time.Time) (*newSwarm, error) {
	authority, err := secrets.NewAuthority()
	if err != nil {
		return nil, fmt.Errorf("create the swarm's authority: %w", err)
	}
	key, csr, err := secrets.NewKey()
	if err != nil {
		return nil, fmt.Errorf("create the node's key: %w", err)
	}
	swarmID := state.NewID()
	cert, err := authority.Sign(csr, state.NewID(), swarmID, secrets.RoleManager, certExpiry, now)
	if err != nil {
		return nil, fmt.Errorf("sign the node's certificate: %w", err)
	}
	identity, err := secrets.NewIdentity(authority.CertPEM(), cert, key)
	if err != nil {
		return nil, err
	}
	return &newSwarm{swarmID: swarmID, authority: authority, identity: identity}, nil
}

// batch is the swarm's first log entry: the cluster, its first node and the ingress network.
func (b *newSwarm) batch(s settings, now time.Time) (state.Batch, error) {
	key, err := b.authority.KeyPEM()
	if err != nil {
		return state.Batch{}, err
	}
	var tokens swarm.JoinTokens
	for _, t := range []*string{&tokens.Worker, &tokens.Manager} {
		if *t, err = secrets.NewToken(b.authority.Digest()); err != nil {
			return state.Batch{}, fmt.Errorf("make a join token: %w", err)
		}
	}
	cluster := &state.Cluster{
		ID: b.swarmID, Spec: defaultSpec(), RootCert: b.authority.CertPEM(), RootKey: key, JoinTokens: tokens,
		DefaultAddrPool: s.pools, SubnetSize: subnetSize, DataPathPort: s.DataPathPort, MeshSubnet: meshSubnet,
	}
	node := &state.Node{
		ID:   b.identity.NodeID(),
		Role: swarm.NodeRoleManager,
		Spec: swarm.NodeSpec{
			Annotations: swarm.Annotations{Labels: map[string]string{}},
			Role:        swarm.NodeRoleManager, Availability: swarm.NodeAvailabilityActive,
		},
		Status:      swarm.NodeStatus{State: swarm.NodeStateUnknown, Addr: s.advertise.Addr().String()},
		ControlAddr: s.advertise.String(),
		CertExpiry:  b.identity.Expiry(),
	}
	return state.Batch{Time: now, Ops: []state.Op{
		{Action: state.Create, Object: cluster},
		{Action: state.Create, Object: node},
		{Action: state.Create, Object: ingressNetwork(s.pools)},
	}}, nil
}

// ingressNetwork is where tasks with published ports are reached. Its subnet is fixed when the pools hold it, so that
// people recognise it; else the allocator finds one.
func ingressNetwork(pools []netip.Prefix) *state.Network {
	n := &state.Network{ID: state.NewID(), Spec: swarm.NetworkSpec{
		Annotations:         swarm.Annotations{Name: ingressName, Labels: map[string]string{}},
		DriverConfiguration: &swarm.Driver{Name: "overlay"},
		Ingress:             true, Scope: "swarm",
	}}
	for _, p := range pools {
		if p.Overlaps(ingressSubnet) && p.Bits() <= ingressSubnet.Bits() {
			n.Spec.IPAMOptions = &swarm.IPAMOptions{
				Driver:  swarm.Driver{Name: "default"},
				Configs: []swarm.IPAMConfig{{Subnet: ingressSubnet.String(), Gateway: ingressSubnet.Addr().Next().String()}},
			}
		}
	}
	return n
}

// defaultSpec is Swarm's own default, with a heartbeat that finds a dead node within three seconds.
func defaultSpec() swarm.Spec {
	history := int64(5)
	snapshots := uint64(0)
	return swarm.Spec{
		Annotations:   swarm.Annotations{Name: "default", Labels: map[string]string{}},
		Orchestration: swarm.OrchestrationConfig{TaskHistoryRetentionLimit: &history},
		Raft: swarm.RaftConfig{
			SnapshotInterval: 10000, KeepOldSnapshots: &snapshots, LogEntriesForSlowFollowers: 500, ElectionTick: 10, HeartbeatTick: 1,
		},
		Dispatcher: swarm.DispatcherConfig{HeartbeatPeriod: heartbeatPeriod},
		CAConfig:   swarm.CAConfig{NodeCertExpiry: certExpiry},
	}
}

// heartbeatPeriod is how often a node and its manager say that they live.
const heartbeatPeriod = 750 * time.Millisecond
