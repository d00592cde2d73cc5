package sim

import "sync"

// suspects are the nodes of which nobody can promise what runs there: those that the scenario ever put out of reach, and
// those that the managers gave up though they lived, on a busy machine.
type suspects struct {
	mu       sync.Mutex
	nodes    map[string]bool
	mistakes int
}

func newSuspects() *suspects { return &suspects{nodes: map[string]bool{}} }

// lose notes that nodes are out of reach from now on.
func (s *suspects) lose(nodes []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range nodes {
		s.nodes[id] = true
	}
}

// giveUp notes that the managers have a node for down.
func (s *suspects) giveUp(node string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.nodes[node] {
		s.nodes[node] = true
		s.mistakes++
	}
}

// has tells whether a node is one.
func (s *suspects) has(node string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nodes[node]
}

// falselyDown is the number of nodes that were given up though they lived.
func (s *suspects) falselyDown() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mistakes
}

// excuses tells whether an overlap is no wonder: without the suspects' containers it is none.
func (s *suspects) excuses(o overlap) bool {
	n := 0
	for _, id := range o.Nodes {
		if !s.has(id) {
			n++
		}
	}
	return n <= o.Allowed
}
