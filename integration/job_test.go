package integration

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// deploy creates a service and waits until it has converged.
func (l *lab) deploy(t *testing.T, args ...string) {
	t.Helper()
	l.on(t, 1, append([]string{"service", "create"}, args...)...)
}

// TestMainJob is the promise as a user would try it: three nodes, redis, six replicas of a web program behind one
// published port, 20,000 requests over all three nodes.
func TestMainJob(t *testing.T) {
	l := newLab(t, 3, 1)
	l.on(t, 1, "network", "create", "app")
	l.deploy(t, "--name", "redis", "--network", "app", imageRedis)
	l.deploy(t, "--name", "web", "--replicas", "6", "--network", "app", "--publish", "8080:8080", imageWeb)

	const requests, workers = 20000, 24
	var mu sync.Mutex
	var all []result
	var wg sync.WaitGroup
	start := time.Now()
	for w := range workers {
		wg.Go(func() {
			for i := w; i < requests; i += workers {
				x := request(1+i%3, 8080, "/")
				mu.Lock()
				all = append(all, x)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	t.Logf("%d requests in %v", len(all), time.Since(start).Round(time.Millisecond))
	failed, slow := 0, 0
	for _, x := range all {
		if x.dur > time.Second {
			if slow++; slow <= 10 {
				t.Logf("slow: node%d after %v took %v", x.node, x.start.Sub(start), x.dur)
			}
		}
		if x.err != nil {
			if failed++; failed <= 5 {
				t.Errorf("request to node%d after %v: %v after %v\n%s", x.node, x.start.Sub(start), x.err, x.dur, x.fullText)
			}
		}
	}
	if failed > 0 {
		t.Errorf("%d of %d requests failed", failed, requests)
	}
	who := answered(all)
	if len(who) != 6 {
		t.Errorf("%d replicas answered, want all 6: %v", len(who), who)
	}
	for host, n := range who {
		if n < requests/6/2 || n > requests/6*2 {
			t.Errorf("replica %s answered %d of %d: not an even spread", host, n, requests)
		}
	}
	for i, pid := range l.agents(t) {
		t.Logf("agent of node%d after the load: %.1f MiB RSS", i+1, float64(procKiB(t, fmt.Sprintf("/proc/%d/status", pid), "VmRSS:"))/1024)
	}
	// Each visit is one of redis' numbers, and none is given twice: all replicas count in the same place.
	visits := map[string]bool{}
	for _, x := range all {
		if _, visit, ok := strings.Cut(x.fullText, ", visit "); ok {
			visits[visit] = true
		}
	}
	if len(visits) != requests-failed {
		t.Errorf("%d different visit numbers in %d answers", len(visits), requests-failed)
	}
}

// TestNginx runs a program that nobody made for us.
func TestNginx(t *testing.T) {
	l := newLab(t, 2, 1)
	l.deploy(t, "--name", "nginx", "--replicas", "2", "--publish", "8081:80", imageNginx)
	for i := 1; i <= 2; i++ {
		out, err := fetch(fmt.Sprintf("http://%s:8081/", addrOf(i)), 5*time.Second)
		if err != nil || !strings.Contains(strings.ToLower(out), "nginx") {
			t.Errorf("node%d: %v\n%s", i, err, out)
		}
	}
}
