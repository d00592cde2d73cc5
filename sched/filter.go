package sched

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

// filter is one reason why a node may not take a task.
type filter struct {
	name string
	// asks tells whether a revision is concerned at all; nil = every one is.
	asks func(r *revisionInfo) bool
	fits func(j *judge, n *nodeInfo) bool
	// changes: the answer for a node may be another once it took a task of the revision.
	changes bool
	// text says it for a number of nodes, in Swarm's words; why for one node, with its numbers, when fits said no.
	text func(nodes int) string
	why  func(j *judge, n *nodeInfo) string
}

// filters is how many there are.
const filters = 9

// pipeline lists the filters in the order in which they are asked; the first that says no counts.
var pipeline = [filters]filter{
	{
		name: "ready", fits: func(_ *judge, n *nodeInfo) bool { return ready(n, nil) },
		text: func(n int) string {
			if n == 1 {
				return "1 node not available for new tasks"
			}
			return fmt.Sprintf("%d nodes not available for new tasks", n)
		},
		why: whyNotReady,
	},
	{
		name: "hold-down", fits: func(j *judge, n *nodeInfo) bool { return n.heldUntil(j.now).IsZero() },
		text: on("held down after it went down repeatedly"), why: whyHeld,
	},
	{
		name: "resources", asks: func(r *revisionInfo) bool { return r.cpu > 0 || r.memory > 0 || len(r.generic) > 0 }, changes: true,
		fits: func(j *judge, n *nodeInfo) bool { return resourcesFit(n, j.r) },
		text: on("insufficient resources"), why: whyNoResources,
	},
	{
		name: "plugins", asks: func(r *revisionInfo) bool { return len(r.volumeDrivers) > 0 || r.logDriver != "" },
		fits: func(j *judge, n *nodeInfo) bool { return missingPlugin(n, j.r) == "" },
		text: on("missing plugin"), why: func(j *judge, n *nodeInfo) string { return "has no " + missingPlugin(n, j.r) },
	},
	{
		name: "constraints", asks: func(r *revisionInfo) bool { return r.constraints.any() },
		fits: func(j *judge, n *nodeInfo) bool { return j.r.constraints.match(n.node) },
		text: on("scheduling constraints not satisfied"), why: func(j *judge, n *nodeInfo) string { return j.r.constraints.broken(n.node) },
	},
	{
		name: "platform", asks: func(r *revisionInfo) bool { return len(r.platforms) > 0 },
		fits: func(j *judge, n *nodeInfo) bool { return platformFits(j.r.platforms, n.node) },
		text: on("unsupported platform"), why: whyNoPlatform,
	},
	{
		name: "privileged ports", asks: func(r *revisionInfo) bool { return len(r.hostPorts) > 0 },
		fits: func(j *judge, n *nodeInfo) bool { return portsAllowed(n, j.r) },
		text: on("host-mode port needs privileges"),
		why: func(_ *judge, n *nodeInfo) string {
			return fmt.Sprintf("its agent may not open ports below %d", n.node.MinPort)
		},
	},
	{
		name: "host ports", asks: func(r *revisionInfo) bool { return len(r.hostPorts) > 0 }, changes: true,
		fits: func(j *judge, n *nodeInfo) bool { return portsFree(n, j.r) },
		text: on("host-mode port already in use"), why: whyPortUsed,
	},
	{
		name: "max replicas per node", asks: func(r *revisionInfo) bool { return r.maxReplicas > 0 }, changes: true,
		fits: func(j *judge, n *nodeInfo) bool { return replicasFit(n, j.r) },
		text: func(int) string { return "max replicas per node limit exceed" },
		why: func(j *judge, n *nodeInfo) string {
			return fmt.Sprintf("has %d of at most %d tasks of the service", n.by[j.r.ServiceID], j.r.maxReplicas)
		},
	},
}

func on(what string) func(int) string {
	return func(nodes int) string {
		if nodes == 1 {
			return what + " on 1 node"
		}
		return fmt.Sprintf("%s on %d nodes", what, nodes)
	}
}

// judge asks the filters about nodes for tasks of one revision, and counts the refusals of each.
type judge struct {
	r       *revisionInfo
	now     time.Time
	refused [filters]int
}

func newJudge(r *revisionInfo, now time.Time) *judge { return &judge{r: r, now: now} }

// fits asks all filters that concern the revision, and counts the first refusal.
func (j *judge) fits(n *nodeInfo) bool { return j.ask(j.r.filters, n) }

// still asks again after a node that fitted took a task.
func (j *judge) still(n *nodeInfo) bool { return j.ask(j.r.changing, n) }

