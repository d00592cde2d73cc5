//go:build !race

package sim

// Ordinary tests share the machine with others.
const (
	defaultAgents = 100
	defaultTasks  = 2000
	defaultSlack  = 2
)
