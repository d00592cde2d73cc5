package api

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

func TestNodes(t *testing.T) {
	fc, c := startManager(t)
	n, _, err := c.NodeInspectWithRaw(t.Context(), "node1")
	if err != nil {
		t.Fatal(err)
	}
	if m := n.ManagerStatus; m == nil || !m.Leader || m.Reachability != "reachable" || m.Addr != "192.0.2.1:2377" {
		t.Errorf("manager status: %+v", n.ManagerStatus)
	}
	if n, _, err := c.NodeInspectWithRaw(t.Context(), testWorker[:8]); err != nil || n.ManagerStatus != nil {
		t.Errorf("worker: %+v, %v", n.ManagerStatus, err)
	}
	for _, tt := range []struct{ k, v, want string }{
		{"name", "node", "node1 node2"}, {"name", "node2", "node2"}, {"role", "worker", "node2"}, {"membership", "accepted", "node1 node2"},
		{"membership", "pending", ""}, {"id", testWorker[:6], "node2"}, {"label", "zone=a", "node1 node2"}, {"node.label", "zone", ""},
	} {
		list, err := c.NodeList(t.Context(), swarm.NodeListOptions{Filters: filters.NewArgs(filters.Arg(tt.k, tt.v))})
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, n := range list {
			names = append(names, n.Description.Hostname)
		}
		if got := sorted(names); got != tt.want {
			t.Errorf("%s=%s: %q, want %q", tt.k, tt.v, got, tt.want)
		}
	}
	_, err = c.NodeList(t.Context(), swarm.NodeListOptions{Filters: filters.NewArgs(filters.Arg("role", "king"))})
	wantError(t, err, cerrdefs.IsInternal, "Invalid role filter")

	w, _, err := c.NodeInspectWithRaw(t.Context(), "node2")
	if err != nil {
		t.Fatal(err)
	}
	w.Spec.Availability, w.Spec.Labels = swarm.NodeAvailabilityDrain, map[string]string{"disk": "ssd"}
	if err := c.NodeUpdate(t.Context(), w.ID, w.Version, w.Spec); err != nil {
		t.Fatal(err)
	}
	if got := fc.store.View().Node(testWorker); got.Spec.Availability != "drain" || got.Spec.Labels["disk"] != "ssd" {
		t.Errorf("after update: %+v", got.Spec)
	}
	wantError(t, c.NodeUpdate(t.Context(), w.ID, w.Version, w.Spec), cerrdefs.IsInternal, "update out of sequence")
	w, _, _ = c.NodeInspectWithRaw(t.Context(), "node2")
	w.Spec.Role = swarm.NodeRoleManager
	wantError(t, c.NodeUpdate(t.Context(), w.ID, w.Version, w.Spec), cerrdefs.IsNotImplemented, "changing the role")
	w.Spec.Role = "king"
	wantError(t, c.NodeUpdate(t.Context(), w.ID, w.Version, w.Spec), cerrdefs.IsInvalidArgument, `invalid Role: "king"`)
}

func TestRemoveNode(t *testing.T) {
	fc, c := startManager(t)
	remove := func(id string, force bool) error {
		return c.NodeRemove(t.Context(), id, swarm.NodeRemoveOptions{Force: force})
	}
	wantError(t, remove("node2", false), cerrdefs.IsInvalidArgument, "is not down and can't be removed: let it leave")
	wantError(t, remove("node1", true), cerrdefs.IsInvalidArgument, "is a member of the raft cluster")
	dead := fc.store.View().Node(testNode).Clone()
	dead.ID, dead.Description.Hostname, dead.Status.State, dead.Mesh.Addr = "deadmanager", "node8", swarm.NodeStateDown, netip.Addr{}
	fc.apply(t, state.Op{Action: state.Create, Object: dead})
	fc.members = append(fc.members, Member{ID: dead.ID, Addr: "192.0.2.8:2377", Voter: true})
	wantError(t, remove("node8", false), cerrdefs.IsInvalidArgument, "remove it with --force")
	if err := remove("node8", true); err != nil {
		t.Errorf("remove a dead manager: %v", err)
	}
	if len(fc.members) != 1 || fc.store.View().Node(dead.ID) != nil {
		t.Errorf("after its removal: %v", fc.members)
	}
	wantError(t, remove("node9", true), cerrdefs.IsNotFound, "node node9 not found")
	n := fc.store.View().Node(testWorker).Clone()
	n.Status.State = swarm.NodeStateDown
	n.CertExpiry = time.Now().Add(time.Hour)
	fc.change(t, n)
	cl := fc.store.View().Cluster().Clone()
	cl.RemovedNodes = map[string]time.Time{"longgone": time.Now().Add(-time.Hour)}
	fc.change(t, cl)
	if err := remove("node2", false); err != nil {
		t.Fatal(err)
	}
	removed := fc.store.View().Cluster().RemovedNodes
	if fc.store.View().Node(testWorker) != nil || len(removed) != 1 || !removed[testWorker].Equal(n.CertExpiry) {
		t.Errorf("after removal: banned %v", removed)
	}
}

