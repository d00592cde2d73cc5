package sched

import (
	"fmt"

	"github.com/docker/docker/api/types/swarm"
)

// CheckPreferences tells what is wrong with the placement preferences of a spec; nil if nothing is. What Swarm would
// silently skip is an error here.
func CheckPreferences(prefs []swarm.PlacementPreference) error {
	for _, p := range prefs {
		if p.Spread == nil {
			return fmt.Errorf("unknown placement preference: the one that there is is spread")
		}
		if !spreadable(p.Spread.SpreadDescriptor) {
			return fmt.Errorf("placement preference %q is unknown: tasks can be spread over node.labels.NAME or engine.labels.NAME", p.Spread.SpreadDescriptor)
		}
	}
	return nil
}

// spreadable tells whether nodes can be told apart by a descriptor.
func spreadable(descriptor string) bool {
	_, node := cutFold(descriptor, nodeLabels)
	_, engine := cutFold(descriptor, engineLabels)
	return node || engine
}

// spreadKeys lists the labels that tasks are spread over, outermost first. What is no label is skipped, as in Swarm.
func spreadKeys(prefs []swarm.PlacementPreference) []string {
	var keys []string
	for _, p := range prefs {
		if p.Spread != nil && spreadable(p.Spread.SpreadDescriptor) {
			keys = append(keys, p.Spread.SpreadDescriptor)
		}
	}
	return keys
}

// branchOf gives the values of a node's labels, one per key. A label that is missing is "".
func (n *nodeInfo) branchOf(keys []string) []string {
	values := make([]string, len(keys))
	for i, k := range keys {
		values[i], _ = label(n.node, k)
	}
	return values
}
