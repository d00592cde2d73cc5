package sched

import (
	"maps"

	"github.com/meshswarm/meshswarm/raft/state"
)

// dirty are the keys of objects whose rows have to be looked at.
type dirty struct {
	networks, nodes, services, tasks map[string]struct{}
	ingress                          bool // an ingress network came or went, which all rows may depend on
}

func newDirty() *dirty {
	return &dirty{map[string]struct{}{}, map[string]struct{}{}, map[string]struct{}{}, map[string]struct{}{}, false}
}

// note takes one change, and by v also the tasks whose rows depend on what changed.
func (d *dirty) note(v state.View, c state.Change) {
	object := c.New
	if object == nil {
		object = c.Old
	}
	var tasks []*state.Task
	switch o := object.(type) {
	case *state.Task:
		d.tasks[o.ID] = struct{}{}
	case *state.Network:
		d.networks[o.ID] = struct{}{}
		old, _ := c.Old.(*state.Network)
		next, _ := c.New.(*state.Network)
		d.ingress = d.ingress || faceOf(old) != faceOf(next)
	case *state.Node:
		d.nodes[o.ID] = struct{}{}
		old, _ := c.Old.(*state.Node)
		next, _ := c.New.(*state.Node)
		if old == nil || next == nil || down(old) != down(next) || old.Description.Hostname != next.Description.Hostname ||
			old.Description.Platform != next.Description.Platform {
			tasks = v.TasksByNode(o.ID)
		}
	case *state.Service:
		d.services[o.ID] = struct{}{}
		old, _ := c.Old.(*state.Service)
		next, _ := c.New.(*state.Service)
		if old == nil || next == nil || old.PendingDelete != next.PendingDelete || !maps.Equal(old.Spec.Labels, next.Spec.Labels) {
			tasks = v.TasksByService(o.ID)
		}
	case *state.Revision:
		for _, t := range v.TasksByService(o.ServiceID) {
			if t.SpecVersion == o.SpecVersion {
				tasks = append(tasks, t)
			}
		}
	}
	for _, t := range tasks {
		d.tasks[t.ID] = struct{}{}
	}
}

// ingressOf is the ID of the network of published ports, "" if there is none.
func ingressOf(v state.View) string {
	id := ""
	for _, n := range v.Networks() {
		if f := faceOf(n); f.allocated && !f.pending && (id == "" || n.ID < id) {
			id = n.ID
		}
	}
	return id
}

// ingressFace is what others' rows depend on of an ingress network; zero for other networks.
type ingressFace struct{ is, allocated, pending bool }

func faceOf(n *state.Network) ingressFace {
	if n == nil || !n.Spec.Ingress {
		return ingressFace{}
	}
	return ingressFace{true, n.IPAM != nil, n.PendingDelete}
}
