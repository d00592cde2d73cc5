package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/docker/docker/api/types/swarm"
	"github.com/docker/docker/client"
	"github.com/urfave/cli/v2"
)

func (p *program) serviceCommand() *cli.Command {
	return &cli.Command{
		Name: "service", Usage: "Manage services",
		Subcommands: []*cli.Command{
			p.serviceCreate(), p.serviceExplain(), p.serviceInspect(), p.serviceLogs(), p.serviceList(), p.servicePs(),
			p.serviceRebalance(), p.serviceRemove(), p.serviceRollback(), p.serviceScale(), p.serviceUpdate(),
		},
	}
}

func (p *program) serviceCreate() *cli.Command {
	o := newServiceOptions()
	return &cli.Command{
		Name: "create", Usage: "Create a new service", ArgsUsage: "IMAGE [COMMAND] [ARG...]",
		Flags: append(o.commonFlags(), o.createFlags()...),
		Action: func(c *cli.Context) error {
			if err := minArgs(c, 1); err != nil {
				return err
			}
			o.image, o.args = c.Args().First(), c.Args().Tail()
			return p.createService(c, o)
		},
	}
}

func (p *program) createService(c *cli.Context, o *serviceOptions) error {
	node, err := p.client()
	if err != nil {
		return err
	}
	spec, err := o.spec(c.Context, node, c.IsSet)
	if err != nil {
		return err
	}
	var create swarm.ServiceCreateOptions
	create.QueryRegistry = !o.noResolveImage
	made, err := node.ServiceCreate(c.Context, spec, create)
	if err != nil {
		return err
	}
	p.warn(made.Warnings)
	fmt.Fprintln(p.out, made.ID)
	if o.detach {
		return nil
	}
	return p.converge(c.Context, node, made.ID, waiting{quiet: o.quiet})
}

func (p *program) warn(warnings []string) {
	for _, w := range warnings {
		fmt.Fprintln(p.err, w)
	}
}

func (p *program) serviceUpdate() *cli.Command {
	o := newServiceOptions()
	return &cli.Command{
		Name: "update", Usage: "Update a service", ArgsUsage: "SERVICE",
		Flags: append(o.commonFlags(), o.updateFlags()...),
		Action: func(c *cli.Context) error {
			if err := exactArgs(c, 1); err != nil {
				return err
			}
			return p.updateService(c, o, c.Args().First())
		},
	}
}

func (p *program) updateService(c *cli.Context, o *serviceOptions, name string) error {
	node, err := p.client()
	if err != nil {
		return err
	}
	if o.rollBack {
		if err := rollbackAlone(c); err != nil {
			return err
		}
		return p.rollBack(c.Context, node, name, o.detach, o.quiet)
	}
	service, _, err := node.ServiceInspectWithRaw(c.Context, name, swarm.ServiceInspectOptions{})
	if err != nil {
		return err
	}
	change := specChange{o: o, set: c.IsSet, node: node, spec: &service.Spec}
	if err := change.apply(c.Context); err != nil {
		return err
	}
	update := swarm.ServiceUpdateOptions{RegistryAuthFrom: swarm.RegistryAuthFromSpec}
	update.QueryRegistry = c.IsSet("image") && !o.noResolveImage
	done, err := node.ServiceUpdate(c.Context, service.ID, service.Version, service.Spec, update)
	if err != nil {
		return err
	}
	p.warn(done.Warnings)
	fmt.Fprintln(p.out, name)
	if o.detach {
		return nil
	}
	return p.converge(c.Context, node, service.ID, waiting{quiet: o.quiet})
}

func (p *program) serviceRemove() *cli.Command {
	return &cli.Command{
		Name: "rm", Aliases: []string{"remove"}, Usage: "Remove one or more services", ArgsUsage: "SERVICE [SERVICE...]",
		Action: p.onNode(1, func(c *cli.Context, node *client.Client) error {
			return p.each(c.Args().Slice(), func(name string) error { return node.ServiceRemove(c.Context, name) })
		}),
	}
}

func (p *program) serviceScale() *cli.Command {
	var detach bool
	return &cli.Command{
		Name: "scale", Usage: "Scale one or multiple replicated services", ArgsUsage: "SERVICE=REPLICAS [SERVICE=REPLICAS...]",
		Flags: []cli.Flag{flagBool(&detach, "detach,d", detachUsage)},
		Action: func(c *cli.Context) error {
			if err := minArgs(c, 1); err != nil {
				return err
			}
			var wanted []scaling
			for _, arg := range c.Args().Slice() {
				s, err := parseScaling(arg)
				if err != nil {
					return usageError(c.Command.HelpName, "%w", err)
				}
				wanted = append(wanted, s)
			}
			return p.scaleServices(c.Context, wanted, detach)
		},
	}
}

// scaling is SERVICE=REPLICAS.
type scaling struct {
	service  string
	replicas uint64
}

func parseScaling(arg string) (scaling, error) {
	name, number, ok := strings.Cut(arg, "=")
	if !ok || name == "" || number == "" {
		return scaling{}, fmt.Errorf("invalid scale specifier %q: write SERVICE=REPLICAS", arg)
	}
	n, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		return scaling{}, fmt.Errorf("%s: invalid replicas value %q: write a number of 0 or more", name, number)
	}
	return scaling{name, n}, nil
}

func (p *program) scaleServices(ctx context.Context, wanted []scaling, detach bool) error {
	node, err := p.client()
	if err != nil {
		return err
	}
	var scaled []string
	failed := false
	for _, s := range wanted {
		if err := p.scaleService(ctx, node, s); err != nil {
			fmt.Fprintf(p.err, "%s: %s\n", s.service, p.explain(err))
			failed = true
			continue
		}
		fmt.Fprintf(p.out, "%s scaled to %d\n", s.service, s.replicas)
		scaled = append(scaled, s.service)
	}
	for _, name := range scaled {
		if detach {
			break
		}
		if err := p.converge(ctx, node, name, waiting{}); err != nil {
			fmt.Fprintf(p.err, "%s: %s\n", name, p.explain(err))
			failed = true
		}
	}
	if failed {
		return &statusError{code: 1}
	}
	return nil
}

func (p *program) scaleService(ctx context.Context, node *client.Client, s scaling) error {
	service, _, err := node.ServiceInspectWithRaw(ctx, s.service, swarm.ServiceInspectOptions{})
	if err != nil {
		return err
	}
	switch mode := service.Spec.Mode; {
	case mode.Replicated != nil:
		mode.Replicated.Replicas = &s.replicas
	case mode.ReplicatedJob != nil:
		mode.ReplicatedJob.TotalCompletions = &s.replicas
	default:
		return errors.New("scale can only be used with replicated or replicated-job mode")
	}
	done, err := node.ServiceUpdate(ctx, service.ID, service.Version, service.Spec, swarm.ServiceUpdateOptions{})
	if err != nil {
		return err
	}
	p.warn(done.Warnings)
	return nil
}
