//go:build !race

package sim

// defaultSlack: ordinary tests share the machine with others.
const defaultSlack = 2
