package dispatch

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"unicode"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
	"github.com/meshswarm/meshswarm/secrets"
)

// Limits of what a node may say about itself: all of it is stored and shown to others.
const (
	maxText   = 512
	maxLabels = 256
	maxLists  = 1024

	meshKeySize = 32
)

// errMeshKey: two machines cannot be one peer of the mesh.
var errMeshKey = errors.New("another node that is up has the same mesh key: was this machine's data copied from it?")

// check refuses facts that no honest node sends.
func (f *Facts) check() error {
	d := &f.Description
	texts := []string{d.Hostname, d.Platform.OS, d.Platform.Architecture, d.Engine.EngineVersion, f.Addr, f.ControlAddr, f.MeshKey}
	for k, v := range d.Engine.Labels {
		texts = append(texts, k, v)
	}
	for _, p := range d.Engine.Plugins {
		texts = append(texts, p.Type, p.Name)
	}
	for k := range f.PortErrors {
		texts = append(texts, k)
	}
	for _, text := range texts {
		if len(text) > maxText || strings.ContainsFunc(text, unicode.IsControl) {
			return fmt.Errorf("a text is longer than %d bytes or holds control characters", maxText)
		}
	}
	if len(d.Engine.Labels) > maxLabels || len(d.Engine.Plugins) > maxLists || len(d.Resources.GenericResources) > maxLists ||
		len(f.HostPrefixes) > maxLists || len(f.PortErrors) > maxLists {
		return errors.New("a list is too long")
	}
	if d.Resources.NanoCPUs < 0 || d.Resources.MemoryBytes < 0 {
		return errors.New("negative resources")
	}
	if f.ControlAddr != "" {
		if _, _, err := net.SplitHostPort(f.ControlAddr); err != nil {
			return fmt.Errorf("control address: %w", err)
		}
	}
	if key, err := base64.StdEncoding.DecodeString(f.MeshKey); err != nil || (len(key) != meshKeySize && len(key) != 0) {
		return errors.New("mesh key: not a WireGuard public key")
	}
	for k, v := range f.PortErrors {
		f.PortErrors[k] = clip(v, maxText)
	}
	return nil
}

// clip cuts a text to at most n bytes and drops half characters at the end.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}

// register writes the node's facts, and that it is ready, into the store where they differ.
func (s *session) register(ctx context.Context) error {
	for {
		view := s.term.cfg.Store.View()
		old := view.Node(s.node)
		if old == nil {
			return errGone
		}
		s.mu.Lock()
		facts, version := s.facts, s.version
		s.mu.Unlock()
		if s.checked == old.Modified && s.checkedF == version {
			return nil
		}
		n := s.describe(old, facts)
		if reflect.DeepEqual(old, n) {
			s.checked, s.checkedF = old.Modified, version
			return nil
		}
		if n.Mesh.PublicKey != old.Mesh.PublicKey && keyTaken(view, n) {
			return errMeshKey
		}
		_, err := s.term.cfg.Proposer.Propose(ctx, state.Batch{
			Ops:  []state.Op{{Action: state.Update, Object: n, Expected: old.Modified}},
			Time: s.term.cfg.Clock.Now(),
		})
		if retry(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("register node: %w", err)
		}
		if old.Status.State != swarm.NodeStateReady {
			s.term.log.Info("node is ready", "node", s.node, "addr", n.Status.Addr)
		}
		return nil
	}
}

// keyTaken tells whether another node that is up has n's mesh key.
func keyTaken(view state.View, n *state.Node) bool {
	return n.Mesh.PublicKey != "" && slices.ContainsFunc(view.Nodes(), func(o *state.Node) bool {
		return o.ID != n.ID && o.Mesh.PublicKey == n.Mesh.PublicKey && NodeReady(o)
	})
}

// describe is the node as it should be stored.
func (s *session) describe(old *state.Node, f Facts) *state.Node {
	n := old.Clone()
	n.Description = f.Description
	n.Status = swarm.NodeStatus{State: swarm.NodeStateReady, Addr: f.Addr}
	if n.Status.Addr == "" {
		n.Status.Addr = s.addr
	}
	n.Role = s.role(old)
	n.ControlAddr = ""
	if isManager(n.Role) {
		n.ControlAddr = seenFrom(f.ControlAddr, s.addr)
	}
	n.Mesh.PublicKey, n.Mesh.Endpoint = f.MeshKey, f.Endpoint
	if addr := f.Endpoint.Addr(); f.Endpoint.IsValid() && addr.IsUnspecified() {
		if seen, err := netip.ParseAddr(s.addr); err == nil {
			n.Mesh.Endpoint = netip.AddrPortFrom(seen.Unmap().WithZone(""), f.Endpoint.Port())
		}
	}
	n.HostPrefixes, n.MinPort, n.PortErrors = f.HostPrefixes, f.MinPort, f.PortErrors
	if s.peer.Expiry.After(n.CertExpiry) {
		n.CertExpiry = s.peer.Expiry
	}
	tidy(n, old)
	return n
}

// role is what the certificate says, except that the old certificate of a demoted manager does not make it one again.
func (s *session) role(n *state.Node) swarm.NodeRole {
	if s.peer.Role != secrets.RoleManager {
		return swarm.NodeRoleWorker
	}
	if isManager(n.Role) || isManager(n.Spec.Role) {
		return swarm.NodeRoleManager
	}
	return n.Role
}

// tidy lets what is equal be the same, so that an absent and an empty list are no difference.
func tidy(n, old *state.Node) {
	if len(n.HostPrefixes) == 0 && len(old.HostPrefixes) == 0 {
		n.HostPrefixes = old.HostPrefixes
	}
	if len(n.PortErrors) == 0 && len(old.PortErrors) == 0 {
		n.PortErrors = old.PortErrors
	}
	if sameJSON(n.Description, old.Description) {
		n.Description = old.Description
	}
	if n.CertExpiry.Equal(old.CertExpiry) {
		n.CertExpiry = old.CertExpiry
	}
}

func isManager(r swarm.NodeRole) bool { return r == swarm.NodeRoleManager }

// seenFrom fills the host of an address that has none, or an unspecified one, with where its sender was seen.
func seenFrom(addr, seen string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return ""
	}
	if ip, err := netip.ParseAddr(host); host == "" || (err == nil && ip.IsUnspecified()) {
		host = seen
	}
	return net.JoinHostPort(host, port)
}
