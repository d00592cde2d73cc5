package netstack

import "sync"

// flowSet holds the open connections and flows of one kind by what they depend on (a backend, a task), so that they can be cut when that goes
// away. Safe for concurrent use.
type flowSet[K comparable] struct {
	mu    sync.Mutex
	ended bool
	byKey map[K]map[*flowEntry]struct{}
}

type flowEntry struct {
	cut, lose func()
	lost      bool
}

// add registers a flow; cut ends it at once and may be called from any goroutine, also several times, and must not block. False: the set has
// been closed, and so must be the flow. Otherwise remove must be called when the flow has ended.
func (s *flowSet[K]) add(key K, cut func()) (remove func(), ok bool) {
	return s.addLosing(key, cut, cut)
}

// addLosing is add for a flow that may have a last word when its key is refused: then lose is called, once, instead of cut.
func (s *flowSet[K]) addLosing(key K, cut, lose func()) (remove func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return nil, false
	}
	if s.byKey == nil {
		s.byKey = make(map[K]map[*flowEntry]struct{})
	}
	if s.byKey[key] == nil {
		s.byKey[key] = make(map[*flowEntry]struct{})
	}
	e := &flowEntry{cut: cut, lose: lose}
	s.byKey[key][e] = struct{}{}
	return func() { s.remove(key, e) }, true
}

func (s *flowSet[K]) remove(key K, e *flowEntry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.byKey[key], e)
	if len(s.byKey[key]) == 0 {
		delete(s.byKey, key)
	}
}

// retain loses the flows whose key keep refuses.
func (s *flowSet[K]) retain(keep func(K) bool) {
	var lost []*flowEntry
	s.mu.Lock()
	for key, entries := range s.byKey {
		if keep(key) {
			continue
		}
		for e := range entries {
			if !e.lost {
				e.lost = true
				lost = append(lost, e)
			}
		}
	}
	s.mu.Unlock()
	for _, e := range lost {
		e.lose()
	}
}

// close cuts all flows and lets no more in.
func (s *flowSet[K]) close() {
	var all []*flowEntry
	s.mu.Lock()
	s.ended = true
	for _, entries := range s.byKey {
		for e := range entries {
			all = append(all, e)
		}
	}
	s.mu.Unlock()
	for _, e := range all {
		e.cut()
	}
}
