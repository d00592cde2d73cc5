package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"syscall"
	"time"

	"github.com/docker/docker/client"
	"github.com/urfave/cli/v2"
)

func (p *program) downCommand() *cli.Command {
	return &cli.Command{
		Name: "down", Usage: "Stop this machine's node and its tasks; it stays a member of its swarm",
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			node, err := p.client()
			if err != nil {
				return err
			}
			if err := requestDown(c.Context, node); err != nil {
				return err
			}
			if err := waitGone(c.Context, node); err != nil {
				return err
			}
			fmt.Fprintln(p.out, "The node and its tasks have stopped. `meshswarm up` brings it back into its swarm.")
			return nil
		},
	}
}

func (p *program) leaveCommand() *cli.Command {
	var force bool
	return &cli.Command{
		Name: "leave", Usage: "Leave the swarm and stop the node",
		Flags: []cli.Flag{flagBool(&force, "force,f", "Force this node to leave the swarm, ignoring warnings")},
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			node, err := p.client()
			if err != nil {
				return err
			}
			if err := node.SwarmLeave(c.Context, force); err != nil {
				return err
			}
			fmt.Fprintln(p.out, "Node left the swarm.")
			return nil
		},
	}
}

// requestDown asks a node to stop its tasks and itself.
func requestDown(ctx context.Context, node *client.Client) error {
	err := ask(ctx, node, http.MethodPost, "/meshswarm/down", nil)
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
		return nil // it may end before it has answered
	}
	return err
}

// waitGone returns when nobody answers at the socket any more.
func waitGone(ctx context.Context, node *client.Client) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := node.Ping(ctx); client.IsErrConnectionFailed(err) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the node to stop: %w", context.Cause(ctx))
		case <-tick.C:
		}
	}
}
