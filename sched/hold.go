package sched

import (
	"fmt"
	"time"
)

// A node that comes and goes would have its tasks moved away and get new ones each time. So after it went down twice
// within holdWindow it gets no new tasks for a while, from its last failure on: holdFirst, doubled each further time.
const (
	holdWindow = 5 * time.Minute
	holdFirst  = 30 * time.Second
	holdMost   = 5 * time.Minute
)

// holdEnd is until when a node with these failures (oldest first) gets no new tasks; zero if they are too few.
func holdEnd(downs []time.Time) time.Time {
	n := recentDowns(downs)
	if n < 2 {
		return time.Time{}
	}
	d := holdFirst
	for ; n > 2 && d < holdMost; n-- {
		d *= 2
	}
	return downs[len(downs)-1].Add(min(d, holdMost))
}

// recentDowns counts the failures within holdWindow before the last one, with it.
func recentDowns(downs []time.Time) int {
	n := 0
	for _, d := range downs {
		if downs[len(downs)-1].Sub(d) <= holdWindow {
			n++
		}
	}
	return n
}

// heldUntil is until when the node gets no new tasks because it went down repeatedly; zero if it gets them.
func (n *nodeInfo) heldUntil(now time.Time) time.Time {
	if n.hold.After(now) {
		return n.hold
	}
	return time.Time{}
}

func whyHeld(j *judge, n *nodeInfo) string {
	return fmt.Sprintf("went down %d times within %s: gets new tasks in %s", recentDowns(n.node.Downs), holdWindow,
		n.heldUntil(j.now).Sub(j.now).Round(time.Second))
}

// endHolds looks for nodes that may be given tasks again: pending tasks are tried, and services that want a task on it are
// looked at.
func (b *board) endHolds() {
	for id, end := range b.held {
		if end.After(b.now) {
			continue
		}
		delete(b.held, id)
		b.capacity = true
		b.touchNode(id)
	}
}
