package dispatch

import "container/heap"

// queue holds keys in the order of their numbers, the lowest first. Not safe for concurrent use.
type queue[K comparable] struct{ entries entries[K] }

// entries is a heap that knows where each key is.
type entries[K comparable] struct {
	list []queued[K]
	at   map[K]int
}

type queued[K comparable] struct {
	key    K
	number uint64
}

func newQueue[K comparable]() *queue[K] { return &queue[K]{entries[K]{at: map[K]int{}}} }

// set puts key in, or gives it another number.
func (q *queue[K]) set(key K, number uint64) {
	if i, ok := q.entries.at[key]; ok {
		q.entries.list[i].number = number
		heap.Fix(&q.entries, i)
		return
	}
	heap.Push(&q.entries, queued[K]{key, number})
}

// drop takes key out, if it is in.
func (q *queue[K]) drop(key K) {
	if i, ok := q.entries.at[key]; ok {
		heap.Remove(&q.entries, i)
	}
}

// first is the key with the lowest number; false if there is none.
func (q *queue[K]) first() (key K, number uint64, ok bool) {
	if len(q.entries.list) == 0 {
		return key, 0, false
	}
	e := q.entries.list[0]
	return e.key, e.number, true
}

// Len implements heap.Interface.
func (e *entries[K]) Len() int { return len(e.list) }

// Less implements heap.Interface.
func (e *entries[K]) Less(i, j int) bool { return e.list[i].number < e.list[j].number }

// Swap implements heap.Interface.
func (e *entries[K]) Swap(i, j int) {
	e.list[i], e.list[j] = e.list[j], e.list[i]
	e.at[e.list[i].key], e.at[e.list[j].key] = i, j
}

// Push implements heap.Interface.
func (e *entries[K]) Push(x any) {
	q := x.(queued[K])
	e.at[q.key] = len(e.list)
	e.list = append(e.list, q)
}

// Pop implements heap.Interface.
func (e *entries[K]) Pop() any {
	last := e.list[len(e.list)-1]
	e.list = e.list[:len(e.list)-1]
	delete(e.at, last.key)
	return last
}
