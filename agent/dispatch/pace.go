package dispatch

import "time"

// pace lets some things happen at once after a quiet time, and spaces them out when there are many. Not safe for concurrent
// use.
type pace struct {
	gap   time.Duration // between two, in the long run
	burst int           // that may follow each other without a gap
	due   time.Time     // when all that happened has had its gap
}

// wait is how long the next one has to wait.
func (p *pace) wait(now time.Time) time.Duration {
	if !p.due.After(now) {
		return 0
	}
	return max(0, p.due.Sub(now)-time.Duration(p.burst-1)*p.gap)
}

// took notes one, which needs the gap or a longer time.
func (p *pace) took(now time.Time, cost time.Duration) {
	if p.due.Before(now) {
		p.due = now
	}
	p.due = p.due.Add(max(cost, p.gap))
}
