package main

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strings"
	"time"

	"github.com/docker/cli/cli/command/formatter"
	"github.com/docker/cli/cli/command/idresolver"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/swarm"
	"github.com/docker/docker/client"
	"github.com/docker/go-units"
	"github.com/fvbommel/sortorder"
	"github.com/urfave/cli/v2"
)

const (
	taskTable    = "table {{.ID}}\t{{.Name}}\t{{.Image}}\t{{.Node}}\t{{.DesiredState}}\t{{.CurrentState}}\t{{.Error}}\t{{.Ports}}"
	maxTaskError = 30
)

func (p *program) servicePs() *cli.Command {
	var list listFlags
	return &cli.Command{
		Name: "ps", Usage: "List the tasks of one or more services", ArgsUsage: "SERVICE [SERVICE...]",
		Flags: append(list.flags("Only display task IDs"), list.truncFlag(), list.resolveFlag()),
		Action: p.onNode(1, func(c *cli.Context, node *client.Client) error {
			return p.servicesTasks(c.Context, node, &list, c.Args().Slice())
		}),
	}
}

// servicesTasks prints the tasks of the services there are, and fails when one of the names is no service.
func (p *program) servicesTasks(ctx context.Context, node *client.Client, list *listFlags, names []string) error {
	filter := list.filter.Value()
	if err := resolveNodeFilter(ctx, node, filter); err != nil {
		return err
	}
	found, missing, err := findServices(ctx, node, names)
	if err != nil {
		return err
	}
	if len(found) > 0 {
		for _, id := range found {
			filter.Add("service", id)
		}
		tasks, err := node.TaskList(ctx, swarm.TaskListOptions{Filters: filter})
		if err != nil {
			return err
		}
		if err := p.printTasks(ctx, node, list, tasks); err != nil {
			return err
		}
	}
	return errors.Join(missing...)
}

// findServices matches names by ID, then name, then the start of an ID.
func findServices(ctx context.Context, node *client.Client, names []string) (ids []string, missing []error, err error) {
	byID, byName := filters.NewArgs(), filters.NewArgs()
	for _, name := range names {
		byID.Add("id", name)
		byName.Add("name", name)
	}
	withID, err := node.ServiceList(ctx, swarm.ServiceListOptions{Filters: byID})
	if err != nil {
		return nil, nil, err
	}
	withName, err := node.ServiceList(ctx, swarm.ServiceListOptions{Filters: byName})
	if err != nil {
		return nil, nil, err
	}
	for _, name := range names {
		id, err := matchService(name, withID, withName)
		if err != nil {
			missing = append(missing, err)
			continue
		}
		ids = append(ids, id)
	}
	return ids, missing, nil
}

func matchService(name string, withID, withName []swarm.Service) (string, error) {
	for _, s := range withID {
		if s.ID == name {
			return s.ID, nil
		}
	}
	for _, s := range withName {
		if s.Spec.Name == name {
			return s.ID, nil
		}
	}
	var found []string
	for _, s := range withID {
		if strings.HasPrefix(s.ID, name) {
			found = append(found, s.ID)
		}
	}
	switch len(found) {
	case 0:
		return "", fmt.Errorf("no such service: %s", name)
	case 1:
		return found[0], nil
	}
	return "", fmt.Errorf("%d services have IDs that start with %s: write more of it", len(found), name)
}

// resolveNodeFilter turns "self" in a node filter into the node's ID.
func resolveNodeFilter(ctx context.Context, node *client.Client, filter filters.Args) error {
	for _, name := range filter.Get("node") {
		id, err := nodeID(ctx, node, name)
		if err != nil {
			return err
		}
		filter.Del("node", name)
		filter.Add("node", id)
	}
	return nil
}

// printTasks prints tasks by name, the newest of a slot first and its predecessors below it.
func (p *program) printTasks(ctx context.Context, node *client.Client, list *listFlags, tasks []swarm.Task) error {
	if list.quiet {
		list.noTrunc = true
	}
	names := idresolver.New(node, list.noResolve)
	rows := make([]taskRow, len(tasks))
	for i, t := range tasks {
		service, err := names.Resolve(ctx, swarm.Service{}, t.ServiceID)
		if err != nil {
			return err
		}
		host, err := names.Resolve(ctx, swarm.Node{}, t.NodeID)
		if err != nil {
			return err
		}
		rows[i] = taskRow{t: t, trunc: !list.noTrunc, node: host, name: fmt.Sprintf("%s.%s", service, t.NodeID)}
		if t.Slot != 0 {
			rows[i].name = fmt.Sprintf("%s.%d", service, t.Slot)
		}
	}
	sort.SliceStable(rows, func(i, j int) bool {
		if rows[i].name != rows[j].name {
			return sortorder.NaturalLess(rows[i].name, rows[j].name)
		}
		return rows[j].t.CreatedAt.Before(rows[i].t.CreatedAt)
	})
	out := list.context(p, taskTable)
	if out.Format.IsTable() {
		indentPredecessors(rows)
	}
	header := &taskRow{HeaderContext: formatter.HeaderContext{Header: formatter.SubHeaderContext{
		"ID": "ID", "Name": formatter.NameHeader, "Image": formatter.ImageHeader, "Node": "NODE",
		"DesiredState": "DESIRED STATE", "CurrentState": "CURRENT STATE", "Error": formatter.ErrorHeader, "Ports": formatter.PortsHeader,
	}}}
	return write(out, header, rows, func(r taskRow) formatter.SubContext { return &r })
}

func indentPredecessors(rows []taskRow) {
	last := ""
	for i := range rows {
		if rows[i].name == last {
			rows[i].name = ` \_ ` + last
			continue
		}
		last = rows[i].name
	}
}

// taskRow gives the columns of service ps and node ps; its methods are the fields of --format.
type taskRow struct {
	formatter.HeaderContext
	t          swarm.Task
	name, node string
	trunc      bool
}

// MarshalJSON implements json.Marshaler: an object of all columns.
func (r *taskRow) MarshalJSON() ([]byte, error) { return formatter.MarshalJSON(r) }

func (r *taskRow) ID() string {
	if r.trunc {
		return formatter.TruncateID(r.t.ID)
	}
	return r.t.ID
}

func (r *taskRow) Name() string { return r.name }
func (r *taskRow) Node() string { return r.node }

func (r *taskRow) Image() string {
	image := valueOf(r.t.Spec.ContainerSpec).Image
	if r.trunc {
		return shortImage(image)
	}
	return image
}

func (r *taskRow) DesiredState() string { return formatter.PrettyPrint(r.t.DesiredState) }

func (r *taskRow) CurrentState() string {
	age := strings.ToLower(units.HumanDuration(time.Since(r.t.Status.Timestamp)))
	return fmt.Sprintf("%s %s ago", formatter.PrettyPrint(r.t.Status.State), age)
}

func (r *taskRow) Error() string {
	text := r.t.Status.Err
	if r.trunc {
		text = formatter.Ellipsis(text, maxTaskError)
	}
	if text == "" {
		return ""
	}
	return `"` + text + `"`
}

// Ports are the task's host-mode ports.
func (r *taskRow) Ports() string {
	var ports []string
	for _, port := range r.t.Status.PortStatus.Ports {
		ports = append(ports, fmt.Sprintf("*:%d->%d/%s", port.PublishedPort, port.TargetPort, port.Protocol))
	}
	return strings.Join(ports, ",")
}
