package sched

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/docker/docker/api/types/swarm"
	gounits "github.com/docker/go-units"

	"github.com/meshswarm/meshswarm/raft/state"
)

// A node's generic resources come as numbers (GPU=4) or as names (GPU=UUID1, GPU=UUID2); a service asks for numbers. Kinds
// are compared in lower case.

// genericNeed is how much of one kind a task reserves.
type genericNeed struct {
	kind    string // lower case
	spelled string // as the service writes it
	amount  int64
}

// genericNeeds adds up a list of resources by kind, in order of kinds; a named one is one.
func genericNeeds(list []swarm.GenericResource) []genericNeed {
	var needs []genericNeed
	for _, g := range list {
		kind, amount, _ := genericParts(g)
		if amount <= 0 {
			continue
		}
		lower := strings.ToLower(kind)
		if i := slices.IndexFunc(needs, func(n genericNeed) bool { return n.kind == lower }); i >= 0 {
			needs[i].amount += min(amount, math.MaxInt64-needs[i].amount)
		} else {
			needs = append(needs, genericNeed{lower, kind, amount})
		}
	}
	slices.SortFunc(needs, func(a, b genericNeed) int { return cmp.Compare(a.kind, b.kind) })
	return needs
}

// genericParts takes a resource apart: its kind as it is written, how much it is, and its name if it has one.
func genericParts(g swarm.GenericResource) (kind string, amount int64, name string) {
	switch {
	case g.DiscreteResourceSpec != nil:
		return g.DiscreteResourceSpec.Kind, g.DiscreteResourceSpec.Value, ""
	case g.NamedResourceSpec != nil:
		return g.NamedResourceSpec.Kind, 1, g.NamedResourceSpec.Value
	}
	return "", 0, ""
}

// genericStock is, by kind, what a node has and what its tasks use of it.
type genericStock map[string]*genericKind

type genericKind struct {
	spelled  string // as the node writes the kind
	discrete int64
	named    []string // in the node's order
	used     int64    // by tasks that have not ended, named ones included
	users    map[string]int
}

func (s *genericStock) kind(kind string) *genericKind {
	if *s == nil {
		*s = genericStock{}
	}
	k := (*s)[kind]
	if k == nil {
		k = &genericKind{spelled: kind}
		(*s)[kind] = k
	}
	return k
}

// offer replaces what the node has. What is used stays used, also of what the node no longer has.
func (s *genericStock) offer(list []swarm.GenericResource) {
	for _, k := range *s {
		k.discrete, k.named = 0, nil
	}
	for _, g := range list {
		kind, amount, name := genericParts(g)
		if kind == "" {
			continue
		}
		k := s.kind(strings.ToLower(kind))
		k.spelled = kind
		if name == "" {
			k.discrete += max(amount, 0)
		} else if !slices.Contains(k.named, name) {
			k.named = append(k.named, name)
		}
	}
}

// use counts (by 1) or no longer counts (by -1) what a task was given. A task that was assigned by a version that gave
// none uses what its revision reserves.
func (s *genericStock) use(t *state.Task, r *revisionInfo, by int) {
	if len(t.GenericResources) == 0 && r != nil {
		for _, need := range r.generic {
			s.kind(need.kind).used += int64(by) * need.amount
		}
	}
	for _, g := range t.GenericResources {
		kind, amount, name := genericParts(g)
		k := s.kind(strings.ToLower(kind))
		k.used += int64(by) * amount
		if name == "" {
			continue
		}
		if k.users == nil {
			k.users = map[string]int{}
		}
		if k.users[name] += by; k.users[name] == 0 {
			delete(k.users, name)
		}
	}
}

// free is how much of a kind can still be given. Names that are in use are not, and neither is more than the node has in
// all, whatever tasks hold from before its stock changed.
func (s genericStock) free(kind string) int64 {
	k := s[kind]
	if k == nil {
		return 0
	}
	left := k.discrete
	for _, name := range k.named {
		if k.users[name] == 0 {
			left++
		}
	}
	return max(0, min(left, k.total()-k.used))
}

func (k *genericKind) total() int64 { return k.discrete + int64(len(k.named)) }

// take chooses concrete resources for a task that fits: names first, in the node's order.
func (s genericStock) take(needs []genericNeed) []swarm.GenericResource {
	var out []swarm.GenericResource
	for _, need := range needs {
		k, left := s[need.kind], need.amount
		for _, name := range k.named {
			if left > 0 && k.users[name] == 0 {
				out = append(out, swarm.GenericResource{NamedResourceSpec: &swarm.NamedGenericResource{Kind: k.spelled, Value: name}})
				left--
			}
		}
		if left > 0 {
			out = append(out, swarm.GenericResource{DiscreteResourceSpec: &swarm.DiscreteGenericResource{Kind: k.spelled, Value: left}})
		}
	}
	return out
}

// whyNoResources says what a node has too little of.
func whyNoResources(j *judge, n *nodeInfo) string {
	has := n.node.Description.Resources
	var lacks []string
	if j.r.cpu > 0 && j.r.cpu > has.NanoCPUs-n.cpu {
		lacks = append(lacks, fmt.Sprintf("needs %s, %s of %s are free", cpuCount(j.r.cpu), cpus(max(0, has.NanoCPUs-n.cpu)), cpus(has.NanoCPUs)))
	}
	if j.r.memory > 0 && j.r.memory > has.MemoryBytes-n.memory {
		lacks = append(lacks, fmt.Sprintf("needs %s of memory, %s of %s are free", memory(j.r.memory), memory(max(0, has.MemoryBytes-n.memory)), memory(has.MemoryBytes)))
	}
	for _, g := range j.r.generic {
		free := n.generic.free(g.kind)
		if free >= g.amount {
			continue
		}
		if k := n.generic[g.kind]; k != nil && k.total() > 0 {
			lacks = append(lacks, fmt.Sprintf("needs %d %s, %d of %d are free", g.amount, k.spelled, free, k.total()))
		} else {
			lacks = append(lacks, fmt.Sprintf("needs %d %s, has none", g.amount, g.spelled))
		}
	}
	return strings.Join(lacks, "; ")
}

func cpuCount(nano int64) string {
	if nano == 1e9 {
		return "1 CPU"
	}
	return cpus(nano) + " CPUs"
}

func cpus(nano int64) string { return fmt.Sprintf("%.4g", float64(nano)/1e9) }

func memory(n int64) string { return gounits.BytesSize(float64(n)) }
