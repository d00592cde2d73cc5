package sim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/rafttest"
	"github.com/meshswarm/meshswarm/raft/state"
	"github.com/meshswarm/meshswarm/secrets"
	"github.com/meshswarm/meshswarm/secrets/secretstest"
)

const managers = 3

// simulation is a whole swarm in this process.
type simulation struct {
	*testing.T
	options
	suspects *suspects
	nodes    *process
	managers []*manager
	services []service
	report   *report
	past     []*audit // of managers' former lives
}

// newSimulation makes managers and nodes; nothing runs yet.
func newSimulation(t *testing.T, o options) *simulation {
	s := &simulation{T: t, options: o, suspects: newSuspects(), report: newReport(o)}
	log := slog.New(slog.DiscardHandler)
	if o.verbose {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	authority := secretstest.Authority(t)
	dir := t.TempDir()
	var addrs []string
	for i := range managers {
		// Addresses that no other program listens on, also while a manager is down.
		m := &manager{
			t: t, id: fmt.Sprintf("manager%d", i+1), addr: fmt.Sprintf("127.%d.%d.%d:2377", 2+i, os.Getpid()>>8&0xff, os.Getpid()&0xff),
			dir: filepath.Join(dir, fmt.Sprintf("manager%d", i+1)), sealer: rafttest.NewSealer(), suspects: s.suspects,
			conns: 2*o.agents + 100, slack: time.Duration(o.slack), log: log.With("node", fmt.Sprintf("manager%d", i+1)),
		}
		m.identity = secretstest.Identity(t, authority, m.id, secrets.RoleManager)
		s.managers = append(s.managers, m)
		addrs = append(addrs, m.addr)
	}
	first := s.firstBatch(authority)
	s.managers[0].first = &first
	key, err := authority.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	s.nodes = startProcess(t)
	s.report.look = s.nodes.glance
	s.nodes.call("Make", Plan{o.agents, o.witnesses, o.slack, 1e6 * o.downlink, addrs, authority.CertPEM(), key}, &struct{}{})
	return s
}

// firstBatch is the swarm's first log entry, like that of package agent. The subnets are as large as the tasks need.
func (s *simulation) firstBatch(authority *secrets.Authority) state.Batch {
	key, err := authority.KeyPEM()
	if err != nil {
		s.Fatal(err)
	}
	history := int64(5)
	spec := swarm.Spec{Annotations: swarm.Annotations{Name: "default"}, Orchestration: swarm.OrchestrationConfig{TaskHistoryRetentionLimit: &history}}
	return state.Batch{Time: time.Now(), Ops: []state.Op{
		{Action: state.Create, Object: &state.Cluster{
			ID: secretstest.SwarmID, Spec: spec, RootCert: authority.CertPEM(), RootKey: key, DataPathPort: 51820,
			DefaultAddrPool: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
			// Room for twice the tasks of the largest network: addresses of lost nodes' tasks stay taken.
			SubnetSize: 32 - bits.Len(uint(2*s.tasks+64)),
			MeshSubnet: netip.MustParsePrefix("100.96.0.0/11"),
		}},
		{Action: state.Create, Object: &state.Network{ID: "ingress-network", Spec: swarm.NetworkSpec{
			Annotations: swarm.Annotations{Name: "ingress"}, DriverConfiguration: &swarm.Driver{Name: "overlay"}, Ingress: true, Scope: "swarm",
		}}},
	}}
}

// boot starts the managers, makes them one quorum, and starts the nodes.
func (s *simulation) boot() {
	for _, m := range s.managers {
		m.start()
	}
	for _, m := range s.managers[1:] {
		s.until("manager joins", func() error {
			l := s.leader()
			if l == nil {
				return errors.New("no leader")
			}
			ctx, cancel := context.WithTimeout(s.Context(), 15*time.Second)
			defer cancel()
			return l.raft.AddManager(ctx, m.id, m.addr)
		})
	}
	s.until("the swarm exists", func() error {
		if l := s.leader(); l == nil || l.store.View().Cluster() == nil {
			return errors.New("no cluster object")
		}
		return nil
	})
	for chunk := range slices.Chunk(upTo(s.agents), 200) {
		var ops []state.Op
		for _, i := range chunk {
			n := &state.Node{
				ID: agentID(i), Role: swarm.NodeRoleWorker, Spec: swarm.NodeSpec{Role: swarm.NodeRoleWorker, Availability: swarm.NodeAvailabilityActive},
				Status: swarm.NodeStatus{State: swarm.NodeStateUnknown},
			}
			n.Spec.Labels = map[string]string{zoneLabel: zoneName(i % s.zones)}
			ops = append(ops, state.Op{Action: state.Create, Object: n})
		}
		s.propose(ops...)
	}
	started := 0
	for chunk := range slices.Chunk(upTo(s.agents), 100) {
		s.nodes.do(startNodes, chunk)
		started += len(chunk)
		s.nodesReady(started)
	}
}

// stop ends everything that still runs, and tells what ended badly.
func (s *simulation) stop() {
	s.nodes.stop()
	for _, m := range s.managers {
		if err := m.kill(); err != nil {
			s.Errorf("%s ended with: %v", m.id, err)
		}
	}
}

// leader is the life of whoever holds itself for the leader, nil if nobody does.
func (s *simulation) leader() *life {
	for _, m := range s.managers {
		if l := m.alive(); l != nil && l.raft.IsLeader() {
			return l
		}
	}
	return nil
}

// leading waits for a leader.
func (s *simulation) leading() (l *life) {
	s.Helper()
	s.until("a leader", func() error {
		if l = s.leader(); l == nil {
			return errors.New("nobody leads")
		}
		return nil
	})
	return l
}

// propose changes the store, by whoever leads. A leader that is lost meanwhile leaves open whether the change was made: that
// what is to be created exists then is as good.
func (s *simulation) propose(ops ...state.Op) {
	s.Helper()
	open := false
	s.until("propose", func() error {
		err := s.tryPropose(ops...)
		if open && errors.Is(err, state.ErrExists) {
			return nil
		}
		open = open || err != nil
		return err
	})
}

func (s *simulation) tryPropose(ops ...state.Op) error {
	l := s.leader()
	if l == nil {
		return errors.New("no leader")
	}
	ctx, cancel := context.WithTimeout(s.Context(), 10*time.Second)
	defer cancel()
	_, err := l.raft.Propose(ctx, state.Batch{Ops: ops, Time: time.Now()})
	return err
}

// change updates a service as a user's update does, to the given spec version.
func (s *simulation) change(id string, version uint64, f func(*swarm.ServiceSpec)) {
	s.Helper()
	s.until("update service", func() error {
		l := s.leader()
		if l == nil {
			return errors.New("no leader")
		}
		old := l.store.View().Service(id)
		if old.SpecVersion == version {
			return nil // a leader that was lost meanwhile had done it
		}
		next := old.Clone()
		f(&next.Spec)
		next.SpecVersion = version
		next.PreviousSpec, next.UpdateStatus = &old.Spec, nil
		return s.tryPropose(
			state.Op{Action: state.Update, Object: next, Expected: old.Modified, SpecChange: true},
			state.Op{Action: state.Create, Object: revision(next)},
		)
	})
}

func revision(s *state.Service) *state.Revision {
	return &state.Revision{ServiceID: s.ID, SpecVersion: s.SpecVersion, Spec: s.Spec.TaskTemplate, Endpoint: s.Spec.EndpointSpec}
}

// nodesReady waits until so many nodes are ready and have a session with the leader.
func (s *simulation) nodesReady(n int) {
	s.Helper()
	s.until(fmt.Sprintf("%d nodes ready", n), func() error {
		l := s.leader()
		if l == nil {
			return errors.New("no leader")
		}
		ready := 0
		for _, node := range l.store.View().Nodes() {
			if node.Status.State == swarm.NodeStateReady {
				ready++
			}
		}
		_, addr := l.raft.Leader()
		sessions := s.nodes.look().Sessions[addr]
		if ready < n || sessions < n {
			return fmt.Errorf("%d nodes are ready, %d have a session", ready, sessions)
		}
		return nil
	})
}

// lazy is an error whose text is worked out when somebody reads it: most attempts of until fail unread.
type lazy func() string

// Error implements error.
func (l lazy) Error() string { return l() }

// until tries again and again until there is no error, or patience is over.
func (s *simulation) until(what string, try func() error) {
	s.Helper()
	for deadline := time.Now().Add(s.patience); ; time.Sleep(5 * time.Millisecond) {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			s.Logf("up to then:\n%s", s.report.table())
			s.Fatalf("%s: %v", what, err)
		}
	}
}
