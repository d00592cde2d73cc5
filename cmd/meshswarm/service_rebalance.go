package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"

	"github.com/docker/docker/api/types/swarm"
	"github.com/docker/docker/client"
	"github.com/urfave/cli/v2"
)

// rebalanceMove is a task that is to leave its node.
type rebalanceMove struct {
	TaskID string
	Slot   int
	// From is the ID of the node.
	From string
}

func (p *program) serviceRebalance() *cli.Command {
	var detach, quiet bool
	return &cli.Command{
		Name: "rebalance", Usage: "Move as few tasks of a service as make it even over the nodes", ArgsUsage: "SERVICE",
		Description: "Swarm places tasks when they start and never moves them: a node that came later, or came back, has none.\n" +
			"This moves the fewest tasks that bring the nodes that may run the service (and the branches of its placement\n" +
			"preferences) within one task of each other, by the machinery of an update: --update-parallelism, --update-order,\n" +
			"--update-delay and the others of the service hold. The label meshswarm.rebalance=auto does it without being asked.",
		Flags: []cli.Flag{
			flagBool(&detach, "detach,d", "Exit immediately instead of waiting for the tasks to move"),
			flagBool(&quiet, "quiet,q", "Suppress progress output"),
		},
		Action: func(c *cli.Context) error {
			if err := exactArgs(c, 1); err != nil {
				return err
			}
			node, err := p.client()
			if err != nil {
				return err
			}
			return p.rebalance(c.Context, node, c.Args().First(), detach, quiet)
		},
	}
}

func (p *program) rebalance(ctx context.Context, node *client.Client, name string, detach, quiet bool) error {
	service, _, err := node.ServiceInspectWithRaw(ctx, name, swarm.ServiceInspectOptions{})
	if err != nil {
		return err
	}
	var planned struct{ Moves []rebalanceMove }
	if err := ask(ctx, node, http.MethodPost, "/meshswarm/services/"+url.PathEscape(service.ID)+"/rebalance", &planned); err != nil {
		return err
	}
	if len(planned.Moves) == 0 {
		fmt.Fprintf(p.out, "%s is already balanced\n", service.Spec.Name)
		return nil
	}
	nodes, err := nodesByID(ctx, node)
	if err != nil {
		return err
	}
	for _, m := range planned.Moves {
		fmt.Fprintf(p.out, "%s.%d leaves %s\n", service.Spec.Name, m.Slot, nodeName(nodes, m.From))
	}
	if detach {
		return nil
	}
	return p.converge(ctx, node, service.ID, waiting{quiet: quiet, moves: planned.Moves, stale: service.UpdateStatus})
}
