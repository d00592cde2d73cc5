package main

import (
	"context"
	"errors"
	"sort"

	"github.com/docker/cli/cli/command/formatter"
	"github.com/docker/docker/api/types/swarm"
	"github.com/docker/docker/client"
	"github.com/fvbommel/sortorder"
	"github.com/urfave/cli/v2"
)

const nodeTable = "table {{.ID}} {{if .Self}}*{{else}} {{ end }}\t{{.Hostname}}\t{{.Status}}\t{{.Availability}}\t{{.ManagerStatus}}\t{{.EngineVersion}}"

func (p *program) nodeCommand() *cli.Command {
	return &cli.Command{
		Name: "node", Usage: "Manage Swarm nodes",
		Subcommands: []*cli.Command{
			p.nodeDemote(), p.nodeInspect(), p.nodeList(), p.nodePromote(), p.nodePs(), p.nodeRemove(), p.nodeUpdate(),
		},
	}
}

// nodeID resolves "self".
func nodeID(ctx context.Context, node *client.Client, name string) (string, error) {
	if name != "self" {
		return name, nil
	}
	info, err := node.Info(ctx)
	if err != nil {
		return "", err
	}
	if info.Swarm.NodeID == "" {
		return "", errors.New("node ID not found in /info: this node is not part of a swarm")
	}
	return info.Swarm.NodeID, nil
}

func (p *program) nodeList() *cli.Command {
	var list listFlags
	return &cli.Command{
		Name: "ls", Aliases: []string{"list"}, Usage: "List nodes in the swarm",
		Flags: list.flags("Only display IDs"),
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			node, err := p.client()
			if err != nil {
				return err
			}
			nodes, err := node.NodeList(c.Context, swarm.NodeListOptions{Filters: list.filter.Value()})
			if err != nil {
				return err
			}
			self := ""
			if len(nodes) > 0 && !list.quiet {
				info, err := node.Info(c.Context)
				if err != nil {
					return err
				}
				self = info.Swarm.NodeID
			}
			return p.printNodes(&list, nodes, self)
		},
	}
}

func (p *program) printNodes(list *listFlags, nodes []swarm.Node, self string) error {
	sort.Slice(nodes, func(i, j int) bool {
		return sortorder.NaturalLess(nodes[i].Description.Hostname, nodes[j].Description.Hostname)
	})
	header := &nodeRow{HeaderContext: formatter.HeaderContext{Header: formatter.SubHeaderContext{
		"ID": "ID", "Self": "", "Hostname": "HOSTNAME", "Status": formatter.StatusHeader, "Availability": "AVAILABILITY",
		"ManagerStatus": "MANAGER STATUS", "EngineVersion": "ENGINE VERSION", "TLSStatus": "TLS STATUS",
	}}}
	return write(list.context(p, nodeTable), header, nodes, func(n swarm.Node) formatter.SubContext {
		return &nodeRow{n: n, self: self}
	})
}

// nodeRow gives the columns of node ls; its methods are the fields of --format.
type nodeRow struct {
	formatter.HeaderContext
	n    swarm.Node
	self string
}

// MarshalJSON implements json.Marshaler: an object of all columns.
func (r *nodeRow) MarshalJSON() ([]byte, error) { return formatter.MarshalJSON(r) }

func (r *nodeRow) ID() string            { return r.n.ID }
func (r *nodeRow) Self() bool            { return r.n.ID == r.self }
func (r *nodeRow) Hostname() string      { return r.n.Description.Hostname }
func (r *nodeRow) Status() string        { return formatter.PrettyPrint(r.n.Status.State) }
func (r *nodeRow) Availability() string  { return formatter.PrettyPrint(r.n.Spec.Availability) }
func (r *nodeRow) EngineVersion() string { return r.n.Description.Engine.EngineVersion }

func (r *nodeRow) ManagerStatus() string {
	switch m := r.n.ManagerStatus; {
	case m == nil:
		return ""
	case m.Leader:
		return "Leader"
	default:
		return formatter.PrettyPrint(m.Reachability)
	}
}

func (r *nodeRow) TLSStatus() string {
	if r.n.Description.TLSInfo.TrustRoot == "" {
		return "Unknown"
	}
	return "Ready"
}

func (p *program) nodePs() *cli.Command {
	var list listFlags
	return &cli.Command{
		Name: "ps", Usage: "List tasks running on one or more nodes, defaults to current node", ArgsUsage: "[NODE...]",
		Flags: append(list.flags("Only display task IDs"), list.truncFlag(), list.resolveFlag()),
		Action: func(c *cli.Context) error {
			node, err := p.client()
			if err != nil {
				return err
			}
			names := c.Args().Slice()
			if len(names) == 0 {
				names = []string{"self"}
			}
			var tasks []swarm.Task
			var failures []error
			for _, name := range names {
				found, err := nodeTasks(c.Context, node, &list, name)
				if client.IsErrConnectionFailed(err) {
					return err
				}
				if err != nil {
					failures = append(failures, err)
				}
				tasks = append(tasks, found...)
			}
			if len(failures) == 0 || len(tasks) > 0 {
				failures = append(failures, p.printTasks(c.Context, node, &list, tasks))
			}
			return errors.Join(failures...)
		},
	}
}

func nodeTasks(ctx context.Context, node *client.Client, list *listFlags, name string) ([]swarm.Task, error) {
	id, err := nodeID(ctx, node, name)
	if err != nil {
		return nil, err
	}
	found, _, err := node.NodeInspectWithRaw(ctx, id)
	if err != nil {
		return nil, err
	}
	filter := list.filter.Value().Clone()
	filter.Add("node", found.ID)
	return node.TaskList(ctx, swarm.TaskListOptions{Filters: filter})
}

func (p *program) nodeRemove() *cli.Command {
	var force bool
	return &cli.Command{
		Name: "rm", Aliases: []string{"remove"}, Usage: "Remove one or more nodes from the swarm", ArgsUsage: "NODE [NODE...]",
		Flags: []cli.Flag{flagBool(&force, "force,f", "Force remove a node from the swarm")},
		Action: p.onNode(1, func(c *cli.Context, node *client.Client) error {
			return p.each(c.Args().Slice(), func(name string) error {
				return node.NodeRemove(c.Context, name, swarm.NodeRemoveOptions{Force: force})
			})
		}),
	}
}
