// Package load asks web servers at a steady rate and tells what failed. Tests use it from outside of a swarm, and the probe
// inside of tasks.
//
// The rate is offered whatever the answers take, up to a number of requests at once: what could not be begun in its time is
// counted as missed, not as failed.
package load

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// Config says what to ask.
type Config struct {
	// URLs are asked in turn.
	URLs []string
	// Rate is how many requests begin in a second, of which up to Workers are under way at a time.
	Rate, Workers int
	// KeepAlive lets requests share connections; otherwise each has its own.
	KeepAlive bool
	// Timeout of one request, 15 s when zero.
	Timeout time.Duration
}

// Report is what came of it.
type Report struct {
	Sent, Failed, Missed int
	// Rate is how many requests were begun in a second.
	Rate float64
	// Slowest is what the slowest request took.
	Slowest time.Duration
	// Errors are the first ones, with when they were begun and how long they took.
	Errors []string
}

// maxErrors is how many errors a report holds.
const maxErrors = 20

// Add joins the reports of generators that ran side by side.
func (r Report) Add(o Report) Report {
	r.Sent, r.Failed, r.Missed, r.Rate = r.Sent+o.Sent, r.Failed+o.Failed, r.Missed+o.Missed, r.Rate+o.Rate
	r.Slowest = max(r.Slowest, o.Slowest)
	r.Errors = append(append([]string(nil), r.Errors...), o.Errors...)
	return r
}

// String says it in one line.
func (r Report) String() string {
	return fmt.Sprintf("%d requests, %.0f a second, %d failed, %d not begun in time, the slowest took %v", r.Sent, r.Rate, r.Failed, r.Missed, r.Slowest.Round(time.Millisecond))
}

// tick is how often requests begin: those due together.
const tick = 5 * time.Millisecond

// Run asks until ctx ends, and returns when all answers are there.
func Run(ctx context.Context, c Config) Report {
	if c.Timeout == 0 {
		c.Timeout = 15 * time.Second
	}
	g := &generator{cfg: c, client: &http.Client{Timeout: c.Timeout, Transport: &http.Transport{
		DisableKeepAlives: !c.KeepAlive, MaxIdleConnsPerHost: c.Workers, DialContext: (&net.Dialer{Timeout: c.Timeout}).DialContext,
	}}}
	defer g.client.CloseIdleConnections()
	due := make(chan int, c.Workers)
	var wg sync.WaitGroup
	for range c.Workers {
		wg.Go(func() {
			for i := range due {
				g.ask(c.URLs[i%len(c.URLs)])
			}
		})
	}
	start := time.Now()
	begun := 0
	for t := time.NewTicker(tick); ctx.Err() == nil; {
		select {
		case <-ctx.Done():
			t.Stop()
		case <-t.C:
			for want := int(time.Since(start).Seconds() * float64(c.Rate)); begun < want; begun++ {
				select {
				case due <- begun:
				default:
					g.miss()
				}
			}
		}
	}
	took := time.Since(start)
	close(due)
	wg.Wait()
	g.report.Rate = float64(g.report.Sent) / took.Seconds()
	return g.report
}

type generator struct {
	cfg    Config
	client *http.Client

	mu     sync.Mutex
	report Report
}

func (g *generator) miss() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.report.Missed++
}

func (g *generator) ask(url string) {
	start := time.Now()
	err := g.get(url)
	took := time.Since(start)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.report.Sent++
	g.report.Slowest = max(g.report.Slowest, took)
	if err == nil {
		return
	}
	g.report.Failed++
	if len(g.report.Errors) < maxErrors {
		g.report.Errors = append(g.report.Errors, fmt.Sprintf("%s %s after %v: %v", start.Format("15:04:05.000"), url, took.Round(time.Millisecond), err))
	}
}

func (g *generator) get(url string) error {
	resp, err := g.client.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	switch {
	case err != nil:
		return fmt.Errorf("read answer: %w", err)
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("answer: %s", resp.Status)
	case n == 0:
		return fmt.Errorf("answer: nothing")
	}
	return nil
}
