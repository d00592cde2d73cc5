//go:build race

package sim

// The race detector makes everything several times slower and larger.
const (
	defaultAgents = 40
	defaultTasks  = 800
	defaultSlack  = 4
)
