package sched

import (
	"container/heap"
	"time"
)

// agenda remembers when things are due. Of several times for one key the earliest counts.
type agenda[K comparable] struct {
	at    map[K]time.Time
	queue appointments[K] // also holds what was since made earlier or dropped
}

type appointment[K comparable] struct {
	key K
	at  time.Time
}

// add makes a key due at a time, or earlier.
func (a *agenda[K]) add(k K, at time.Time) {
	if was, ok := a.at[k]; ok && !at.Before(was) {
		return
	}
	if a.at == nil {
		a.at = map[K]time.Time{}
	}
	a.at[k] = at
	heap.Push(&a.queue, appointment[K]{k, at})
}

// take removes and returns what is due, in no particular order.
func (a *agenda[K]) take(now time.Time) []K {
	var due []K
	for {
		at, ok := a.next()
		if !ok || at.After(now) {
			return due
		}
		k := heap.Pop(&a.queue).(appointment[K]).key
		delete(a.at, k)
		due = append(due, k)
	}
}

// next is when the first thing is due; false if nothing is.
func (a *agenda[K]) next() (time.Time, bool) {
	for len(a.queue) > 0 {
		first := a.queue[0]
		if at, ok := a.at[first.key]; ok && at.Equal(first.at) {
			return first.at, true
		}
		heap.Pop(&a.queue)
	}
	return time.Time{}, false
}

// appointments is a heap, earliest first.
type appointments[K comparable] []appointment[K]

func (q appointments[K]) Len() int           { return len(q) }
func (q appointments[K]) Less(i, j int) bool { return q[i].at.Before(q[j].at) }
func (q appointments[K]) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *appointments[K]) Push(x any)        { *q = append(*q, x.(appointment[K])) }
func (q *appointments[K]) Pop() any {
	last := len(*q) - 1
	x := (*q)[last]
	*q = (*q)[:last]
	return x
}
