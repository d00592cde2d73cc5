package main

import (
	"github.com/docker/cli/cli/command/formatter"
	"github.com/docker/cli/opts"
	"github.com/urfave/cli/v2"
)

// listFlags are the flags of the commands that print a table.
type listFlags struct {
	quiet     bool
	noTrunc   bool
	noResolve bool
	format    string
	filter    opts.FilterOpt
}

const formatUsage = `Format the output: "table", "table TEMPLATE", "json" or a Go template`

func (f *listFlags) flags(quiet string) []cli.Flag {
	f.filter = opts.NewFilterOpt()
	return []cli.Flag{
		flagVar(&f.filter, "filter,f", "Filter output based on conditions provided"),
		flagString(&f.format, "format", formatUsage),
		flagBool(&f.quiet, "quiet,q", quiet),
	}
}

func (f *listFlags) truncFlag() cli.Flag {
	return flagBool(&f.noTrunc, "no-trunc", "Do not truncate output")
}

func (f *listFlags) resolveFlag() cli.Flag {
	return flagBool(&f.noResolve, "no-resolve", "Do not map IDs to Names")
}

// context chooses between the command's own table, the IDs alone, JSON and the user's template.
func (f *listFlags) context(p *program, table string) formatter.Context {
	format := formatter.Format(f.format)
	if f.format == "" || f.format == formatter.TableFormatKey {
		format = formatter.Format(table)
		if f.quiet {
			format = formatter.DefaultQuietFormat
		}
	}
	return formatter.Context{Output: p.out, Format: format, Trunc: !f.noTrunc}
}

// write prints one row per item.
func write[T any](c formatter.Context, header formatter.SubContext, items []T, row func(T) formatter.SubContext) error {
	return c.Write(header, func(format func(formatter.SubContext) error) error {
		for _, item := range items {
			if err := format(row(item)); err != nil {
				return err
			}
		}
		return nil
	})
}