func (j *judge) ask(which []int, n *nodeInfo) bool {
	for _, i := range which {
		if !pipeline[i].fits(j, n) {
			j.refused[i]++
			return false
		}
	}
	return true
}

// concern works out which filters a revision has to pass, and which revisions are alike to those of them whose answer
// lasts while tasks are placed.
func (r *revisionInfo) concern() {
	for i := range pipeline {
		f := &pipeline[i]
		if f.asks != nil && !f.asks(r) {
			continue
		}
		r.filters = append(r.filters, i)
		if f.changes {
			r.changing = append(r.changing, i)
		} else {
			r.lasting = append(r.lasting, i)
		}
	}
	var ports []uint32
	for _, p := range r.hostPorts {
		ports = append(ports, p.port)
	}
	slices.Sort(ports)
	r.class = fmt.Sprintf("%q %q %q %q %d", r.constraints.texts(), r.platforms, r.volumeDrivers, r.logDriver, ports[:min(1, len(ports))])
	r.ask = fmt.Sprintf("%s %d %d %v %v", r.class, r.cpu, r.memory, r.generic, r.hostPorts)
}

// explain says why there is no node, the most frequent reason first.
func (j *judge) explain() string {
	order := make([]int, len(pipeline))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(j.refused[b], j.refused[a]) })
	var texts []string
	for _, i := range order {
		if n := j.refused[i]; n > 0 {
			texts = append(texts, pipeline[i].text(n))
		}
	}
	if len(texts) == 0 {
		return "no suitable node"
	}
	return "no suitable node (" + strings.Join(texts, "; ") + ")"
}

func ready(n *nodeInfo, _ *revisionInfo) bool {
	s := n.node
	return s != nil && s.Status.State == swarm.NodeStateReady && (s.Spec.Availability == swarm.NodeAvailabilityActive || s.Spec.Availability == "")
}

func whyNotReady(_ *judge, n *nodeInfo) string {
	if s := n.node.Status; s.State != swarm.NodeStateReady {
		if s.Message != "" {
			return fmt.Sprintf("is %s: %s", s.State, s.Message)
		}
		return fmt.Sprintf("is %s", s.State)
	}
	return fmt.Sprintf("its availability is %s", n.node.Spec.Availability)
}

// resourcesFit tells whether what is not reserved on a node suffices for one more task.
func resourcesFit(n *nodeInfo, r *revisionInfo) bool {
	has := &n.node.Description.Resources
	if r.cpu > 0 && r.cpu > has.NanoCPUs-n.cpu || r.memory > 0 && r.memory > has.MemoryBytes-n.memory {
		return false
	}
	for _, g := range r.generic {
		if n.generic.free(g.kind) < g.amount {
			return false
		}
	}
	return true
}

// missingPlugin names what a revision needs and a node's engine does not have; "" if nothing.
//
// Networks are our own, whatever their driver is called. Engines that report no log drivers at all are old, not without.
func missingPlugin(n *nodeInfo, r *revisionInfo) string {
	for _, d := range r.volumeDrivers {
		if found, _ := findPlugin(n, "Volume", d); !found {
			return fmt.Sprintf("volume driver %q", d)
		}
	}
	if r.logDriver != "" {
		if found, any := findPlugin(n, "Log", r.logDriver); !found && any {
			return fmt.Sprintf("log driver %q", r.logDriver)
		}
	}
	return ""
}

// findPlugin tells whether a node has a plugin, and whether it reports any of that kind.
func findPlugin(n *nodeInfo, kind, name string) (found, any bool) {
	for _, p := range n.node.Description.Engine.Plugins {
		if p.Type != kind {
			continue
		}
		any = true
		if p.Name == name || strings.TrimSuffix(p.Name, ":latest") == name {
			return true, true
		}
	}
	return false, any
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

func whyNoPlatform(j *judge, n *nodeInfo) string {
	var want []string
	for _, p := range j.r.platforms {
		want = append(want, p.OS+"/"+p.Architecture)
	}
	has := n.node.Description.Platform
	return fmt.Sprintf("is %s/%s, the image is for %s", has.OS, has.Architecture, strings.Join(want, ", "))
}

// arch gives both names of an architecture, uname's and Go's, the same spelling.
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

func whyPortUsed(j *judge, n *nodeInfo) string {
	for _, p := range j.r.hostPorts {
		if n.ports[p] > 0 {
			return fmt.Sprintf("port %d/%s is in use by another task", p.port, p.proto)
		}
	}
	return ""
}

func replicasFit(n *nodeInfo, r *revisionInfo) bool {
	return r.maxReplicas == 0 || uint64(n.by[r.ServiceID]) < r.maxReplicas
}
