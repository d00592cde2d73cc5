package sim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"
)

// report is what a run took.
type report struct {
	Machine machine
	Size    sizes
	Times   []timing
	// Managers is the process of the managers, in which the audits are, too; Nodes that of the nodes.
	Managers, Nodes processMemory
	// HeapAllRunning is the managers' heap when all tasks run and nothing else has happened, in bytes.
	HeapAllRunning uint64
	Store          storeFigures
	// FalselyDown is the number of nodes that the managers gave up though they lived: the machine was too busy.
	FalselyDown int

	look    func() Look
	sampler sampler

	mu sync.Mutex
}

type machine struct {
	CPU, OS, Go string
	CPUs        int
	MemoryBytes uint64
	// Load is the load average before the run: what other programs took of the processors.
	Load string
}

type sizes struct {
	Managers, Nodes, Tasks, Services, UpdatedReplicas, NodesLost int
	Parallelism                                                  uint64
	DownlinkMBs                                                  float64
}

// timing is how long something took by the clock, how much time of processors the managers and the nodes used meanwhile, in
// seconds, and what the nodes received.
type timing struct {
	What                           string
	Seconds, ManagersCPU, NodesCPU float64
	ReceivedBytes                  int64
}

type storeFigures struct {
	RaftEntries, Changes, MostTasks, TasksAtEnd int
}

func newReport(o options) *report {
	return &report{
		Machine: describeMachine(),
		Size: sizes{
			Managers: managers, Nodes: o.agents, Tasks: o.tasks, UpdatedReplicas: o.replicas, NodesLost: o.lost, Parallelism: o.parallelism, DownlinkMBs: o.downlink,
		},
	}
}

func describeMachine() machine {
	m := machine{OS: runtime.GOOS + "/" + runtime.GOARCH, Go: runtime.Version(), CPUs: runtime.NumCPU()}
	m.CPU = procField("/proc/cpuinfo", "model name")
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		m.Load, _, _ = strings.Cut(string(text), " ")
	}
	m.MemoryBytes = kilobytes(procField("/proc/meminfo", "MemTotal"))
	return m
}

// stopwatch measures from now until the function that it returns is called with what it was.
func (r *report) stopwatch() (stop func(what string)) {
	start, cpu, before := time.Now(), cpuTime(), r.look()
	return func(what string) {
		took, used, after := time.Since(start), cpuTime()-cpu, r.look()
		t := timing{what, round(took.Seconds()), round(used), round(after.CPU - before.CPU), after.Received - before.Received}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.Times = append(r.Times, t)
	}
}

func round(f float64) float64 { return float64(int(f*1000+0.5)) / 1000 }

// table is the report for people.
func (r *report) table() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var b strings.Builder
	m, z := r.Machine, r.Size
	fmt.Fprintf(&b, "%d nodes, %d tasks in %d services, %d managers, on %d × %s, %s memory, %s, %s; load average before the run %s.\n\n",
		z.Nodes, z.Tasks, z.Services, z.Managers, m.CPUs, m.CPU, size(m.MemoryBytes), m.OS, m.Go, m.Load)
	fmt.Fprintf(&b, "The nodes received at most %.0f MB/s together. ", z.DownlinkMBs)
	fmt.Fprintf(&b, "Update: %d replicas, %d at a time. Lost at once: %d nodes, twice.\n\n", z.UpdatedReplicas, z.Parallelism, z.NodesLost)
	b.WriteString("| what | time, s | CPU of managers, s | CPU of nodes, s | sent to nodes |\n|---|---:|---:|---:|---:|\n")
	for _, t := range r.Times {
		fmt.Fprintf(&b, "| %s | %.2f | %.1f | %.1f | %s |\n", t.What, t.Seconds, t.ManagersCPU, t.NodesCPU, size(uint64(t.ReceivedBytes)))
	}
	b.WriteString("\n| process | managers, together | nodes, together |\n|---|---:|---:|\n")
	x, y := r.Managers, r.Nodes
	fmt.Fprintf(&b, "| peak resident set | %s | %s |\n| peak heap | %s | %s |\n| heap in use, all tasks running | %s | |\n| heap in use at the end | %s | %s |\n| most goroutines | %d | %d |\n| longest wait of a goroutine for a processor | %.2f s | %.2f s |\n",
		size(x.PeakRSS), size(y.PeakRSS), size(x.PeakHeap), size(y.PeakHeap), size(r.HeapAllRunning), size(x.Heap), size(y.Heap), x.PeakGoroutines, y.PeakGoroutines,
		x.LatestSeconds, y.LatestSeconds)
	b.WriteString("\n| store | |\n|---|---:|\n")
	for _, row := range []struct {
		what  string
		value int
	}{
		{"raft entries", r.Store.RaftEntries}, {"changes in them", r.Store.Changes},
		{"most tasks, with history", r.Store.MostTasks}, {"tasks at the end, with history", r.Store.TasksAtEnd},
		{"nodes given up though they lived", r.FalselyDown},
	} {
		fmt.Fprintf(&b, "| %s | %d |\n", row.what, row.value)
	}
	return b.String()
}

func size(n uint64) string {
	if n >= 1<<30 {
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	}
	return fmt.Sprintf("%.0f MiB", float64(n)/(1<<20))
}

// write puts the report into a file, and as JSON beside it.
func (r *report) write(path string) error {
	text := []byte("# A simulated swarm: what a run took\n\nMade by `make sim`; doc.go says what is real in it and what is simulated.\n\n" + r.table())
	if err := os.WriteFile(path, text, 0o644); err != nil {
		return err
	}
	var data bytes.Buffer
	enc := json.NewEncoder(&data)
	enc.SetIndent("", "  ")
	if err := enc.Encode(r); err != nil {
		return err
	}
	return os.WriteFile(strings.TrimSuffix(path, ".md")+".json", data.Bytes(), 0o644)
}
