package sched

import (
	"maps"
	"reflect"
	"slices"

	"github.com/meshswarm/meshswarm/raft/state"
)

// Diff is what turns old into new: rows to set, and keys to remove. changed is false if there is nothing to do. A status of
// a task that its node reported is no news for that node, until the task has ended.
func Diff(old, new state.Assignments) (set state.Assignments, rm state.Removals, changed bool) {
	set.Tasks, rm.Tasks = diff(old.Tasks, new.Tasks, sameTask)
	set.Networks, rm.Networks = diff(old.Networks, new.Networks, sameNetwork)
	set.Services, rm.Services = diff(old.Services, new.Services, sameService)
	set.Endpoints, rm.Endpoints = diff(old.Endpoints, new.Endpoints, sameEndpoint)
	set.Nodes, rm.Nodes = diff(old.Nodes, new.Nodes, func(a, b state.AssignedNode) bool { return a == b })
	changed = len(set.Tasks)+len(set.Networks)+len(set.Services)+len(set.Endpoints)+len(set.Nodes)+
		len(rm.Tasks)+len(rm.Networks)+len(rm.Services)+len(rm.Endpoints)+len(rm.Nodes) > 0
	return set, rm, changed
}

// Patch is what a receiver of d makes of a. It changes neither; the result shares rows with both.
func Patch(a state.Assignments, d state.Delta) state.Assignments {
	if d.Full {
		a = state.Assignments{}
	}
	return state.Assignments{
		Tasks:     patch(a.Tasks, d.Set.Tasks, d.Remove.Tasks),
		Networks:  patch(a.Networks, d.Set.Networks, d.Remove.Networks),
		Services:  patch(a.Services, d.Set.Services, d.Remove.Services),
		Endpoints: patch(a.Endpoints, d.Set.Endpoints, d.Remove.Endpoints),
		Nodes:     patch(a.Nodes, d.Set.Nodes, d.Remove.Nodes),
	}
}

func diff[V any](old, new map[string]V, same func(a, b V) bool) (set map[string]V, rm []string) {
	for k, v := range new {
		if was, ok := old[k]; ok && same(was, v) {
			continue
		}
		if set == nil {
			set = map[string]V{}
		}
		set[k] = v
	}
	for k := range old {
		if _, ok := new[k]; !ok {
			rm = append(rm, k)
		}
	}
	slices.Sort(rm)
	return set, rm
}

func patch[V any](m, set map[string]V, rm []string) map[string]V {
	out := make(map[string]V, len(m)+len(set))
	maps.Copy(out, m)
	maps.Copy(out, set)
	for _, k := range rm {
		delete(out, k)
	}
	return out
}

// sameTask relies on what the store promises: a task object with the same Modified is the same, and so is the revision
// that it follows.
func sameTask(a, b state.AssignedTask) bool {
	if a.Task.Modified == 0 || (a.Task.Modified != b.Task.Modified && !isEcho(&a.Task, &b.Task)) {
		return reflect.DeepEqual(a, b)
	}
	return a.Task.ID == b.Task.ID && a.Task.SpecVersion == b.Task.SpecVersion &&
		(a.Spec.ContainerSpec == nil) == (b.Spec.ContainerSpec == nil) && maps.Equal(a.ServiceLabels, b.ServiceLabels)
}

func sameNetwork(a, b state.AssignedNetwork) bool {
	return a.ID == b.ID && a.Name == b.Name && a.Internal == b.Internal && a.Ingress == b.Ingress && a.MTU == b.MTU &&
		slices.Equal(a.Subnets, b.Subnets) && slices.Equal(a.Gateways, b.Gateways)
}

func sameService(a, b state.AssignedService) bool {
	return a.ID == b.ID && a.Name == b.Name && slices.Equal(a.Ports, b.Ports) &&
		maps.EqualFunc(a.VIPs, b.VIPs, slices.Equal) && maps.EqualFunc(a.Aliases, b.Aliases, slices.Equal)
}

func sameEndpoint(a, b state.Endpoint) bool {
	return a.TaskID == b.TaskID && a.ServiceID == b.ServiceID && a.NodeID == b.NodeID && a.Slot == b.Slot &&
		a.Name == b.Name && a.Hostname == b.Hostname && a.State == b.State && maps.EqualFunc(a.Addrs, b.Addrs, slices.Equal)
}
