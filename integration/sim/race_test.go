//go:build race

package sim

// The race detector makes everything several times slower and larger.
const (
	defaultAgents = 60
	defaultTasks  = 1000
	defaultSlack  = 4
)
