package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"

	"github.com/docker/cli/opts"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/swarm"
)

// applyContainerLists changes the lists of a container that have an add and a remove flag.
func (c *specChange) applyContainerLists() {
	o, rm, spec := c.o, &c.o.remove, c.spec.TaskTemplate.ContainerSpec
	if c.any("env-add", "env-rm") {
		spec.Env = changeKeyed(spec.Env, o.env.GetSlice(), rm.env.GetSlice())
	}
	if c.any("group-add", "group-rm") {
		spec.Groups = changeSorted(spec.Groups, o.groups, rm.groups)
	}
	if c.any("sysctl-add", "sysctl-rm") {
		spec.Sysctls = changeMap(spec.Sysctls, o.sysctls, rm.sysctls)
	}
	if c.any("ulimit-add", "ulimit-rm") {
		spec.Ulimits = changeUlimits(spec.Ulimits, o.ulimits.GetList(), rm.ulimits.GetSlice())
	}
	if c.any("host-add", "host-rm") {
		spec.Hosts = changeHosts(spec.Hosts, o.hosts.GetSlice(), rm.hosts.GetSlice())
	}
	if c.any("dns-add", "dns-rm", "dns-option-add", "dns-option-rm", "dns-search-add", "dns-search-rm") {
		old := valueOf(spec.DNSConfig)
		spec.DNSConfig = &swarm.DNSConfig{
			Nameservers: changeSorted(old.Nameservers, o.dns, rm.dns),
			Search:      changeSorted(old.Search, o.dnsSearch, rm.dnsSearch),
			Options:     changeSorted(old.Options, o.dnsOption, rm.dnsOption),
		}
	}
}

// changeMap takes keys away and then sets pairs.
func changeMap(m map[string]string, add, remove opts.ListOpts) map[string]string {
	for _, key := range remove.GetSlice() {
		delete(m, keyOf(key))
	}
	for key, v := range opts.ConvertKVStringsToMap(add.GetSlice()) {
		if m == nil {
			m = map[string]string{}
		}
		m[key] = v
	}
	return m
}

// changeKeyed removes KEY=VALUE entries by key and then adds or replaces some; the others keep their order.
func changeKeyed(list, add, remove []string) []string {
	list = slices.DeleteFunc(slices.Clone(list), func(kv string) bool { return slices.Contains(remove, keyOf(kv)) })
	for _, kv := range add {
		if i := slices.IndexFunc(list, func(old string) bool { return keyOf(old) == keyOf(kv) }); i >= 0 {
			list[i] = kv
			continue
		}
		list = append(list, kv)
	}
	return list
}

// changeSorted adds, removes, and keeps the list sorted and without doubles, so that nothing changes by order alone.
func changeSorted(list []string, add, remove opts.ListOpts) []string {
	list = append(slices.Clone(list), add.GetSlice()...)
	list = slices.DeleteFunc(list, func(s string) bool { return slices.Contains(remove.GetSlice(), s) })
	slices.Sort(list)
	return slices.Compact(list)
}

func changeUlimits(list, add []*container.Ulimit, remove []string) []*container.Ulimit {
	byName := map[string]*container.Ulimit{}
	for _, u := range list {
		byName[u.Name] = u
	}
	for _, name := range remove {
		delete(byName, keyOf(name))
	}
	for _, u := range add {
		byName[u.Name] = u
	}
	var out []*container.Ulimit
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		out = append(out, byName[name])
	}
	return out
}

// changeHosts works on "ip name [alias...]" entries. A removal is "name" or "name:ip": the name goes away from every
// entry, or from that address's entries; an entry without names goes away.
func changeHosts(entries, add, remove []string) []string {
	var out []string
	for _, entry := range entries {
		words := strings.Fields(entry)
		if len(words) == 0 {
			continue
		}
		ip := words[0]
		names := slices.DeleteFunc(words[1:], func(name string) bool {
			return slices.ContainsFunc(remove, func(r string) bool {
				host, addr, _ := strings.Cut(r, ":")
				return host == name && (addr == "" || addr == ip)
			})
		})
		if len(names) > 0 {
			out = append(out, ip+" "+strings.Join(names, " "))
		}
	}
	for _, entry := range hostEntries(add) {
		if !slices.Contains(out, entry) {
			out = append(out, entry)
		}
	}
	return out
}

