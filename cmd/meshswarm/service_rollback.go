package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/docker/docker/api/types/swarm"
	"github.com/docker/docker/client"
	"github.com/urfave/cli/v2"
)

func (p *program) serviceRollback() *cli.Command {
	var detach, quiet bool
	return &cli.Command{
		Name: "rollback", Usage: "Revert changes to a service's configuration", ArgsUsage: "SERVICE",
		Description: "The service gets the configuration it had before its last update, as its --rollback-* flags say.\n" +
			"A second rollback takes the first one back.",
		Flags: []cli.Flag{
			flagBool(&detach, "detach,d", detachUsage),
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
			return p.rollBack(c.Context, node, c.Args().First(), detach, quiet)
		},
	}
}

// rollBack makes the swarm go back to a service's previous specification and waits until it has.
func (p *program) rollBack(ctx context.Context, node *client.Client, name string, detach, quiet bool) error {
	service, _, err := node.ServiceInspectWithRaw(ctx, name, swarm.ServiceInspectOptions{})
	if err != nil {
		return err
	}
	done, err := node.ServiceUpdate(ctx, service.ID, service.Version, service.Spec, swarm.ServiceUpdateOptions{
		Rollback: "previous",
	})
	if err != nil {
		return err
	}
	p.warn(done.Warnings)
	fmt.Fprintln(p.out, name)
	if detach {
		return nil
	}
	return p.converge(ctx, node, service.ID, waiting{quiet: quiet, back: true})
}

// rollbackAlone refuses --rollback together with flags that change the specification.
func rollbackAlone(c *cli.Context) error {
	for _, name := range c.LocalFlagNames() {
		if !slices.Contains([]string{"rollback", "detach", "d", "quiet", "q"}, name) {
			return errors.New("other flags may not be combined with --rollback")
		}
	}
	return nil
}
