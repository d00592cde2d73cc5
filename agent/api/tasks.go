package api

import (
	"fmt"
	"slices"
	"strings"

	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

// GetTasks implements swarm.Backend.
func (b *Backend) GetTasks(opts swarm.TaskListOptions) ([]swarm.Task, error) {
	_, v, err := b.view()
	if err != nil {
		return nil, err
	}
	f := opts.Filters
	if err := f.Validate(keySet("desired-state", "id", "label", "name", "node", "runtime", "service", "_up-to-date")); err != nil {
		return nil, err
	}
	services, err := resolve(f.Get("service"), func(s string) (string, error) {
		o, err := findService(v, s)
		if err != nil {
			return "", err
		}
		return o.ID, nil
	})
	if err != nil {
		return nil, err
	}
	nodes, err := resolve(f.Get("node"), func(s string) (string, error) {
		o, err := findNode(v, s)
		if err != nil {
			return "", err
		}
		return o.ID, nil
	})
	if err != nil {
		return nil, err
	}
	desired, err := desiredStates(f.Get("desired-state"))
	if err != nil {
		return nil, err
	}
	out := []swarm.Task{}
	tv := newTaskView(v)
	tv.fromZero = f.Contains("_up-to-date") // only progress displays ask so
	for _, t := range candidateTasks(v, services, nodes) {
		if (len(nodes) == 0 || slices.Contains(nodes, t.NodeID)) &&
			(len(desired) == 0 || slices.Contains(desired, t.DesiredState)) && tv.match(f, t) {
			out = append(out, tv.task(t))
		}
	}
	return out, nil
}

// candidateTasks uses the store's index for the usual question.
func candidateTasks(v state.View, services, nodes []string) []*state.Task {
	var out []*state.Task
	switch {
	case len(services) > 0:
		for _, id := range slices.Compact(slices.Sorted(slices.Values(services))) {
			out = append(out, v.TasksByService(id)...)
		}
	case len(nodes) > 0:
		for _, id := range slices.Compact(slices.Sorted(slices.Values(nodes))) {
			out = append(out, v.TasksByNode(id)...)
		}
	default:
		out = v.Tasks()
	}
	return out
}

func (v *taskView) match(f filters.Args, t *state.Task) bool {
	if !matchPrefix(f, "id", t.ID) || !matchPrefix(f, "name", t.Name()) {
		return false
	}
	if runtimes := f.Get("runtime"); len(runtimes) > 0 && !slices.Contains(runtimes, string(swarm.RuntimeContainer)) && !slices.Contains(runtimes, "") {
		return false
	}
	s := v.Service(t.ServiceID)
	if f.Contains("label") && (s == nil || !matchLabels(f, "label", s.Spec.Labels)) {
		return false
	}
	return !f.Contains("_up-to-date") || s != nil && v.upToDate(s, t)
}

func resolve(terms []string, find func(string) (string, error)) ([]string, error) {
	var ids []string
	for _, t := range terms {
		id, err := find(t)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// knownStates are the values of the desired-state filter, in Swarm's order.
var knownStates = []swarm.TaskState{
	swarm.TaskStateNew, swarm.TaskStatePending, swarm.TaskStateAssigned, swarm.TaskStateAccepted, swarm.TaskStatePreparing,
	swarm.TaskStateReady, swarm.TaskStateStarting, swarm.TaskStateRunning, swarm.TaskStateComplete, swarm.TaskStateShutdown,
	swarm.TaskStateFailed, swarm.TaskStateRejected, swarm.TaskStateRemove, swarm.TaskStateOrphaned,
}

func desiredStates(values []string) ([]swarm.TaskState, error) {
	var out []swarm.TaskState
	for _, s := range values {
		st := swarm.TaskState(strings.ToLower(s))
		switch {
		case slices.Contains(knownStates, st):
			out = append(out, st)
		case s != "":
			//lint:ignore ST1005 Docker's text
			return nil, fmt.Errorf("Invalid desired-state filter: '%s'", s)
		}
	}
	return out, nil
}

// GetTask implements swarm.Backend.
func (b *Backend) GetTask(id string) (swarm.Task, error) {
	_, v, err := b.view()
	if err != nil {
		return swarm.Task{}, err
	}
	t, err := findTask(v, id)
	if err != nil {
		return swarm.Task{}, err
	}
	return newTaskView(v).task(t), nil
}