func TestSwarmUpdate(t *testing.T) {
	fc, c := startManager(t)
	s, err := c.SwarmInspect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if s.ID != "swarmid" || s.JoinTokens.Worker != "SWMTKN-1-w" || s.DefaultAddrPool[0] != "10.0.0.0/8" || s.SubnetSize != 24 {
		t.Errorf("inspect: %+v", s)
	}
	two := int64(2)
	s.Spec.Orchestration.TaskHistoryRetentionLimit = &two
	s.Spec.CAConfig.NodeCertExpiry = 48 * time.Hour
	if err := c.SwarmUpdate(t.Context(), s.Version, s.Spec, swarm.UpdateFlags{RotateWorkerToken: true}); err != nil {
		t.Fatal(err)
	}
	got := fc.store.View().Cluster()
	if got.JoinTokens.Worker != "SWMTKN-1-new" || got.JoinTokens.Manager != "SWMTKN-1-m" || *got.Spec.Orchestration.TaskHistoryRetentionLimit != 2 ||
		got.Spec.CAConfig.NodeCertExpiry != 48*time.Hour || got.Spec.Raft.SnapshotInterval != 10000 {
		t.Errorf("after update: %+v", got)
	}
	wantError(t, c.SwarmUpdate(t.Context(), s.Version, s.Spec, swarm.UpdateFlags{}), cerrdefs.IsInternal, "update out of sequence")
	s, _ = c.SwarmInspect(t.Context())
	for _, tt := range []struct {
		edit func(*swarm.Spec)
		is   func(error) bool
		text string
	}{
		{func(s *swarm.Spec) { s.Name = "other" }, cerrdefs.IsInvalidArgument, `must be named "default"`},
		{func(s *swarm.Spec) { s.EncryptionConfig.AutoLockManagers = true }, cerrdefs.IsNotImplemented, "autolock"},
		{func(s *swarm.Spec) { s.Raft.SnapshotInterval = 5 }, cerrdefs.IsNotImplemented, "snapshot interval"},
		{func(s *swarm.Spec) { s.CAConfig.ForceRotate++ }, cerrdefs.IsNotImplemented, "certificate authority"},
		{func(s *swarm.Spec) { s.CAConfig.NodeCertExpiry = time.Minute }, cerrdefs.IsInvalidArgument, "minimum certificate expiry"},
	} {
		sp := s.Spec
		tt.edit(&sp)
		wantError(t, c.SwarmUpdate(t.Context(), s.Version, sp, swarm.UpdateFlags{}), tt.is, tt.text)
	}
	wantError(t, c.SwarmUpdate(t.Context(), s.Version, s.Spec, swarm.UpdateFlags{RotateManagerUnlockKey: true}), cerrdefs.IsNotImplemented, "unlock key")
	wantError(t, c.SwarmUnlock(t.Context(), swarm.UnlockRequest{UnlockKey: "x"}), cerrdefs.IsConflict, "swarm is not locked")
	if k, err := c.SwarmGetUnlockKey(t.Context()); err != nil || k.UnlockKey != "" {
		t.Errorf("unlock key: %v, %v", k, err)
	}
}

func TestSwarmMembership(t *testing.T) {
	fc := newFakeCluster(t)
	l := managerNode(fc)
	_, c := start(t, Config{Local: l})
	_, err := c.SwarmInit(t.Context(), swarm.InitRequest{})
	wantError(t, err, cerrdefs.IsUnavailable, "already part of a swarm")
	wantError(t, c.SwarmLeave(t.Context(), false), cerrdefs.IsUnavailable, "Removing the last manager erases all current state of the swarm")
	if l.left.Load() {
		t.Fatal("left without force")
	}
	if err := c.SwarmLeave(t.Context(), true); err != nil || !l.left.Load() {
		t.Errorf("leave by force: %v", err)
	}
	fc.members = append(fc.members, Member{ID: testWorker, Addr: "192.0.2.2:2377", Voter: true})
	wantError(t, c.SwarmLeave(t.Context(), false), cerrdefs.IsUnavailable, "leaves 1 managers out of 2")
	info, err := c.Info(t.Context())
	if err != nil || len(info.Swarm.Warnings) != 1 || !strings.Contains(strings.Join(info.Warnings, ""), "two-manager") {
		t.Errorf("warnings of two managers: %v %v", info.Warnings, err)
	}

	l.left.Store(false)
	if code, _, text := raw(t, socketOf(c), "POST", "/meshswarm/down", ""); code != 204 || !l.left.Load() {
		t.Errorf("down: %d %s", code, text)
	}

	_, c = start(t, Config{Local: &fakeLocal{status: Status{State: swarm.LocalNodeStateInactive}}})
	wantError(t, c.SwarmLeave(t.Context(), true), cerrdefs.IsUnavailable, "not part of a swarm")
	if id, err := c.SwarmInit(t.Context(), swarm.InitRequest{}); err != nil || id != "newnode" {
		t.Errorf("init: %q, %v", id, err)
	}
	wantError(t, c.SwarmJoin(t.Context(), swarm.JoinRequest{JoinToken: "t"}), cerrdefs.IsInvalidArgument, "RemoteAddr")
	if err := c.SwarmJoin(t.Context(), swarm.JoinRequest{JoinToken: "t", RemoteAddrs: []string{"192.0.2.1:2377"}}); err != nil {
		t.Errorf("join: %v", err)
	}
}

