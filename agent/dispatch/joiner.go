package dispatch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/agent/rpc"
	"github.com/meshswarm/meshswarm/raft/state"
	"github.com/meshswarm/meshswarm/secrets"
)

// maxJoins bounds the joins and renewals that are being worked on at once.
const maxJoins = 16

// JoinerConfig says what a Joiner needs.
type JoinerConfig struct {
	Store    *state.Store
	Proposer Proposer
	// Leader gives the leader's control address ("" when there is none), and whether that is this manager.
	Leader func() (addr string, self bool)
	Clock  Clock // nil: the machine's
	Logger *slog.Logger
}

// Joiner makes members: it answers join requests and renews certificates, on the leader. On other managers it tells
// where the leader is.
type Joiner struct {
	cfg   JoinerConfig
	log   *slog.Logger
	slots chan struct{}
}

// NewJoiner checks cfg.
func NewJoiner(cfg JoinerConfig) (*Joiner, error) {
	if cfg.Store == nil || cfg.Proposer == nil || cfg.Leader == nil {
		return nil, errors.New("dispatch: a Joiner needs Store, Proposer and Leader")
	}
	if cfg.Clock == nil {
		cfg.Clock = wall{}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Joiner{cfg: cfg, log: cfg.Logger.With("component", "join"), slots: make(chan struct{}, maxJoins)}, nil
}

// Register puts the Joiner's routes on the control port.
func (j *Joiner) Register(s *rpc.Server) {
	s.Handle("POST "+rpc.PathJoin, rpc.AccessAnyone, http.HandlerFunc(j.ServeJoin))
	s.Handle("POST "+rpc.PathRenew, rpc.AccessMember, http.HandlerFunc(j.ServeRenew))
}

// enter lets the leader work on one more request; leave ends it.
func (j *Joiner) enter() (leader string, leave func(), err error) {
	leader, self := j.cfg.Leader()
	if !self {
		return "", nil, rpc.NotLeader(leader)
	}
	select {
	case j.slots <- struct{}{}:
		return leader, func() { <-j.slots }, nil
	default:
		return "", nil, rpc.ErrTooMany.With("try again in a moment")
	}
}

// ServeJoin is the handler of POST /v1/join.
func (j *Joiner) ServeJoin(w http.ResponseWriter, r *http.Request) {
	leader, leave, err := j.enter()
	if err != nil {
		rpc.WriteError(w, err)
		return
	}
	defer leave()
	var req rpc.JoinRequest
	if err := rpc.ReadJSON(r, &req); err != nil {
		rpc.WriteError(w, err)
		return
	}
	resp, err := j.join(r.Context(), leader, req, remoteHost(r))
	if err != nil {
		j.log.Warn("join refused", "addr", r.RemoteAddr, "err", err)
		rpc.WriteError(w, err)
		return
	}
	j.log.Info("node joined", "node", resp.NodeID, "addr", r.RemoteAddr, "role", string(resp.Role))
	rpc.WriteJSON(w, resp)
}

// roleOf tells which role a token gives. Both tokens are always compared.
func roleOf(c *state.Cluster, token string) (swarm.NodeRole, bool) {
	worker, manager := secrets.TokensEqual(c.JoinTokens.Worker, token), secrets.TokensEqual(c.JoinTokens.Manager, token)
	switch {
	case manager:
		return swarm.NodeRoleManager, true
	case worker:
		return swarm.NodeRoleWorker, true
	}
	return "", false
}

func (j *Joiner) join(ctx context.Context, leader string, req rpc.JoinRequest, seen string) (rpc.JoinResponse, error) {
	view := j.cfg.Store.View()
	cluster := view.Cluster()
	if cluster == nil {
		return rpc.JoinResponse{}, rpc.ErrUnavailable.With("it is still starting")
	}
	if _, err := secrets.ParseToken(req.Token); err != nil {
		return rpc.JoinResponse{}, rpc.ErrBadToken
	}
	role, ok := roleOf(cluster, req.Token)
	if !ok {
		return rpc.JoinResponse{}, rpc.ErrBadToken
	}
	node, err := newNode(req, role, seen)
	if err != nil {
		return rpc.JoinResponse{}, err
	}
	cert, expiry, err := j.sign(cluster, req.CSR, node.ID, role)
	if err != nil {
		return rpc.JoinResponse{}, err
	}
	node.CertExpiry = expiry
	batch := state.Batch{Ops: []state.Op{{Action: state.Create, Object: node}}, Time: j.cfg.Clock.Now()}
	if _, err := j.cfg.Proposer.Propose(ctx, batch); err != nil {
		return rpc.JoinResponse{}, rpc.ErrUnavailable.With("add node: %v", err)
	}
	return rpc.JoinResponse{
		NodeID: node.ID, SwarmID: cluster.ID, Role: certRole(role), Certificate: cert,
		Managers: managersOf(view, leader), DataPathPort: cluster.DataPathPort, RemoteAddr: seen,
	}, nil
}

// newNode is the object for a node that joins; its first session makes it ready.
func newNode(req rpc.JoinRequest, role swarm.NodeRole, seen string) (*state.Node, error) {
	facts := Facts{Description: swarm.NodeDescription{Hostname: req.Hostname}, ControlAddr: req.ControlAddr}
	if err := facts.check(); err != nil {
		return nil, rpc.ErrBadRequest.With("%v", err)
	}
	availability := swarm.NodeAvailability(req.Availability)
	switch availability {
	case "":
		availability = swarm.NodeAvailabilityActive
	case swarm.NodeAvailabilityActive, swarm.NodeAvailabilityPause, swarm.NodeAvailabilityDrain:
	default:
		return nil, rpc.ErrBadRequest.With("availability must be active, pause or drain")
	}
	n := &state.Node{
		ID: state.NewID(), Spec: swarm.NodeSpec{Role: role, Availability: availability}, Role: role,
		Description: facts.Description, Status: swarm.NodeStatus{State: swarm.NodeStateUnknown, Addr: seen},
	}
	if isManager(role) && req.ControlAddr != "" {
		n.ControlAddr = seenFrom(req.ControlAddr, seen)
	}
	return n, nil
}

// sign issues a certificate with the cluster's key.
func (j *Joiner) sign(c *state.Cluster, csr []byte, nodeID string, role swarm.NodeRole) (cert []byte, expiry time.Time, err error) {
	authority, err := secrets.ParseAuthority(c.RootCert, c.RootKey)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("sign certificate: %w", err)
	}
	validity := c.Spec.CAConfig.NodeCertExpiry
	if validity <= 0 {
		validity = secrets.DefaultValidity
	}
	now := j.cfg.Clock.Now()
	cert, err = authority.Sign(csr, nodeID, c.ID, certRole(role), validity, now)
	if errors.Is(err, secrets.ErrRequest) {
		return nil, time.Time{}, rpc.ErrBadRequest.With("%v", err)
	}
	return cert, now.Add(validity), err
}

