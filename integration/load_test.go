package integration

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// result is one request of a load.
type result struct {
	node     int
	start    time.Time
	dur      time.Duration
	answer   string // first word: who answered
	fullText string
	err      error
}

// loadResults collects what a load saw.
type loadResults struct {
	mu  sync.Mutex
	all []result
}

func (r *loadResults) add(x result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, x)
}

func (r *loadResults) snapshot() []result {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]result(nil), r.all...)
}

// startLoad sends requests, each on a connection of its own, to a published port of the given nodes until stop is
// called: a few workers per node, with a short pause, so that a machine with two cores is busy but not choked.
func startLoad(t *testing.T, port int, path string, nodes ...int) (res *loadResults, stop func() []result) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	res = &loadResults{}
	var wg sync.WaitGroup
	const workers = 4
	for _, n := range nodes {
		for range workers {
			wg.Go(func() {
				tick := time.NewTicker(20 * time.Millisecond)
				defer tick.Stop()
				for {
					res.add(request(n, port, path))
					select {
					case <-ctx.Done():
						return
					case <-tick.C:
					}
				}
			})
		}
	}
	return res, func() []result {
		cancel()
		wg.Wait()
		return res.snapshot()
	}
}

func request(node, port int, path string) result {
	x := result{node: node, start: time.Now()}
	x.fullText, x.err = fetch(fmt.Sprintf("http://%s:%d%s", addrOf(node), port, path), 15*time.Second)
	x.dur = time.Since(x.start)
	// The probe says "HOST CLIENT", the example "hello from HOST, you are CLIENT, visit N".
	if f := strings.Fields(strings.TrimPrefix(x.fullText, "hello from ")); len(f) > 0 {
		x.answer = strings.TrimSuffix(f[0], ",")
	}
	return x
}

// checkFailures holds a load against the promise: a request that began after something had died must not fail, however
// soon after. dead is when it was surely dead.
func checkFailures(t *testing.T, all []result, dead time.Time) {
	t.Helper()
	failed := 0
	for _, x := range all {
		if x.err == nil {
			continue
		}
		failed++
		if x.start.After(dead) {
			t.Errorf("request to node%d, begun %v after the death, failed after %v: %v", x.node, x.start.Sub(dead).Round(time.Millisecond), x.dur.Round(time.Millisecond), x.err)
		}
	}
	t.Logf("%d requests, %d failed on connections that the dead one carried", len(all), failed)
}

// answered counts the requests by who answered.
func answered(all []result) map[string]int {
	out := map[string]int{}
	for _, x := range all {
		if x.err == nil {
			out[x.answer]++
		}
	}
	return out
}
