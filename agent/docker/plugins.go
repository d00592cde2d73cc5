package docker

import (
	"cmp"
	"context"
	"slices"

	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/swarm"
	"github.com/docker/docker/api/types/system"
)

// pluginTypes are Swarm's words for what an engine's managed plugins can do.
var pluginTypes = map[string]string{"volumedriver": "Volume", "networkdriver": "Network", "logdriver": "Log", "authz": "Authorization"}

// plugins lists what the engine has, in Swarm's form: its drivers and old plugins by name, managed plugins by name and tag.
func (e *Executor) plugins(ctx context.Context, info system.Info) []swarm.PluginDescription {
	var out []swarm.PluginDescription
	add := func(kind string, names ...string) {
		for _, n := range names {
			out = append(out, swarm.PluginDescription{Type: kind, Name: n})
		}
	}
	add("Volume", info.Plugins.Volume...)
	add("Network", "overlay") // the node's own, whatever the engine says
	add("Network", info.Plugins.Network...)
	add("Authorization", info.Plugins.Authorization...)
	add("Log", info.Plugins.Log...)
	// Engines that are not Docker's have no managed plugins.
	managed, err := e.api.PluginList(ctx, filters.NewArgs(filters.Arg("enabled", "true")))
	if err != nil {
		e.log.Debug("list the engine's plugins", "err", err)
	}
	for _, p := range managed {
		for _, t := range p.Config.Interface.Types {
			if kind := pluginTypes[t.Capability]; p.Enabled && t.Prefix == "docker" && kind != "" {
				add(kind, p.Name)
			}
		}
	}
	slices.SortFunc(out, func(a, b swarm.PluginDescription) int {
		return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Name, b.Name))
	})
	return slices.Compact(out)
}