func certRole(r swarm.NodeRole) secrets.Role {
	if isManager(r) {
		return secrets.RoleManager
	}
	return secrets.RoleWorker
}

// managersOf lists the control addresses of all managers, first first.
func managersOf(view state.View, first string) []string {
	var list []string
	if first != "" {
		list = append(list, first)
	}
	for _, n := range view.Nodes() {
		if isManager(n.Role) && n.ControlAddr != "" && n.ControlAddr != first && NodeReady(n) {
			list = append(list, n.ControlAddr)
		}
	}
	return list
}

// renewRequest and renewResponse are the bodies of POST /v1/renew.
type renewRequest struct {
	CSR []byte `json:"csr"`
}

type renewResponse struct {
	Certificate []byte `json:"certificate"`
}

// ServeRenew is the handler of POST /v1/renew: a member gets a new certificate for itself, with the role that it should
// have now.
func (j *Joiner) ServeRenew(w http.ResponseWriter, r *http.Request) {
	peer, ok := rpc.PeerFrom(r.Context())
	if !ok {
		rpc.WriteError(w, rpc.ErrNoCertificate)
		return
	}
	_, leave, err := j.enter()
	if err != nil {
		rpc.WriteError(w, err)
		return
	}
	defer leave()
	var req renewRequest
	if err := rpc.ReadJSON(r, &req); err != nil {
		rpc.WriteError(w, err)
		return
	}
	cert, err := j.renew(r.Context(), peer.NodeID, req.CSR)
	if err != nil {
		j.log.Warn("renewal refused", "node", peer.NodeID, "err", err)
		rpc.WriteError(w, err)
		return
	}
	rpc.WriteJSON(w, renewResponse{Certificate: cert})
}

// renew signs first and records the expiry before the certificate leaves: a node that is removed must stay refused for
// as long as any of its certificates is valid.
func (j *Joiner) renew(ctx context.Context, nodeID string, csr []byte) ([]byte, error) {
	for {
		view := j.cfg.Store.View()
		cluster, old := view.Cluster(), view.Node(nodeID)
		if cluster == nil || old == nil {
			return nil, rpc.ErrUnknownNode
		}
		cert, expiry, err := j.sign(cluster, csr, nodeID, old.Spec.Role)
		if err != nil {
			return nil, err
		}
		if !expiry.After(old.CertExpiry) {
			return cert, nil
		}
		n := old.Clone()
		n.CertExpiry = expiry
		_, err = j.cfg.Proposer.Propose(ctx, state.Batch{
			Ops:  []state.Op{{Action: state.Update, Object: n, Expected: old.Modified}},
			Time: j.cfg.Clock.Now(),
		})
		if retry(err) {
			continue
		}
		if err != nil {
			return nil, rpc.ErrUnavailable.With("renew certificate: %v", err)
		}
		return cert, nil
	}
}
