package sim

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/api/types/swarm"
	"go.uber.org/goleak"

	"github.com/meshswarm/meshswarm/raft/state"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestControlLoop plays the scenario and checks what must be true of it. How long things take is measured, not judged.
func TestControlLoop(t *testing.T) {
	s := newSimulation(t, flags.derived())
	defer s.stop()
	sampled := make(chan struct{})
	var sampler sync.WaitGroup
	sampler.Go(func() { s.report.sampler.run(sampled) })
	defer sampler.Wait()
	defer sync.OnceFunc(func() { close(sampled) })()

	watch := s.report.stopwatch()
	s.boot()
	watch("start: all nodes ready")

	watch = s.report.stopwatch()
	s.createServices()
	s.allRunning()
	watch("creation of the services → all tasks running")
	s.report.HeapAllRunning = s.report.sampler.read().Heap

	s.silence()
	s.rollingUpdate()
	s.settle()

	s.checkAll()
	s.report.Size.Services = len(s.services)
	s.report.Managers = s.report.sampler.read()
	s.Log("\n" + s.report.table())
	if s.options.report != "" {
		if err := s.report.write(s.options.report); err != nil {
			t.Error(err)
		}
	}
}

// lost is a group of nodes that are lost together.
type lost struct {
	numbers []int
	nodes   map[string]bool
}

// lose picks the nodes of a group: every nth one, so that services are hit evenly, a different set for each from.
func (s *simulation) lose(from int) lost {
	g := lost{nodes: map[string]bool{}}
	var ids []string
	for i := range s.lost {
		n := (i*s.agents/s.lost + from) % s.agents
		g.numbers = append(g.numbers, n)
		g.nodes[agentID(n)] = true
		ids = append(ids, agentID(n))
	}
	s.suspects.lose(ids)
	return g
}

// elsewhere waits until each place that had a task on lost nodes has a running one on another.
func (s *simulation) elsewhere(g lost, places map[placeKey]bool) error {
	n := len(places)
	for deadline := time.Now().Add(s.patience); len(places) > 0; time.Sleep(5 * time.Millisecond) {
		if l := s.leader(); l != nil {
			l.audit.settled(places, g.nodes)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d of %d tasks of lost nodes have no running successor", len(places), n)
		}
	}
	return nil
}

// silence cuts the lines of a group of nodes while nothing else happens, and heals them.
func (s *simulation) silence() {
	g := s.lose(0)
	places := s.leading().audit.on(g.nodes)
	if len(places) == 0 {
		s.Fatal("the nodes to lose have no tasks")
	}
	watch := s.report.stopwatch()
	s.nodes.do(cutNodes, g.numbers)
	if err := s.elsewhere(g, places); err != nil {
		s.Fatal(err)
	}
	watch(fmt.Sprintf("loss of %d silent nodes → their tasks running elsewhere", len(g.numbers)))

	watch = s.report.stopwatch()
	s.nodes.do(healNodes, g.numbers)
	s.nodesReady(s.agents)
	s.until("returned nodes stop what was replaced", func() error {
		if n := s.leading().audit.lingering(g.nodes); n > 0 {
			return fmt.Errorf("%d tasks linger", n)
		}
		return nil
	})
	watch("their return → ready, old tasks stopped")
}

// rollingUpdate updates two services; nodes crash in its middle, and the leader dies a moment later.
func (s *simulation) rollingUpdate() {
	watch := s.report.stopwatch()
	s.updateService(bigService)
	s.updateService(frontService)

	s.updateReaches(bigService, 0.2)
	g := s.lose(1)
	places := s.leading().audit.on(g.nodes)
	lossWatch := s.report.stopwatch()
	s.nodes.do(crashNodes, g.numbers)
	recovered := make(chan error, 1)
	go func() {
		err := s.elsewhere(g, places)
		lossWatch(fmt.Sprintf("crash of %d nodes in the middle of the update → their tasks running elsewhere", len(g.numbers)))
		recovered <- err
	}()

	s.updateReaches(bigService, 0.4)
	if s.updated(bigService) == nil {
		s.Error("the update was over before the leader died")
	}
	dead := s.killLeader()
	if err := <-recovered; err != nil {
		s.Fatal(err)
	}
	s.nodes.do(startNodes, g.numbers)
	dead.start()

	for _, name := range []string{bigService, frontService} {
		s.until("update", func() error { return s.updated(name) })
	}
	watch("rolling update → complete")
}

// killLeader ends the leader without a word and measures until another one has taken a write, and until it has all
// sessions.
func (s *simulation) killLeader() *manager {
	var dead *manager
	for l := s.leading(); dead == nil; l = s.leading() {
		for _, m := range s.managers {
			if m.alive() == l {
				dead = m
			}
		}
	}
	up := s.nodes.look().Alive
	s.past = append(s.past, dead.alive().audit)
	watch := s.report.stopwatch()
	ended := make(chan error, 1)
	go func() { ended <- dead.kill() }()
	s.until("the leader is gone", func() error {
		if dead.alive() != nil {
			return errors.New("it lives")
		}
		return nil
	})
	s.propose(state.Op{Action: state.Create, Object: &state.Network{
		ID: "first-write-network", Spec: swarm.NetworkSpec{Annotations: swarm.Annotations{Name: "first-write"}, Internal: true},
	}})
	watch("death of the leader → first acknowledged write")
	s.nodesReady(up)
	watch("death of the leader → all sessions with the next")
	if err := <-ended; err != nil {
		s.Errorf("%s ended with: %v", dead.id, err)
	}
	return dead
}

// settle waits until nothing is left to do.
func (s *simulation) settle() {
	watch := s.report.stopwatch()
	s.nodesReady(s.agents)
	s.allRunning()
	all := map[string]bool{}
	for i := range s.agents {
		all[agentID(i)] = true
	}
	s.until("all is quiet", func() error {
		l := s.leader()
		if l == nil {
			return errors.New("no leader")
		}
		if n := l.audit.lingering(all); n > 0 {
			return fmt.Errorf("%d tasks run that should not", n)
		}
		if n := s.nodes.look().Unreported; n > 0 {
			return fmt.Errorf("the nodes have %d statuses that nobody took", n)
		}
		return nil
	})
	watch("all nodes back, all quiet")
}