// applyMounts replaces mounts by target, removes, and sorts by source and target.
func (c *specChange) applyMounts() error {
	if !c.any("mount-add", "mount-rm") {
		return nil
	}
	byTarget := map[string]mount.Mount{}
	for _, m := range c.o.mounts.Value() {
		if _, double := byTarget[m.Target]; double {
			return fmt.Errorf("duplicate mount target %s", m.Target)
		}
		byTarget[m.Target] = m
	}
	spec := c.spec.TaskTemplate.ContainerSpec
	for _, m := range spec.Mounts {
		if _, replaced := byTarget[m.Target]; !replaced {
			byTarget[m.Target] = m
		}
	}
	for _, target := range c.o.remove.mounts.GetSlice() {
		delete(byTarget, target)
	}
	spec.Mounts = slices.SortedFunc(maps.Values(byTarget), func(a, b mount.Mount) int {
		if by := strings.Compare(a.Source, b.Source); by != 0 {
			return by
		}
		return strings.Compare(a.Target, b.Target)
	})
	return nil
}

// changePorts removes by target port, protocol and mode, and adds what is not there yet.
func changePorts(ports, add, remove []swarm.PortConfig) []swarm.PortConfig {
	ports = slices.DeleteFunc(slices.Clone(ports), func(p swarm.PortConfig) bool {
		return slices.ContainsFunc(remove, func(r swarm.PortConfig) bool {
			p, r := fullPort(p), fullPort(r)
			return p.TargetPort == r.TargetPort && p.Protocol == r.Protocol && p.PublishMode == r.PublishMode
		})
	})
	for _, p := range add {
		same := func(old swarm.PortConfig) bool { return portKey(old) == portKey(p) }
		if !slices.ContainsFunc(ports, same) {
			ports = append(ports, p)
		}
	}
	sort.SliceStable(ports, func(i, j int) bool { return portKey(ports[i]) < portKey(ports[j]) })
	return ports
}

// fullPort puts the defaults where a port config leaves them out.
func fullPort(p swarm.PortConfig) swarm.PortConfig {
	if p.Protocol == "" {
		p.Protocol = swarm.PortConfigProtocolTCP
	}
	if p.PublishMode == "" {
		p.PublishMode = swarm.PortConfigPublishModeIngress
	}
	return p
}

func portKey(p swarm.PortConfig) string {
	p = fullPort(p)
	return fmt.Sprintf("%d:%d/%s/%s", p.PublishedPort, p.TargetPort, p.Protocol, p.PublishMode)
}

// applyNetworks adds and removes networks by name or ID.
func (c *specChange) applyNetworks(ctx context.Context) error {
	if !c.any("network-add", "network-rm") {
		return nil
	}
	task := &c.spec.TaskTemplate
	list := slices.Clone(task.Networks)
	for _, name := range c.o.remove.networks.GetSlice() {
		id, err := networkID(ctx, c.node, name)
		if err != nil {
			return err
		}
		list = slices.DeleteFunc(list, func(n swarm.NetworkAttachmentConfig) bool { return n.Target == id })
	}
	added, err := c.o.attachments(ctx, c.node)
	if err != nil {
		return err
	}
	for i, n := range added {
		if slices.ContainsFunc(list, func(old swarm.NetworkAttachmentConfig) bool { return old.Target == n.Target }) {
			return errors.New("service is already attached to network " + c.o.networks.Value()[i].Target)
		}
		list = append(list, n)
	}
	sortAttachments(list)
	task.Networks = list
	return nil
}

// changeCapabilities adds and drops three-state: to add what was dropped only takes the drop back, and the other way
// round. Adding wins over dropping the same in one command. RESET empties the list first.
func changeCapabilities(added, dropped, add, drop []string) (newAdded, newDropped []string) {
	have, without := opts.CapabilitiesMap(added), opts.CapabilitiesMap(dropped)
	toAdd, toDrop := opts.CapabilitiesMap(add), opts.CapabilitiesMap(drop)
	if toAdd[opts.ResetCapabilities] {
		have = map[string]bool{}
		delete(toAdd, opts.ResetCapabilities)
	}
	if toDrop[opts.ResetCapabilities] {
		without = map[string]bool{}
		delete(toDrop, opts.ResetCapabilities)
	}
	for name := range toAdd {
		delete(toDrop, name)
	}
	move(toDrop, have, without)
	move(toAdd, without, have)
	return capabilityList(have), capabilityList(without)
}

// move takes names out of one set, or puts them into the other when they were not there.
func move(names, from, to map[string]bool) {
	for name := range names {
		if from[name] {
			delete(from, name)
			continue
		}
		to[name] = true
	}
}

func capabilityList(set map[string]bool) []string {
	if set[opts.AllCapabilities] {
		return []string{opts.AllCapabilities}
	}
	return slices.Sorted(maps.Keys(set))
}
