package sched

import (
	"fmt"
	"strings"
	"time"

	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/swarm"
)

// explain prints the leader's reasoning about a service: its own line, its nodes, what is not as wanted.
func (s *scenario) explain(service string) string {
	s.t.Helper()
	e, err := Explain(s.store.View(), s.store.View().ServiceByName(service).ID, s.clock.Now())
	if err != nil {
		return err.Error() + "\n"
	}
	in := func(t *time.Time) string {
		if t == nil {
			return "-"
		}
		return t.Sub(s.clock.Now()).String()
	}
	var out strings.Builder
	fmt.Fprintf(&out, "%s (%s): %d of %d run; %s\n", e.Service, e.Mode, e.Running, e.Wanted, e.Summary)
	rows := []string{"ORDER\tNODE\tBRANCH\tFAILURES\tOF SERVICE\tTASKS\tHELD\tREFUSED BY"}
	for _, n := range e.Nodes {
		branch, refused := "-", []string{}
		if n.Branch != nil {
			branch = fmt.Sprint(n.Branch, n.BranchTasks)
		}
		for _, f := range n.Filters {
			if !f.OK {
				refused = append(refused, f.Filter+": "+f.Detail)
			}
		}
		rows = append(rows, fmt.Sprintf("%d\t%s\t%s\t%d\t%d\t%d\t%s\t%s", n.Order, n.Hostname, branch, n.Failures, n.ServiceTasks, n.Tasks,
			in(n.HeldUntil), or(strings.Join(refused, "; "))))
	}
	out.WriteString(table(rows...))
	if len(e.Tasks) == 0 {
		return out.String()
	}
	rows = []string{"TASK\tSLOT\tNODE\tSTATE\tDESIRED\tNEXT\tREASON"}
	for _, t := range e.Tasks {
		rows = append(rows, fmt.Sprintf("%s\t%d\t%s\t%s\t%s\t%s\t%s", or(t.ID), t.Slot, or(t.Node), or(string(t.State)), or(string(t.DesiredState)), in(t.Next), t.Reason))
	}
	out.WriteString(table(rows...))
	return out.String()
}

// enginePlugins reads "Volume/nfs" and the like.
func enginePlugins(list []string) []swarm.PluginDescription {
	var out []swarm.PluginDescription
	for _, p := range list {
		kind, name, _ := strings.Cut(p, "/")
		out = append(out, swarm.PluginDescription{Type: kind, Name: name})
	}
	return out
}

// placementSpec adds what only the tests of placement ask for.
func placementSpec(spec *swarm.ServiceSpec, o map[string][]string) {
	for _, d := range o["volume-driver"] {
		spec.TaskTemplate.ContainerSpec.Mounts = append(spec.TaskTemplate.ContainerSpec.Mounts, mount.Mount{
			Type: mount.TypeVolume, Target: "/data", VolumeOptions: &mount.VolumeOptions{DriverConfig: &mount.Driver{Name: d}},
		})
	}
	if len(o["log"]) > 0 {
		spec.TaskTemplate.LogDriver = &swarm.Driver{Name: o["log"][0]}
	}
}
