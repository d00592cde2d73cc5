package api

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

const (
	initTimeout = 60 * time.Second
	// stopTimeout bounds the end of a node's tasks, which have grace periods of their own.
	stopTimeout = 5 * time.Minute
	// minCertExpiry is Swarm's.
	minCertExpiry = time.Hour
)

// Init implements swarm.Backend.
func (b *Backend) Init(req swarm.InitRequest) (string, error) {
	if b.local.Status().State != swarm.LocalNodeStateInactive {
		return "", unavailable(textSwarmExists)
	}
	switch {
	case req.Spec.Name != "" && req.Spec.Name != "default":
		return "", invalid(`swarm spec must be named "default"`)
	case req.AutoLockManagers:
		return "", notSupported("locking managers with a key (--autolock) is not supported yet: leave it off; the manager's data is encrypted with a key of the node")
	case req.ForceNewCluster:
		return "", notSupported("making a new swarm out of the state of a lost one (--force-new-cluster) is not supported yet")
	}
	ctx, cancel := context.WithTimeout(context.Background(), initTimeout)
	defer cancel()
	return b.local.Init(ctx, req)
}

// Join implements swarm.Backend.
func (b *Backend) Join(req swarm.JoinRequest) error {
	if b.local.Status().State != swarm.LocalNodeStateInactive {
		return unavailable(textSwarmExists)
	}
	if len(req.RemoteAddrs) == 0 || req.RemoteAddrs[0] == "" {
		return invalid("at least 1 RemoteAddr is required to join")
	}
	if req.JoinToken == "" {
		return invalid("a join token is required: ask a manager with `swarm join-token worker`")
	}
	ctx, cancel := context.WithTimeout(context.Background(), initTimeout)
	defer cancel()
	return b.local.Join(ctx, req)
}

