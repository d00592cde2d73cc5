package sim

import (
	"os"
	"runtime"
	"runtime/metrics"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// processMemory is what a process uses, in bytes.
type processMemory struct {
	// Heap is what is in use after a collection.
	PeakRSS, PeakHeap, Heap uint64
	PeakGoroutines          int
	// LatestSeconds is the most by which a goroutine that asked to be woken up was late: how long others' work held it up.
	LatestSeconds float64
}

// sampler watches this process's memory.
type sampler struct {
	mu   sync.Mutex
	peak processMemory
}

// run samples until done is closed.
func (s *sampler) run(done <-chan struct{}) {
	const pause = 50 * time.Millisecond
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		s.sample()
		asked := time.Now()
		timer.Reset(pause)
		select {
		case <-done:
			return
		case <-timer.C:
		}
		late := time.Since(asked) - pause
		s.mu.Lock()
		s.peak.LatestSeconds = max(s.peak.LatestSeconds, round(late.Seconds()))
		s.mu.Unlock()
	}
}

func (s *sampler) sample() (heap uint64) {
	list := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/sched/goroutines:goroutines"}}
	metrics.Read(list)
	heap = list[0].Value.Uint64()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.peak.PeakHeap = max(s.peak.PeakHeap, heap)
	s.peak.PeakGoroutines = max(s.peak.PeakGoroutines, int(list[1].Value.Uint64()))
	return heap
}

// read collects garbage and tells what there is and was.
func (s *sampler) read() processMemory {
	s.sample()
	runtime.GC()
	heap := s.sample()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.peak.Heap = heap
	s.peak.PeakRSS = kilobytes(procField("/proc/self/status", "VmHWM"))
	return s.peak
}

// cpuTime is what this process has used of all processors, in seconds.
func cpuTime() float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
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
