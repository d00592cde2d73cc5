package dispatch

import "time"

// limiter allows each key a number of events per window. Not safe for concurrent use.
type limiter struct {
	limit  int
	window time.Duration

	start  time.Time
	counts map[string]int
}

func (l *limiter) allow(key string, now time.Time) bool {
	if l.counts == nil || now.Sub(l.start) >= l.window {
		l.start, l.counts = now, map[string]int{}
	}
	l.counts[key]++
	return l.counts[key] <= l.limit
}
