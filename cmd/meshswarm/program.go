package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"

	"github.com/docker/docker/client"
	"github.com/urfave/cli/v2"
)

// program is what every command shares: the streams and the node's address.
type program struct {
	in       io.Reader
	out, err io.Writer
	// host is where the node listens: "unix:///path", "/path" or another form that Docker's client knows.
	host string
	node nodeFunc
}

// nodeFunc runs a node until ctx ends, and calls ready once when it can be used.
type nodeFunc func(ctx context.Context, o *upOptions, log *slog.Logger, ready func(nodeInfo)) error

// statusError is an error with an exit code of its own. A nil err prints nothing: all has been said.
type statusError struct {
	code int
	err  error
}

func (e *statusError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.code)
	}
	return e.err.Error()
}

func (e *statusError) Unwrap() error { return e.err }

// usageCode is the exit code for a command line that cannot be understood, as the docker command's.
const usageCode = 125

func usageError(path, format string, args ...any) error {
	return &statusError{usageCode, fmt.Errorf("%s: %w\nSee '%s --help'", path, fmt.Errorf(format, args...), path)}
}

// app builds the tree of commands.
func (p *program) app() *cli.App {
	cli.FlagStringer = flagHelp
	cli.HelpFlag = &cli.BoolFlag{Name: "help", Aliases: []string{"h"}, Usage: "Print usage", DisableDefaultText: true}
	app := &cli.App{
		Name:                  "meshswarm",
		Usage:                 "Docker Swarm mode without privileges: one mesh, one network, any account",
		HideVersion:           true,
		HideHelpCommand:       true,
		Writer:                p.out,
		ErrWriter:             p.err,
		ExitErrHandler:        func(*cli.Context, error) {},
		CustomAppHelpTemplate: groupHelp,
		Action:                group,
		Flags: []cli.Flag{
			&cli.StringFlag{
				Name: "host", Aliases: []string{"H"}, Destination: &p.host,
				Usage: "Socket of the node to talk to (default: " + hostEnv + " or this account's node)",
			},
		},
		Commands: []*cli.Command{
			p.upCommand(), p.downCommand(), p.leaveCommand(), p.joinTokenCommand(),
			p.serviceCommand(), p.nodeCommand(), p.networkCommand(),
			p.labCommand(), p.versionCommand(),
		},
	}
	finish(app.Name, app.Commands)
	return app
}

// finish gives every command what all commands have.
func finish(path string, commands []*cli.Command) {
	for _, c := range commands {
		c.HideHelpCommand = true
		c.CustomHelpTemplate = commandHelp
		full := path + " " + c.Name
		c.OnUsageError = func(_ *cli.Context, err error, _ bool) error {
			// Package flag writes one dash.
			return usageError(full, "%s", strings.Replace(err.Error(), " for flag -", " for flag --", 1))
		}
		if len(c.Subcommands) > 0 {
			c.CustomHelpTemplate = groupHelp
			c.Action = group
			finish(full, c.Subcommands)
		}
	}
}

// group is the action of a command that only has subcommands: help, or the word that nobody knows.
func group(c *cli.Context) error {
	path := strings.TrimSpace(c.Command.HelpName)
	if !c.Args().Present() {
		if path == c.App.Name {
			return cli.ShowAppHelp(c)
		}
		return cli.ShowSubcommandHelp(c)
	}
	return usageError(path, "unknown command %q", c.Args().First())
}

func (p *program) run(ctx context.Context, args []string) error {
	app := p.app()
	args, err := arrange(app, args)
	if err != nil {
		return err
	}
	return app.RunContext(ctx, args)
}

// client returns a client of the node's socket. It does not connect yet.
func (p *program) client() (*client.Client, error) {
	return dialHost(p.address())
}

// onNode is the action of a command with at least least arguments that asks the node.
func (p *program) onNode(least int, do func(c *cli.Context, node *client.Client) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		if err := minArgs(c, least); err != nil {
			return err
		}
		node, err := p.client()
		if err != nil {
			return err
		}
		return do(c, node)
	}
}

// address is the node's address in the form that Docker's client wants.
func (p *program) address() string {
	host := cmp.Or(p.host, os.Getenv(hostEnv))
	switch {
	case host == "":
		return "unix://" + defaultSocket()
	case strings.HasPrefix(host, "/"), strings.HasPrefix(host, "."):
		return "unix://" + host
	}
	return host
}

func dialHost(host string) (*client.Client, error) {
	c, err := client.NewClientWithOpts(client.WithHost(host), client.WithAPIVersionNegotiation(),
		client.WithUserAgent("meshswarm/"+buildVersion()))
	if err != nil {
		return nil, fmt.Errorf("use host %q: %w: write it as unix:///run/meshswarm/meshswarm.sock", host, err)
	}
	return c, nil
}

// explain puts an error into words for a person. Empty: nothing left to say.
func (p *program) explain(err error) string {
	var status *statusError
	switch {
	case errors.As(err, &status) && status.err == nil:
		return ""
	case client.IsErrConnectionFailed(err) && errors.Is(err, fs.ErrPermission):
		return fmt.Sprintf("no permission to use %s: it belongs to the account that started the node; run the command as that account", p.address())
	case client.IsErrConnectionFailed(err):
		return fmt.Sprintf("no meshswarm node answers at %s: start one with `meshswarm up`, or name its socket with --host or %s", p.address(), hostEnv)
	case errors.Is(err, context.Canceled):
		return "interrupted"
	}
	return err.Error()
}

// exactArgs and minArgs check the number of arguments.
func exactArgs(c *cli.Context, n int) error {
	if c.NArg() == n {
		return nil
	}
	return usageError(c.Command.HelpName, "requires exactly %d %s", n, plural(n, "argument"))
}

func minArgs(c *cli.Context, n int) error {
	if c.NArg() >= n {
		return nil
	}
	return usageError(c.Command.HelpName, "requires at least %d %s", n, plural(n, "argument"))
}

func noArgs(c *cli.Context) error {
	if c.NArg() == 0 {
		return nil
	}
	return usageError(c.Command.HelpName, "accepts no arguments, not %q", c.Args().First())
}

func plural(n int, word string) string {
	if n == 1 {
		return word
	}
	return word + "s"
}

// each runs do for every name, prints the name when it went well and the error when not, and fails if any failed.
func (p *program) each(names []string, do func(name string) error) error {
	failed := 0
	for _, name := range names {
		if err := do(name); err != nil {
			if client.IsErrConnectionFailed(err) {
				return err
			}
			fmt.Fprintln(p.err, err)
			failed++
			continue
		}
		fmt.Fprintln(p.out, name)
	}
	if failed > 0 {
		return &statusError{code: 1}
	}
	return nil
}

// file returns the file behind a stream, nil when there is none (tests, pipes in memory).
func file(stream any) *os.File {
	f, _ := stream.(*os.File)
	return f
}
