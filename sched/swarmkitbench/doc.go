// Package swarmkitbench measures this project's scheduler and swarmkit's own on the same loads in the same run. It is a
// module of its own, so that nothing else depends on swarmkit. Run "make bench-sched"; RESULTS.md has figures.
package swarmkitbench
