package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/docker/docker/api/types/swarm"
	"github.com/docker/docker/client"
	"github.com/urfave/cli/v2"
)

func (p *program) joinTokenCommand() *cli.Command {
	var quiet, rotate bool
	return &cli.Command{
		Name: "join-token", Usage: "Show how another machine joins the swarm", ArgsUsage: "worker|manager",
		Flags: []cli.Flag{
			flagBool(&quiet, "quiet,q", "Only display token"),
			flagBool(&rotate, "rotate", "Rotate join token: the old one stops working, nodes that joined stay"),
		},
		Action: func(c *cli.Context) error {
			if err := exactArgs(c, 1); err != nil {
				return err
			}
			role := c.Args().First()
			if role != "worker" && role != "manager" {
				return usageError(c.Command.HelpName, "unknown role %q: write worker or manager", role)
			}
			node, err := p.client()
			if err != nil {
				return err
			}
			return p.joinToken(c.Context, node, role, quiet, rotate)
		},
	}
}

func (p *program) joinToken(ctx context.Context, node *client.Client, role string, quiet, rotate bool) error {
	if rotate {
		cluster, err := node.SwarmInspect(ctx)
		if err != nil {
			return err
		}
		err = node.SwarmUpdate(ctx, cluster.Version, cluster.Spec, swarm.UpdateFlags{
			RotateWorkerToken: role == "worker", RotateManagerToken: role == "manager",
		})
		if err != nil {
			return err
		}
		if !quiet {
			fmt.Fprintf(p.out, "Successfully rotated %s join token.\n\n", role)
		}
	}
	join, err := readJoin(ctx, node)
	if err != nil {
		return err
	}
	if quiet {
		fmt.Fprintln(p.out, join.token(role))
		return nil
	}
	join.print(p.out, role)
	return nil
}

// join is what another machine needs to enter the swarm.
type join struct {
	addr   string
	tokens swarm.JoinTokens
}

func readJoin(ctx context.Context, node *client.Client) (join, error) {
	cluster, err := node.SwarmInspect(ctx)
	if err != nil {
		return join{}, err
	}
	info, err := node.Info(ctx)
	if err != nil {
		return join{}, err
	}
	self, _, err := node.NodeInspectWithRaw(ctx, info.Swarm.NodeID)
	if err != nil {
		return join{}, err
	}
	if self.ManagerStatus == nil {
		return join{}, errors.New("no join token on a worker: ask a manager")
	}
	return join{addr: self.ManagerStatus.Addr, tokens: cluster.JoinTokens}, nil
}

func (j join) token(role string) string {
	if role == "manager" {
		return j.tokens.Manager
	}
	return j.tokens.Worker
}

func (j join) print(out io.Writer, role string) {
	fmt.Fprintf(out, "To add a %s to this swarm, run the following command on its machine:\n\n    meshswarm up --join %s --token %s\n\n",
		role, j.addr, j.token(role))
}
