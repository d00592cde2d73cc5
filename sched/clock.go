package sched

import "time"

// Clock is where the leader's time comes from; schedtest.Clock is one that a test moves.
type Clock interface {
	Now() time.Time
	// Timer fires once on the channel after d. stop releases it.
	Timer(d time.Duration) (fired <-chan time.Time, stop func())
}

// wall is the machine's clock.
type wall struct{}

func (wall) Now() time.Time { return time.Now() }

func (wall) Timer(d time.Duration) (<-chan time.Time, func()) {
	t := time.NewTimer(d)
	return t.C, func() { t.Stop() }
}
