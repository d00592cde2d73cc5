package sim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"runtime/metrics"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// report is what a run took.
type report struct {
	Machine machine
	Size    sizes
	Times   []timing
	Memory  memory
	Store   storeFigures
	// FalselyDown is the number of nodes that the managers gave up though they lived: the machine was too busy.
	FalselyDown int

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
}

// timing is how long something took by the clock, and how much time of processors this process used meanwhile.
type timing struct {
	What    string
	Seconds float64
	CPU     float64 `json:",omitempty"`
}

// memory is in bytes.
type memory struct {
	PeakHeap, PeakRSS, HeapAllRunning, HeapAtEnd uint64
	PeakGoroutines                               int
}

type storeFigures struct {
	RaftEntries, Changes, MostTasks, TasksAtEnd int
}

func newReport(o options) *report {
	return &report{
		Machine: describeMachine(),
		Size: sizes{
			Managers: managers, Nodes: o.agents, Tasks: o.tasks, UpdatedReplicas: o.replicas, NodesLost: o.lost, Parallelism: o.parallelism,
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

// procField reads "name : value" from a file of /proc; "" where there is none.
func procField(file, name string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

func kilobytes(s string) uint64 {
	n, _ := strconv.ParseUint(strings.TrimSuffix(s, " kB"), 10, 64)
	return n << 10
}

// add notes a time.
func (r *report) add(what string, took time.Duration, cpu float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Times = append(r.Times, timing{What: what, Seconds: round(took.Seconds()), CPU: round(cpu)})
}

func round(f float64) float64 { return float64(int(f*1000+0.5)) / 1000 }

// stopwatch measures from now until the function that it returns is called with what it was.
func (r *report) stopwatch() (stop func(what string)) {
	start, cpu := time.Now(), cpuTime()
	return func(what string) { r.add(what, time.Since(start), cpuTime()-cpu) }
}

// cpuTime is what this process has used of all processors, in seconds.
func cpuTime() float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}

// sample watches memory until done is closed.
func (r *report) sample(done <-chan struct{}) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		heap, goroutines := runtimeFigures()
		r.mu.Lock()
		r.Memory.PeakHeap = max(r.Memory.PeakHeap, heap)
		r.Memory.PeakGoroutines = max(r.Memory.PeakGoroutines, goroutines)
		r.mu.Unlock()
		select {
		case <-done:
			return
		case <-tick.C:
		}
	}
}

func runtimeFigures() (heap uint64, goroutines int) {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/sched/goroutines:goroutines"}}
	metrics.Read(s)
	return s[0].Value.Uint64(), int(s[1].Value.Uint64())
}

// liveHeap is what is left after a collection.
func liveHeap() uint64 {
	runtime.GC()
	heap, _ := runtimeFigures()
	return heap
}

// allRunning notes what is in use when nothing happens.
func (r *report) allRunning() {
	heap := liveHeap()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Memory.HeapAllRunning = heap
}

// finish reads what is known only at the end.
func (r *report) finish() {
	heap := liveHeap()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Memory.HeapAtEnd = heap
	r.Memory.PeakRSS = kilobytes(procField("/proc/self/status", "VmHWM"))
}

// table is the report for people.
func (r *report) table() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var b strings.Builder
	m, z := r.Machine, r.Size
	fmt.Fprintf(&b, "%d nodes, %d tasks in %d services, %d managers, all in one process on %d × %s, %s memory, %s, %s; load average before the run %s.\n\n",
		z.Nodes, z.Tasks, z.Services, z.Managers, m.CPUs, m.CPU, size(m.MemoryBytes), m.OS, m.Go, m.Load)
	fmt.Fprintf(&b, "Update: %d replicas, %d at a time. Lost at once: %d nodes.\n\n", z.UpdatedReplicas, z.Parallelism, z.NodesLost)
	b.WriteString("| what | time, s | CPU, s |\n|---|---:|---:|\n")
	for _, t := range r.Times {
		cpu := ""
		if t.CPU > 0 {
			cpu = fmt.Sprintf("%.1f", t.CPU)
		}
		fmt.Fprintf(&b, "| %s | %.2f | %s |\n", t.What, t.Seconds, cpu)
	}
	y := r.Memory
	b.WriteString("\n| memory of the whole process | |\n|---|---:|\n")
	for _, row := range []struct {
		what  string
		value any
	}{
		{"peak resident set", size(y.PeakRSS)}, {"peak heap", size(y.PeakHeap)}, {"heap in use, all tasks running", size(y.HeapAllRunning)},
		{"heap in use at the end", size(y.HeapAtEnd)}, {"most goroutines", y.PeakGoroutines},
		{"nodes given up though they lived", r.FalselyDown},
		{"raft entries", r.Store.RaftEntries}, {"changes in them", r.Store.Changes},
		{"most tasks in the store, with history", r.Store.MostTasks}, {"tasks in the store at the end", r.Store.TasksAtEnd},
	} {
		fmt.Fprintf(&b, "| %s | %v |\n", row.what, row.value)
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
	text := []byte("# A simulated swarm: what a run took\n\nMade by `make sim`; doc.go says what is real in it and what is simulated. The processors do the work of all nodes.\n\n" + r.table())
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
