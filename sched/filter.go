package sched

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

// filter is one reason why a node may not take a task.
type filter struct {
	fits func(n *nodeInfo, r *revisionInfo) bool
	// explain says it for a number of nodes, in Swarm's words.
	explain func(nodes int) string
}

// pipeline lists the filters in the order in which they are asked; the first that says no counts.
var pipeline = []filter{
	{ready, func(n int) string {
		if n == 1 {
			return "1 node not available for new tasks"
		}
		return fmt.Sprintf("%d nodes not available for new tasks", n)
	}},
	{resourcesFit, on("insufficient resources")},
	{func(n *nodeInfo, r *revisionInfo) bool { return r.constraints.match(n.node) }, on("scheduling constraints not satisfied")},
	{func(n *nodeInfo, r *revisionInfo) bool { return platformFits(r.platforms, n.node) }, on("unsupported platform")},
	{portsAllowed, on("host-mode port needs privileges")},
	{portsFree, on("host-mode port already in use")},
	{replicasFit, func(int) string { return "max replicas per node limit exceed" }},
}

func on(what string) func(int) string {
	return func(nodes int) string {
		if nodes == 1 {
			return what + " on 1 node"
		}
		return fmt.Sprintf("%s on %d nodes", what, nodes)
	}
}

// refusals counts, per filter of the pipeline, the nodes that it refused.
type refusals [8]int

// check asks the filters and counts the first refusal.
func (c *refusals) check(n *nodeInfo, r *revisionInfo) bool {
	for i, f := range pipeline {
		if !f.fits(n, r) {
			c[i]++
			return false
		}
	}
	return true
}

// explain says why there is no node, the most frequent reason first.
func (c *refusals) explain() string {
	order := make([]int, len(pipeline))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(c[b], c[a]) })
	var texts []string
	for _, i := range order {
		if c[i] > 0 {
			texts = append(texts, pipeline[i].explain(c[i]))
		}
	}
	if len(texts) == 0 {
		return "no suitable node"
	}
	return "no suitable node (" + strings.Join(texts, "; ") + ")"
}

func ready(n *nodeInfo, _ *revisionInfo) bool {
	s := n.node
	return s.Status.State == swarm.NodeStateReady && (s.Spec.Availability == swarm.NodeAvailabilityActive || s.Spec.Availability == "")
}

func resourcesFit(n *nodeInfo, r *revisionInfo) bool {
	has := n.node.Description.Resources
	if r.cpu > 0 && n.cpu+r.cpu > has.NanoCPUs || r.memory > 0 && n.memory+r.memory > has.MemoryBytes {
		return false
	}
	if len(r.other) == 0 {
		return true
	}
	total := generic(has.GenericResources)
	for k, v := range r.other {
		if n.other[k]+v > total[k] {
			return false
		}
	}
	return true
}

func platformFits(want []swarm.Platform, n *state.Node) bool {
	if len(want) == 0 {
		return true
	}
	has := n.Description.Platform
	return slices.ContainsFunc(want, func(p swarm.Platform) bool {
		return (p.Architecture == "" || arch(p.Architecture) == arch(has.Architecture)) && (p.OS == "" || strings.EqualFold(p.OS, has.OS))
	})
}

func arch(a string) string {
	switch a = strings.ToLower(a); a {
	case "x86_64":
		return "amd64"
	case "aarch64":
		return "arm64"
	}
	return a
}

// portsAllowed keeps tasks with low host ports off nodes whose agent may not open them.
func portsAllowed(n *nodeInfo, r *revisionInfo) bool {
	return !slices.ContainsFunc(r.hostPorts, func(p portKey) bool { return p.port < uint32(n.node.MinPort) })
}

func portsFree(n *nodeInfo, r *revisionInfo) bool {
	return !slices.ContainsFunc(r.hostPorts, func(p portKey) bool { return n.ports[p] > 0 })
}

func replicasFit(n *nodeInfo, r *revisionInfo) bool {
	return r.maxReplicas == 0 || uint64(n.by[r.ServiceID]) < r.maxReplicas
}