// Leave implements swarm.Backend.
func (b *Backend) Leave(ctx context.Context, force bool) error {
	st := b.local.Status()
	if st.State == swarm.LocalNodeStateInactive {
		return unavailable(textNoSwarm)
	}
	if st.Manager && !force {
		return unavailable("%s", b.leavingManager(st.NodeID))
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	return b.local.Leave(ctx, force)
}

// leavingManager is Docker's warning of what the swarm loses.
func (b *Backend) leavingManager(nodeID string) string {
	c, ok := b.local.Cluster()
	if !ok {
		return textLeavingManager + "Doing so may lose the consensus of your cluster. " + textOnlyWayToRestore
	}
	reachable, total, self := 0, 0, false
	v := c.Store().View()
	for _, m := range c.Members() {
		total++
		if m.ID == nodeID {
			self = true
		}
		if m.ID == nodeID || memberReachable(c, v, m.ID) {
			reachable++
		}
	}
	switch {
	case self && total == 1:
		return textLeavingManager + textLastManager
	case self && reachable-2 <= total-reachable: // no quorum among the rest
		return textLeavingManager + fmt.Sprintf("Removing this node leaves %v managers out of %v. Without a Raft quorum your swarm will be inaccessible. ",
			reachable-1, total) + textOnlyWayToRestore
	}
	return textLeavingManager + textOnlyWayToRestore
}

// Inspect implements swarm.Backend.
func (b *Backend) Inspect() (swarm.Swarm, error) {
	_, v, err := b.view()
	if err != nil {
		return swarm.Swarm{}, err
	}
	c := v.Cluster()
	if c == nil {
		return swarm.Swarm{}, unavailable(textPreparing)
	}
	return swarm.Swarm{ClusterInfo: clusterInfo(c), JoinTokens: c.JoinTokens}, nil
}

func clusterInfo(c *state.Cluster) swarm.ClusterInfo {
	info := swarm.ClusterInfo{
		ID: c.ID, Meta: c.Meta, Spec: c.Spec,
		SubnetSize:   uint32(c.SubnetSize),
		DataPathPort: uint32(c.DataPathPort),
		TLSInfo:      tlsInfo(c.RootCert),
	}
	info.Spec.Labels = labels(c.Spec.Labels)
	info.Spec.CAConfig.SigningCACert, info.Spec.CAConfig.SigningCAKey = "", ""
	for _, p := range c.DefaultAddrPool {
		info.DefaultAddrPool = append(info.DefaultAddrPool, p.String())
	}
	return info
}

func tlsInfo(rootPEM []byte) swarm.TLSInfo {
	info := swarm.TLSInfo{TrustRoot: string(rootPEM)}
	if block, _ := pem.Decode(rootPEM); block != nil {
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil {
			info.CertIssuerSubject = cert.RawSubject
			info.CertIssuerPublicKey = cert.RawSubjectPublicKeyInfo
		}
	}
	return info
}

// Update implements swarm.Backend.
func (b *Backend) Update(version uint64, spec swarm.Spec, flags swarm.UpdateFlags) error {
	if flags.RotateManagerUnlockKey {
		return notSupported("locking managers with a key is not supported yet, so there is no unlock key to rotate")
	}
	return b.change(func(_ Cluster, v state.View) ([]state.Op, error) {
		old := v.Cluster()
		if old == nil {
			return nil, unavailable(textPreparing)
		}
		if old.Version.Index != version {
			return nil, outOfSequence()
		}
		c := old.Clone()
		var err error
		if c.Spec, err = mergeSpec(old.Spec, spec); err != nil {
			return nil, err
		}
		if err := b.rotate(c, flags); err != nil {
			return nil, err
		}
		return []state.Op{update(c, true)}, nil
	})
}

func (b *Backend) rotate(c *state.Cluster, flags swarm.UpdateFlags) error {
	if !flags.RotateWorkerToken && !flags.RotateManagerToken {
		return nil
	}
	if b.newToken == nil {
		return errors.New("rotate join token: this node cannot make tokens")
	}
	for _, t := range []struct {
		rotate bool
		token  *string
	}{{flags.RotateWorkerToken, &c.JoinTokens.Worker}, {flags.RotateManagerToken, &c.JoinTokens.Manager}} {
		if !t.rotate {
			continue
		}
		token, err := b.newToken(c.RootCert)
		if err != nil {
			return fmt.Errorf("rotate join token: %w", err)
		}
		*t.token = token
	}
	return nil
}

// mergeSpec takes what may change into the current spec and refuses the rest. A field that was left out stays as it is.
func mergeSpec(cur, want swarm.Spec) (swarm.Spec, error) {
	if want.Name != "" && want.Name != "default" {
		return cur, invalid(`swarm spec must be named "default"`)
	}
	for _, u := range []struct {
		differs bool
		what    string
	}{
		{differs(want.Raft.SnapshotInterval, cur.Raft.SnapshotInterval), "changing the snapshot interval"},
		{want.Raft.KeepOldSnapshots != nil && !reflect.DeepEqual(want.Raft.KeepOldSnapshots, cur.Raft.KeepOldSnapshots), "keeping old snapshots"},
		{differs(want.Raft.LogEntriesForSlowFollowers, cur.Raft.LogEntriesForSlowFollowers), "changing the log entries kept for slow followers"},
		{differs(want.Raft.ElectionTick, cur.Raft.ElectionTick), "changing the election tick"},
		{differs(want.Raft.HeartbeatTick, cur.Raft.HeartbeatTick), "changing the raft heartbeat tick"},
		{want.EncryptionConfig.AutoLockManagers != cur.EncryptionConfig.AutoLockManagers, "locking managers with a key (autolock)"},
		{len(want.CAConfig.ExternalCAs) > 0, "an external certificate authority"},
		{want.CAConfig.SigningCACert != "" || want.CAConfig.SigningCAKey != "" || want.CAConfig.ForceRotate != cur.CAConfig.ForceRotate, "rotating the certificate authority"},
		{want.TaskDefaults.LogDriver != nil && !reflect.DeepEqual(want.TaskDefaults.LogDriver, cur.TaskDefaults.LogDriver), "a default log driver"},
	} {
		if u.differs {
			return cur, notSupported("%s is not supported yet", u.what)
		}
	}
	out := cur
	out.Labels = labels(want.Labels)
	if want.Orchestration.TaskHistoryRetentionLimit != nil {
		out.Orchestration = want.Orchestration
	}
	switch p := want.Dispatcher.HeartbeatPeriod; {
	case p < 0:
		return cur, invalid("heartbeat time period cannot be a negative duration")
	case p > 0:
		out.Dispatcher.HeartbeatPeriod = p
	}
	switch e := want.CAConfig.NodeCertExpiry; {
	case e == 0:
	case e < minCertExpiry:
		return cur, invalid("minimum certificate expiry time is: %s", minCertExpiry)
	default:
		out.CAConfig.NodeCertExpiry = e
	}
	return out, nil
}

// differs is false for a value that was left out.
func differs[T comparable](want, cur T) bool {
	var zero T
	return want != zero && want != cur
}

// GetUnlockKey implements swarm.Backend. Managers are never locked, so the key is empty, as Docker says it.
func (b *Backend) GetUnlockKey() (string, error) {
	_, err := b.manager()
	return "", err
}

// UnlockSwarm implements swarm.Backend.
func (b *Backend) UnlockSwarm(swarm.UnlockRequest) error {
	if _, err := b.manager(); err != nil {
		return err
	}
	return conflict("swarm is not locked")
}
