package main

import (
	"fmt"
	"slices"

	"github.com/docker/cli/opts"
	"github.com/docker/docker/api/types/swarm"
	"github.com/docker/docker/client"
	"github.com/urfave/cli/v2"
)

func (p *program) nodeUpdate() *cli.Command {
	var role, availability string
	add, remove := opts.NewListOpts(opts.ValidateLabel), opts.NewListOpts(nil)
	return &cli.Command{
		Name: "update", Usage: "Update a node", ArgsUsage: "NODE",
		Flags: []cli.Flag{
			flagString(&availability, "availability", `Availability of the node ("active", "pause", "drain")`),
			flagList(&add, "label-add", `Add or update a node label ("key=value")`),
			flagList(&remove, "label-rm", "Remove a node label if exists"),
			flagString(&role, "role", `Role of the node ("worker", "manager")`),
		},
		Action: func(c *cli.Context) error {
			if err := exactArgs(c, 1); err != nil {
				return err
			}
			if err := oneOf(c, "availability", availability, "active", "pause", "drain"); err != nil {
				return err
			}
			if err := oneOf(c, "role", role, "worker", "manager"); err != nil {
				return err
			}
			node, err := p.client()
			if err != nil {
				return err
			}
			name := c.Args().First()
			_, err = updateNode(c, node, name, func(n *swarm.Node) (bool, error) {
				if c.IsSet("role") {
					n.Spec.Role = swarm.NodeRole(role)
				}
				if c.IsSet("availability") {
					n.Spec.Availability = swarm.NodeAvailability(availability)
				}
				return true, changeNodeLabels(n, add, remove)
			})
			if err != nil {
				return err
			}
			fmt.Fprintln(p.out, name)
			return nil
		},
	}
}

// oneOf refuses other values of a flag that was given.
func oneOf(c *cli.Context, flag, v string, allowed ...string) error {
	if !c.IsSet(flag) || slices.Contains(allowed, v) {
		return nil
	}
	return usageError(c.Command.HelpName, "invalid value %q for flag --%s%s", v, flag, didYouMean("", v, allowed))
}

// changeNodeLabels removes labels, all of which must be there, and sets some.
func changeNodeLabels(n *swarm.Node, add, remove opts.ListOpts) error {
	for _, key := range remove.GetSlice() {
		if _, there := n.Spec.Labels[key]; !there {
			return fmt.Errorf("key %s doesn't exist in node's labels", key)
		}
	}
	if n.Spec.Labels == nil {
		n.Spec.Labels = map[string]string{}
	}
	n.Spec.Labels = changeMap(n.Spec.Labels, add, remove)
	return nil
}

// updateNode reads a node ("self" is this one), changes it and sends it back, unless change says that all is as wanted.
func updateNode(c *cli.Context, node *client.Client, name string, change func(*swarm.Node) (bool, error)) (changed bool, err error) {
	id, err := nodeID(c.Context, node, name)
	if err != nil {
		return false, err
	}
	n, _, err := node.NodeInspectWithRaw(c.Context, id)
	if err != nil {
		return false, err
	}
	if changed, err = change(&n); err != nil || !changed {
		return false, err
	}
	return true, node.NodeUpdate(c.Context, n.ID, n.Version, n.Spec)
}

func (p *program) nodePromote() *cli.Command {
	return p.nodeRole("promote", "Promote one or more nodes to manager in the swarm", swarm.NodeRoleManager,
		"Node %s promoted to a manager in the swarm.\n", "Node %s is already a manager.\n")
}

func (p *program) nodeDemote() *cli.Command {
	return p.nodeRole("demote", "Demote one or more nodes from manager in the swarm", swarm.NodeRoleWorker,
		"Manager %s demoted in the swarm.\n", "Node %s is already a worker.\n")
}

// nodeRole is a command that gives nodes a role. It stops at the first one that cannot have it, as the docker command does.
func (p *program) nodeRole(name, usage string, role swarm.NodeRole, done, already string) *cli.Command {
	return &cli.Command{
		Name: name, Usage: usage, ArgsUsage: "NODE [NODE...]",
		Action: p.onNode(1, func(c *cli.Context, node *client.Client) error {
			for _, name := range c.Args().Slice() {
				changed, err := updateNode(c, node, name, func(n *swarm.Node) (bool, error) {
					if n.Spec.Role == role {
						fmt.Fprintf(p.out, already, n.ID)
						return false, nil
					}
					n.Spec.Role = role
					return true, nil
				})
				if err != nil {
					return err
				}
				if changed {
					fmt.Fprintf(p.out, done, name)
				}
			}
			return nil
		}),
	}
}
