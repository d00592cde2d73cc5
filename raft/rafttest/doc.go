// Package rafttest holds twins of the raft room for tests: Proposer, a cluster of one without raft or disk, for whoever
// only needs batches applied; Network, in-memory streams that can be cut and healed; and Cluster, real managers over
// such a network with their data in the test's temporary folder, which can be killed and started again.
package rafttest
