package api

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

// GetNodes implements swarm.Backend.
func (b *Backend) GetNodes(opts swarm.NodeListOptions) ([]swarm.Node, error) {
	c, v, err := b.view()
	if err != nil {
		return nil, err
	}
	f := opts.Filters
	if err := f.Validate(keySet("id", "label", "membership", "name", "node.label", "role")); err != nil {
		return nil, err
	}
	for _, r := range f.Get("role") {
		if r := strings.ToLower(r); r != "" && r != string(swarm.NodeRoleManager) && r != string(swarm.NodeRoleWorker) {
			return nil, fmt.Errorf("Invalid role filter: '%s'", r) //lint:ignore ST1005 Docker's text
		}
	}
	for _, m := range f.Get("membership") {
		if m := strings.ToLower(m); m != "" && m != "accepted" && m != "pending" {
			return nil, fmt.Errorf("Invalid membership filter: '%s'", m) //lint:ignore ST1005 Docker's text
		}
	}
	out, nv := []swarm.Node{}, newNodeView(c, v)
	for _, n := range v.Nodes() {
		if matchPrefix(f, "id", n.ID) && matchPrefix(f, "name", n.Description.Hostname) &&
			matchLabels(f, "label", n.Description.Engine.Labels) && matchLabels(f, "node.label", n.Spec.Labels) &&
			matchFold(f.Get("role"), string(n.Role)) && matchFold(f.Get("membership"), "accepted") {
			out = append(out, nv.node(n))
		}
	}
	return out, nil
}

func matchFold(values []string, want string) bool {
	return len(values) == 0 || slices.ContainsFunc(values, func(s string) bool { return s == "" || strings.EqualFold(s, want) })
}

// GetNode implements swarm.Backend.
func (b *Backend) GetNode(id string) (swarm.Node, error) {
	c, v, err := b.view()
	if err != nil {
		return swarm.Node{}, err
	}
	n, err := findNode(v, id)
	if err != nil {
		return swarm.Node{}, err
	}
	return newNodeView(c, v).node(n), nil
}

// nodeView converts nodes of one view, with what they have in common looked up once.
type nodeView struct {
	state.View
	cluster Cluster
	leader  string
	members map[string]Member
	tls     swarm.TLSInfo
}

func newNodeView(c Cluster, v state.View) *nodeView {
	out := &nodeView{View: v, cluster: c, members: map[string]Member{}}
	out.leader, _ = c.Leader()
	for _, m := range c.Members() {
		out.members[m.ID] = m
	}
	if cl := v.Cluster(); cl != nil {
		out.tls = tlsInfo(cl.RootCert) // there is one authority
	}
	return out
}

func (v *nodeView) node(n *state.Node) swarm.Node {
	out := swarm.Node{ID: n.ID, Meta: n.Meta, Spec: n.Spec, Description: n.Description, Status: n.Status}
	out.Spec.Labels = labels(n.Spec.Labels)
	out.Description.TLSInfo = v.tls
	if out.Status.State == "" {
		out.Status.State = swarm.NodeStateUnknown
	}
	if m, ok := v.members[n.ID]; ok {
		out.ManagerStatus = &swarm.ManagerStatus{Leader: m.ID == v.leader, Reachability: swarm.ReachabilityUnreachable, Addr: m.Addr}
		if memberReachable(v.cluster, v.View, m.ID) {
			out.ManagerStatus.Reachability = swarm.ReachabilityReachable
		}
	}
	return out
}

// memberReachable: the leader is; of the others the leader's sessions know.
func memberReachable(c Cluster, v state.View, id string) bool {
	if leader, _ := c.Leader(); id == leader {
		return true
	}
	n := v.Node(id)
	return n != nil && n.Status.State == swarm.NodeStateReady
}

// UpdateNode implements swarm.Backend.
func (b *Backend) UpdateNode(id string, version uint64, spec swarm.NodeSpec) error {
	if spec.Role != swarm.NodeRoleManager && spec.Role != swarm.NodeRoleWorker {
		return invalid("invalid Role: %q", spec.Role)
	}
	switch spec.Availability {
	case swarm.NodeAvailabilityActive, swarm.NodeAvailabilityPause, swarm.NodeAvailabilityDrain:
	default:
		return invalid("invalid Availability: %q", spec.Availability)
	}
	for k := range spec.Labels {
		if k == "" || strings.ContainsFunc(k, unicode.IsSpace) || strings.Contains(k, "=") {
			return invalid("invalid node label %q: a label's key must not be empty, nor hold a space or =", k)
		}
	}
	return b.change(func(_ Cluster, v state.View) ([]state.Op, error) {
		old, err := findNode(v, id)
		if err != nil {
			return nil, err
		}
		if old.Version.Index != version {
			return nil, outOfSequence()
		}
		if spec.Role != old.Spec.Role {
			return nil, notSupported("changing the role of a node is not supported yet: let the node leave and join again with the other role's token")
		}
		n := old.Clone()
		n.Spec = spec
		n.Spec.Labels = labels(spec.Labels)
		return []state.Op{update(n, true)}, nil
	})
}

// RemoveNode implements swarm.Backend.
func (b *Backend) RemoveNode(id string, force bool) error {
	return b.change(func(c Cluster, v state.View) ([]state.Op, error) {
		n, err := findNode(v, id)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(c.Members(), func(m Member) bool { return m.ID == n.ID }) {
			if err := b.removeManager(c, n, force); err != nil {
				return nil, err
			}
		}
		if !force && n.Status.State == swarm.NodeStateReady {
			return nil, invalid("node %s is not down and can't be removed: let it leave (`meshswarm leave` there), or use --force", n.ID)
		}
		ops := []state.Op{{Action: state.Delete, Object: n, Expected: n.Modified}}
		if old := v.Cluster(); old != nil {
			ops = append(ops, update(b.banNode(old.Clone(), n), false))
		}
		return ops, nil
	})
}

// removeManager takes a manager that is down for good out of the quorum: it cannot leave by itself. One that runs is told
// to leave.
func (b *Backend) removeManager(c Cluster, n *state.Node, force bool) error {
	switch {
	case n.Status.State != swarm.NodeStateDown:
		return invalid("node %s is a cluster manager and is a member of the raft cluster: let it leave (`meshswarm leave --force` there)", n.ID)
	case !force:
		return invalid("node %s is a cluster manager that is down, and is a member of the raft cluster: if it never comes back, remove it with --force", n.ID)
	}
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	if err := c.RemoveManager(ctx, n.ID); err != nil {
		return fmt.Errorf("take manager %s out of the quorum: %w", n.ID, err)
	}
	return nil
}

// banNode keeps a removed node's certificate out until it ends, and forgets the ended ones.
func (b *Backend) banNode(c *state.Cluster, n *state.Node) *state.Cluster {
	now := b.now()
	banned := map[string]time.Time{}
	for id, end := range c.RemovedNodes {
		if end.After(now) {
			banned[id] = end
		}
	}
	end := n.CertExpiry
	if end.IsZero() {
		end = now.Add(c.Spec.CAConfig.NodeCertExpiry + minCertExpiry)
	}
	banned[n.ID] = end
	c.RemovedNodes = banned
	return c
}