func TestNoManager(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status Status
		text   string
		header string
	}{
		{"inactive", Status{State: swarm.LocalNodeStateInactive}, textNotInSwarm, "inactive"},
		{"worker", Status{State: swarm.LocalNodeStateActive, NodeID: "n"}, textWorker, "active/worker"},
		{"manager starting", Status{State: swarm.LocalNodeStatePending, NodeID: "n", Manager: true}, textPreparing, "pending"},
		{"locked", Status{State: swarm.LocalNodeStateLocked, NodeID: "n"}, textLocked, "locked"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, c := start(t, Config{Local: &fakeLocal{status: tt.status}})
			for _, path := range []string{"/services", "/nodes", "/tasks", "/secrets", "/configs", "/swarm", "/v1.41/services/x", "/swarm/unlockkey", "/secrets/x"} {
				code, _, text := raw(t, socketOf(c), "GET", path, "")
				if code != 503 || !strings.Contains(text, strings.ReplaceAll(tt.text, `"`, `\"`)) {
					t.Errorf("%s: %d %s", path, code, text)
				}
			}
			_, h, _ := raw(t, socketOf(c), "GET", "/_ping", "")
			if h.Get("Swarm") != tt.header {
				t.Errorf("Swarm header %q, want %q", h.Get("Swarm"), tt.header)
			}
			info, err := c.Info(t.Context())
			if err != nil || info.Swarm.LocalNodeState != tt.status.State || info.Swarm.ControlAvailable {
				t.Errorf("info: %+v, %v", info.Swarm, err)
			}
		})
	}
}

func TestSecretsAndConfigs(t *testing.T) {
	_, c := startManager(t)
	if l, err := c.SecretList(t.Context(), swarm.SecretListOptions{}); err != nil || l == nil || len(l) != 0 {
		t.Errorf("secrets: %v, %v", l, err)
	}
	if l, err := c.ConfigList(t.Context(), swarm.ConfigListOptions{}); err != nil || l == nil || len(l) != 0 {
		t.Errorf("configs: %v, %v", l, err)
	}
	_, err := c.SecretCreate(t.Context(), swarm.SecretSpec{})
	wantError(t, err, cerrdefs.IsNotImplemented, "secrets are not supported yet")
	_, err = c.ConfigCreate(t.Context(), swarm.ConfigSpec{})
	wantError(t, err, cerrdefs.IsNotImplemented, "configs are not supported yet")
	wantError(t, c.SecretRemove(t.Context(), "x"), cerrdefs.IsNotFound, "secret x not found")
}

func TestNodeUpdateRefused(t *testing.T) {
	_, c := startManager(t)
	good := swarm.NodeSpec{Role: swarm.NodeRoleWorker, Availability: swarm.NodeAvailabilityPause, Annotations: swarm.Annotations{Labels: map[string]string{"disk": ""}}}
	n, _, err := c.NodeInspectWithRaw(t.Context(), "node2")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		edit func(*swarm.NodeSpec)
		is   func(error) bool
		text string
	}{
		{"no role", func(s *swarm.NodeSpec) { s.Role = "" }, cerrdefs.IsInvalidArgument, `invalid Role: ""`},
		{"no availability", func(s *swarm.NodeSpec) { s.Availability = "" }, cerrdefs.IsInvalidArgument, `invalid Availability: ""`},
		{"unknown availability", func(s *swarm.NodeSpec) { s.Availability = "asleep" }, cerrdefs.IsInvalidArgument, `invalid Availability: "asleep"`},
		{"promote", func(s *swarm.NodeSpec) { s.Role = swarm.NodeRoleManager }, cerrdefs.IsNotImplemented, "changing the role of a node is not supported yet"},
		{"empty label", func(s *swarm.NodeSpec) { s.Labels = map[string]string{"": "x"} }, cerrdefs.IsInvalidArgument, `invalid node label ""`},
		{"label with a space", func(s *swarm.NodeSpec) { s.Labels = map[string]string{"a b": "x"} }, cerrdefs.IsInvalidArgument, `invalid node label "a b"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := good
			tt.edit(&s)
			wantError(t, c.NodeUpdate(t.Context(), n.ID, n.Version, s), tt.is, tt.text)
		})
	}
	wantError(t, c.NodeUpdate(t.Context(), "nobody", n.Version, good), cerrdefs.IsNotFound, "node nobody not found")
	if err := c.NodeUpdate(t.Context(), n.ID, n.Version, good); err != nil {
		t.Fatal(err)
	}
	if n, _, err := c.NodeInspectWithRaw(t.Context(), "node2"); err != nil || n.Spec.Availability != swarm.NodeAvailabilityPause {
		t.Errorf("after a good update: %+v, %v", n.Spec, err)
	}
}
