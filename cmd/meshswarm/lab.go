package main

import (
	"context"
	"fmt"
	"text/tabwriter"

	"github.com/urfave/cli/v2"
)

func (p *program) labCommand() *cli.Command {
	return &cli.Command{
		Name: "lab", Usage: "Run several nodes on this machine, for trying, teaching and testing",
		Subcommands: []*cli.Command{p.labUp(), p.labPs(), p.labDown(), p.labKill(), p.labStart()},
	}
}

func flagLabDir(dir *string) cli.Flag {
	*dir = defaultLabDir()
	return flagString(dir, "dir", "Folder of the lab")
}

// inLab opens the lab for one command.
func inLab(dir string, create bool, do func(l *lab) error) error {
	l, err := openLab(dir, create)
	if err != nil {
		return err
	}
	defer l.close()
	return do(l)
}

func (p *program) labUp() *cli.Command {
	var dir, dockerHost, taskDevice string
	nodes, managers, logLevel := uint64(3), uint64(1), "info"
	return &cli.Command{
		Name: "up", Usage: "Start the nodes and wait until all are ready",
		Description: "Node i listens on 127.0.0.i: its control port 2377, the mesh, and published ports.\n" +
			"Running it again starts what does not run and adds what --nodes asks for more.",
		Flags: []cli.Flag{
			flagLabDir(&dir),
			flagString(&dockerHost, "docker-host", "Docker engine to run tasks on (default: DOCKER_HOST or the engine's usual socket)"),
			flagString(&logLevel, "log-level", `What the nodes log ("debug", "info", "warn", "error")`),
			flagUint(&managers, "managers", "Number of managers among the nodes"),
			flagUint(&nodes, "nodes", "Number of nodes"),
			flagString(&taskDevice, "task-device", `Kind of network device that tasks get, "tun" or "veth" (default: what works here)`),
		},
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			return inLab(dir, true, func(l *lab) error {
				if c.IsSet("docker-host") {
					l.DockerHost = dockerHost
				}
				if c.IsSet("task-device") {
					l.TaskDevice = taskDevice
				}
				l.LogLevel = logLevel
				if err := l.plan(int(min(nodes, maxLabNodes+1)), int(min(managers, maxLabNodes+1))); err != nil {
					return err
				}
				if err := l.startAll(c.Context); err != nil {
					return err
				}
				if err := l.waitReady(c.Context); err != nil {
					return err
				}
				return p.greetLab(l)
			})
		},
	}
}

func (p *program) greetLab(l *lab) error {
	if err := p.printLab(l); err != nil {
		return err
	}
	first := l.Nodes[0]
	fmt.Fprintf(p.out, `
To use it:

    export %s=%s
    meshswarm node ls
    meshswarm service create --name web --replicas 3 --publish 8080:80 nginx
    curl http://%s:8080/

The docker command does the same with DOCKER_HOST=%s.
To see a node die and come back: meshswarm lab kill %s, meshswarm lab start %[5]s. To end it all: meshswarm lab down.
`, hostEnv, first.host(), first.Addr, first.host(), l.Nodes[len(l.Nodes)-1].Name)
	if l.dir != defaultLabDir() {
		fmt.Fprintf(p.out, "The lab commands need --dir %s.\n", l.dir)
	}
	return nil
}

func (p *program) printLab(l *lab) error {
	table := tabwriter.NewWriter(p.out, 10, 1, 3, ' ', 0)
	fmt.Fprintln(table, "NAME\tROLE\tSTATUS\tPID\tADDRESS\tSOCKET")
	for _, n := range l.Nodes {
		pid := "-"
		if n.Process.alive() {
			pid = fmt.Sprint(n.Process.PID)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", n.Name, n.role(), n.status(), pid, n.Addr, n.socket())
	}
	return table.Flush()
}

func (p *program) labPs() *cli.Command {
	var dir string
	return &cli.Command{
		Name: "ps", Usage: "List the nodes of the lab",
		Flags: []cli.Flag{flagLabDir(&dir)},
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			return inLab(dir, false, p.printLab)
		},
	}
}

func (p *program) labDown() *cli.Command {
	var dir string
	var force bool
	return &cli.Command{
		Name: "down", Usage: "Stop all nodes and their tasks and remove their folders",
		Flags: []cli.Flag{
			flagLabDir(&dir),
			flagBool(&force, "force,f", "Remove the lab even when a node cannot stop its tasks any more"),
		},
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			return inLab(dir, false, func(l *lab) error {
				if err := l.stopAll(c.Context); err != nil {
					if saved := l.save(); saved != nil {
						fmt.Fprintln(p.err, saved)
					}
					if !force {
						return fmt.Errorf("%w\nThe lab is still there: mend what it says, or `meshswarm lab down --force`, which leaves those tasks in the engine", err)
					}
					fmt.Fprintln(p.err, err)
				}
				return l.forget(context.WithoutCancel(c.Context), force)
			})
		},
	}
}

func (p *program) labKill() *cli.Command {
	return p.labNodeCommand("kill", "Kill a node's process (SIGKILL): its tasks go on without it", func(ctx context.Context, l *lab, n *labNode) error {
		return l.kill(ctx, n)
	})
}

func (p *program) labStart() *cli.Command {
	return p.labNodeCommand("start", "Start a node that was killed or stopped", func(ctx context.Context, l *lab, n *labNode) error {
		if !n.Joined {
			return fmt.Errorf("%s has never been part of the swarm: `meshswarm lab up` starts it", n.Name)
		}
		if err := l.start(ctx, n, nil); err != nil {
			return err
		}
		return l.save()
	})
}

func (p *program) labNodeCommand(name, usage string, do func(ctx context.Context, l *lab, n *labNode) error) *cli.Command {
	var dir string
	return &cli.Command{
		Name: name, Usage: usage, ArgsUsage: "NODE",
		Flags: []cli.Flag{flagLabDir(&dir)},
		Action: func(c *cli.Context) error {
			if err := exactArgs(c, 1); err != nil {
				return err
			}
			return inLab(dir, false, func(l *lab) error {
				n, err := l.node(c.Args().First())
				if err != nil {
					return err
				}
				if err := do(c.Context, l, n); err != nil {
					return err
				}
				fmt.Fprintln(p.out, n.Name)
				return nil
			})
		},
	}
}
