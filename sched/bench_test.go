package sched

import (
	"fmt"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

// BenchmarkSchedule places tasks: of one service, or each of another (alone); with a constraint that every third node
// satisfies, or none. It is the scheduler alone, with the changes that it drafts; swarmkitbench has it with the store.
func BenchmarkSchedule(b *testing.B) {
	for _, l := range []benchLoad{
		{nodes: 1000, tasks: 1000}, {nodes: 1000, tasks: 10_000}, {nodes: 1000, tasks: 100_000},
		{nodes: 5000, tasks: 100_000, constrained: true}, {nodes: 10_000, tasks: 1_000_000},
		{nodes: 1000, tasks: 100_000, alone: true}, {nodes: 5000, tasks: 100_000, constrained: true, alone: true},
	} {
		b.Run(l.String(), func(b *testing.B) {
			var cpu time.Duration
			for range b.N {
				b.StopTimer()
				board := l.board()
				s := &scheduler{b: board}
				board.begin(epoch)
				runtime.GC()
				from := cpuTime()
				b.StartTimer()
				s.run()
				b.StopTimer()
				cpu += cpuTime() - from
				if len(board.unassigned) > 0 {
					b.Fatalf("%d tasks left", len(board.unassigned))
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/1000/float64(b.N*l.tasks), "µs/task")
			b.ReportMetric(float64(cpu.Nanoseconds())/1000/float64(b.N*l.tasks), "cpu-µs/task")
		})
	}
}

// BenchmarkScheduleLast compares the last tenth of a service's tasks with the first: placing does not get slower while a
// cluster fills.
func BenchmarkScheduleLast(b *testing.B) {
	const parts = 10
	l := benchLoad{nodes: 1000, tasks: 100_000}
	var first, last time.Duration
	for range b.N {
		board := (benchLoad{nodes: l.nodes}).board()
		for part := range parts {
			for i := range l.tasks / parts {
				board.set(benchTask(part*l.tasks/parts+i, "web", part*l.tasks/parts+i+1))
			}
			board.begin(epoch)
			runtime.GC()
			from := cpuTime()
			(&scheduler{b: board}).run()
			switch took := cpuTime() - from; part {
			case 0:
				first += took
			case parts - 1:
				last += took
			}
		}
	}
	b.ReportMetric(float64(last)/float64(first), "last/first")
}

// cpuTime is what this process has used of all processors: it does not depend on what else the machine does.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

type benchLoad struct {
	nodes, tasks       int
	constrained, alone bool
}

func (l benchLoad) String() string {
	s := fmt.Sprintf("%dx%d", l.nodes, l.tasks)
	if l.constrained {
		s += "-constrained"
	}
	if l.alone {
		s += "-alone"
	}
	return s
}

func (l benchLoad) board() *board {
	b := newBoard(state.New().View(), epoch)
	for i := range l.nodes {
		n := &state.Node{ID: fmt.Sprintf("n%05d", i), Status: swarm.NodeStatus{State: swarm.NodeStateReady}}
		n.Spec.Labels = map[string]string{"zone": fmt.Sprint(i % 3)}
		b.set(n)
	}
	service := func(id string) {
		b.set(&state.Service{ID: id, SpecVersion: 1})
		r := &state.Revision{ServiceID: id, SpecVersion: 1}
		if l.constrained {
			r.Spec.Placement = &swarm.Placement{Constraints: []string{"node.labels.zone==0"}}
		}
		b.set(r)
	}
	if !l.alone {
		service("web")
	}
	for i := range l.tasks {
		id, slot := "web", i+1
		if l.alone {
			id, slot = fmt.Sprint("web", i), 1
			service(id)
		}
		b.set(benchTask(i, id, slot))
	}
	return b
}

func benchTask(i int, service string, slot int) *state.Task {
	return &state.Task{
		ID: fmt.Sprintf("t%07d", i), ServiceID: service, SpecVersion: 1, Slot: slot, DesiredState: swarm.TaskStateRunning,
		Status: swarm.TaskStatus{State: swarm.TaskStatePending},
	}
}

// BenchmarkService takes a new service through the whole leader and an in-memory store: from its creation until all its
// tasks are assigned.
func BenchmarkService(b *testing.B) {
	for _, size := range []struct{ nodes, tasks int }{{10, 10}, {1000, 20_000}} {
		b.Run(fmt.Sprintf("%dx%d", size.nodes, size.tasks), func(b *testing.B) {
			for range b.N {
				b.StopTimer()
				w := benchWorld(b, size.nodes)
				w.settle()
				b.StartTimer()
				w.create("web", webSpec(uint64(size.tasks), "app:1"))
				w.settle()
				b.StopTimer()
				if n := len(w.mind.board.unassigned) + len(w.mind.board.unallocated); n > 0 || len(w.mind.board.tasks) != size.tasks {
					b.Fatalf("%d of %d tasks left", n, len(w.mind.board.tasks))
				}
				w.close()
			}
		})
	}
}

// BenchmarkAssign works out the assignments of all nodes for one view, and how they changed since the last.
func BenchmarkAssign(b *testing.B) {
	w := benchWorld(b, 100)
	defer w.close()
	w.create("web", webSpec(5000, "app:1"))
	w.work()
	had := NewAssignIndex(w.store.View())
	w.report(w.mind.board.services["web"].tasksIn(state.Place{Slot: 1})[0].ID, swarm.TaskStateFailed, "so it goes")
	w.settle()
	b.ResetTimer()
	for range b.N {
		x := NewAssignIndex(w.store.View())
		for i := range 100 {
			n := fmt.Sprintf("n%05d", i)
			if _, _, changed := Diff(had.Assign(n), x.Assign(n)); !changed {
				b.Fatal("nothing changed")
			}
		}
	}
}

func benchWorld(b *testing.B, nodes int) *world {
	w := newWorld(b)
	w.apply(state.Op{Action: state.Create, Object: &state.Network{ID: "front", Spec: swarm.NetworkSpec{
		Annotations: swarm.Annotations{Name: "front"}, IPAMOptions: &swarm.IPAMOptions{Configs: []swarm.IPAMConfig{{Subnet: "10.64.0.0/12"}}},
	}}})
	for i := range nodes {
		w.apply(state.Op{Action: state.Create, Object: &state.Node{ID: fmt.Sprintf("n%05d", i), Status: swarm.NodeStatus{State: swarm.NodeStateReady}}})
	}
	return w
}

// BenchmarkBoard is what a leader pays to begin: a board from the store, and its memory.
func BenchmarkBoard(b *testing.B) {
	const tasks = 20_000
	w := benchWorld(b, 1000)
	defer w.close()
	w.create("web", webSpec(tasks, "app:1"))
	w.settle()
	view := w.store.View()
	var before, after runtime.MemStats
	var board *board
	b.ResetTimer()
	for range b.N {
		board = nil
		runtime.GC()
		runtime.ReadMemStats(&before)
		board = newBoard(view, epoch)
		runtime.GC()
		runtime.ReadMemStats(&after)
	}
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/tasks, "B/task")
	runtime.KeepAlive(board)
}
