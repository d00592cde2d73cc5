//go:build race

package sim

// defaultSlack: the race detector makes everything several times slower.
const defaultSlack = 3
