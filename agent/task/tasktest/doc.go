// Package tasktest has what tests of tasks need: Engine, a container runtime in memory with its task.Executor, and Suite,
// the conformance suite that every executor passes.
package tasktest
