package main

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// stopsAtArgument names the commands that leave everything after their first argument alone, because it belongs to
// the container.
var stopsAtArgument = []string{"meshswarm service create"}

// arrange rewrites a command line into the one form that urfave/cli reads without surprises: at each level all flags
// first and by their long names ("--publish=8080:80"), then "--" and the arguments. It understands what the docker
// command's parser does: flags after arguments, "-p8080:80", "-p=8080:80", "-dq", "--", and fails with the same
// words for flags that do not exist or miss their value.
func arrange(app *cli.App, args []string) ([]string, error) {
	if len(args) == 0 {
		return []string{app.Name}, nil
	}
	r := reader{path: app.Name, flags: app.Flags, commands: app.Commands, rest: otherWords(args[1:])}
	out, err := r.read()
	return append([]string{args[0]}, out...), err
}

// otherWords translates what people who know the docker command try first: "help COMMAND" and "--version".
func otherWords(args []string) []string {
	switch {
	case len(args) > 0 && args[0] == "help":
		return append(slices.Clone(args[1:]), "--help")
	case len(args) == 1 && (args[0] == "--version" || args[0] == "-v"):
		return []string{"version"}
	}
	return args
}

// reader reads the command line of one level of commands.
type reader struct {
	path     string
	flags    []cli.Flag
	commands []*cli.Command
	rest     []string

	out       []string
	arguments []string
}

func (r *reader) read() ([]string, error) {
	for len(r.rest) > 0 {
		arg := r.rest[0]
		r.rest = r.rest[1:]
		switch {
		case arg == "--":
			r.arguments = append(r.arguments, r.rest...)
			r.rest = nil
		case strings.HasPrefix(arg, "--"):
			if help, err := r.long(arg[2:]); help || err != nil {
				return append(r.out, "--help"), err
			}
		case strings.HasPrefix(arg, "-") && arg != "-":
			if help, err := r.short(arg[1:]); help || err != nil {
				return append(r.out, "--help"), err
			}
		case len(r.commands) > 0:
			return r.command(arg)
		default:
			r.arguments = append(r.arguments, arg)
			if slices.Contains(stopsAtArgument, r.path) {
				r.arguments = append(r.arguments, r.rest...)
				r.rest = nil
			}
		}
	}
	if len(r.arguments) > 0 {
		r.out = append(append(r.out, "--"), r.arguments...)
	}
	return r.out, nil
}

// command goes down one level.
func (r *reader) command(name string) ([]string, error) {
	i := slices.IndexFunc(r.commands, func(c *cli.Command) bool { return c.HasName(name) })
	if i < 0 {
		return nil, usageError(r.path, "unknown command %q%s", name, didYouMean("", name, commandNames(r.commands)))
	}
	c := r.commands[i]
	below := reader{path: r.path + " " + c.Name, flags: c.Flags, commands: c.Subcommands, rest: r.rest}
	out, err := below.read()
	return append(append(r.out, name), out...), err
}

// long reads "name" or "name=value", without the dashes.
func (r *reader) long(arg string) (help bool, err error) {
	name, value, hasValue := strings.Cut(arg, "=")
	if name == "help" {
		return true, nil
	}
	f := r.find(name)
	if f == nil || len(name) == 1 {
		return false, usageError(r.path, "unknown flag: --%s%s", name, didYouMean("--", name, flagNames(r.flags)))
	}
	return false, r.emit(f, value, hasValue, "--"+name)
}

// short reads one or several one-letter flags, without the dash.
func (r *reader) short(arg string) (help bool, err error) {
	for i, letter := range arg {
		name := string(letter)
		f := r.find(name)
		if f == nil && name == "h" {
			return true, nil
		}
		if f == nil {
			return false, usageError(r.path, "unknown shorthand flag: '%s' in -%s", name, arg)
		}
		after := arg[i+len(name):]
		if !takesValue(f) && !strings.HasPrefix(after, "=") {
			if err := r.emit(f, "", false, "-"+name); err != nil {
				return false, err
			}
			continue
		}
		return false, r.emit(f, strings.TrimPrefix(after, "="), after != "", "-"+name)
	}
	return false, nil
}

func (r *reader) emit(f cli.Flag, value string, hasValue bool, written string) error {
	name := "--" + f.Names()[0]
	if !hasValue && takesValue(f) {
		if len(r.rest) == 0 {
			return usageError(r.path, "flag needs an argument: %s", written)
		}
		value, r.rest, hasValue = r.rest[0], r.rest[1:], true
	}
	if hasValue {
		name += "=" + value
	}
	r.out = append(r.out, name)
	return nil
}

func (r *reader) find(name string) cli.Flag {
	for _, f := range r.flags {
		if slices.Contains(f.Names(), name) {
			return f
		}
	}
	return nil
}

func takesValue(f cli.Flag) bool {
	d, ok := f.(cli.DocGenerationFlag)
	return ok && d.TakesValue()
}
