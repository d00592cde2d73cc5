package api

import (
	"strings"

	"github.com/docker/docker/api/types/network"

	"github.com/meshswarm/meshswarm/raft/state"
)

// Objects are found as Docker does: by full ID, then by name, then by a prefix of the ID.

// unique picks the one match, or says why there is none.
func unique[T any](kind, term string, found []T) (T, error) {
	var none T
	switch len(found) {
	case 0:
		return none, notFound("%s %s not found", kind, term)
	case 1:
		return found[0], nil
	}
	return none, invalid("%s %s is ambiguous (%d matches found)", kind, term, len(found))
}

// byPrefix lists the visible objects of a kind whose ID starts with term.
func byPrefix[T state.Object](v state.View, k state.Kind, term string, visible func(T) bool) []T {
	if term == "" {
		return nil
	}
	var out []T
	for _, o := range v.ByIDPrefix(k, term, 0) {
		if t := o.(T); visible(t) {
			out = append(out, t)
		}
	}
	return out
}

func visibleService(s *state.Service) bool { return !s.PendingDelete }

func visibleNetwork(n *state.Network) bool { return !n.PendingDelete }

func all[T any](T) bool { return true }

func findService(v state.View, term string) (*state.Service, error) {
	if s := v.Service(term); s != nil && visibleService(s) {
		return s, nil
	}
	if s := v.ServiceByName(term); s != nil && s.Spec.Name == term {
		return s, nil
	}
	return unique("service", term, byPrefix(v, state.KindService, term, visibleService))
}

func findNode(v state.View, term string) (*state.Node, error) {
	if n := v.Node(term); n != nil {
		return n, nil
	}
	var named []*state.Node
	for _, n := range v.Nodes() {
		if term != "" && n.Description.Hostname == term {
			named = append(named, n)
		}
	}
	if len(named) == 0 {
		named = byPrefix(v, state.KindNode, term, all[*state.Node])
	}
	return unique("node", term, named)
}

func findTask(v state.View, term string) (*state.Task, error) {
	if t := v.Task(term); t != nil {
		return t, nil
	}
	// A task's name ends in its ID.
	if i := strings.LastIndexByte(term, '.'); i >= 0 {
		if t := v.Task(term[i+1:]); t != nil && t.Name() == term {
			return t, nil
		}
	}
	return unique("task", term, byPrefix(v, state.KindTask, term, all[*state.Task]))
}

func findNetwork(v state.View, term string) (*state.Network, error) {
	if n := v.Network(term); n != nil && visibleNetwork(n) {
		return n, nil
	}
	if n := v.NetworkByName(term); n != nil && n.Spec.Name == term {
		return n, nil
	}
	return unique("network", term, byPrefix(v, state.KindNetwork, term, visibleNetwork))
}

// predefinedNetwork tells the names that every engine has of its own.
func predefinedNetwork(name string) bool {
	switch name {
	case network.NetworkBridge, network.NetworkHost, network.NetworkNone, network.NetworkDefault:
		return true
	}
	return false
}
