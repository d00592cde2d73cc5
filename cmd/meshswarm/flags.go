package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/docker/cli/opts"
	"github.com/google/shlex"
	"github.com/urfave/cli/v2"
)

// value is what the option types of docker/cli/opts implement.
type value interface {
	Set(string) error
	String() string
	Type() string
}

// option makes such a value fit for urfave/cli, which copies a flag's value to its aliases by setting it again.
type option struct{ value }

const aliasCopy = "\x00alias"

// Set implements cli.Generic.
func (o option) Set(s string) error {
	if s == aliasCopy {
		return nil
	}
	return o.value.Set(s)
}

// Serialize implements cli.Serializer.
func (o option) Serialize() string { return aliasCopy }

// The flag makers take the names as "long,short".

func flagVar(v value, names, usage string) cli.Flag {
	long, short := split(names)
	return &cli.GenericFlag{Name: long, Aliases: short, Usage: usage, Value: option{v}}
}

func flagList(list *opts.ListOpts, names, usage string) cli.Flag { return flagVar(list, names, usage) }

func flagString(p *string, names, usage string) cli.Flag {
	long, short := split(names)
	return &cli.StringFlag{Name: long, Aliases: short, Usage: usage, Destination: p, Value: *p}
}

func flagBool(p *bool, names, usage string) cli.Flag {
	long, short := split(names)
	return &cli.BoolFlag{Name: long, Aliases: short, Usage: usage, Destination: p, Value: *p}
}

func flagUint(p *uint64, names, usage string) cli.Flag {
	long, short := split(names)
	return &cli.Uint64Flag{Name: long, Aliases: short, Usage: usage, Destination: p, Value: *p}
}

func flagInt(p *int64, names, usage string) cli.Flag {
	long, short := split(names)
	return &cli.Int64Flag{Name: long, Aliases: short, Usage: usage, Destination: p, Value: *p}
}

func flagDuration(p *time.Duration, names, usage string) cli.Flag {
	long, short := split(names)
	return &cli.DurationFlag{Name: long, Aliases: short, Usage: usage, Destination: p, Value: *p}
}

func split(names string) (long string, short []string) {
	long, letter, ok := strings.Cut(names, ",")
	if ok {
		short = []string{letter}
	}
	return long, short
}

// flagHelp renders a flag's line of help as the docker command does: letter, name, kind of value, words, default.
func flagHelp(f cli.Flag) string {
	d, ok := f.(cli.DocGenerationFlag)
	if !ok {
		return ""
	}
	kind, def := flagKind(f)
	text := d.GetUsage()
	if def != "" {
		text += " (default " + def + ")"
	}
	names := f.Names()
	left := "      --" + names[0]
	if len(names) > 1 {
		left = "  -" + names[1] + ", --" + names[0]
	}
	if kind != "" {
		left += " " + kind
	}
	return left + "\t" + text
}

func flagKind(f cli.Flag) (kind, def string) {
	switch f := f.(type) {
	case *cli.GenericFlag:
		return f.Value.(option).Type(), f.DefaultText
	case *cli.StringFlag:
		if f.DefaultText != "" {
			return "string", f.DefaultText
		}
		if f.Value != "" {
			return "string", strconv.Quote(f.Value)
		}
		return "string", ""
	case *cli.Uint64Flag:
		if f.DefaultText != "" {
			return "uint", f.DefaultText
		}
		return "uint", nonZero(f.Value)
	case *cli.Int64Flag:
		return "int", nonZero(f.Value)
	case *cli.DurationFlag:
		return "duration", nonZero(f.Value)
	case *cli.BoolFlag:
		if f.Value {
			return "", "true"
		}
	}
	return "", ""
}

func nonZero[T comparable](v T) string {
	var zero T
	if v == zero {
		return ""
	}
	return fmt.Sprint(v)
}

// uintOption is a number that may be absent.
type uintOption struct{ p *uint64 }

// Set implements value.
func (o *uintOption) Set(s string) error {
	n, err := strconv.ParseUint(s, 0, 64)
	if err != nil {
		return fmt.Errorf("%q is not a number of 0 or more", s)
	}
	o.p = &n
	return nil
}

func (o *uintOption) String() string {
	if o.p == nil {
		return ""
	}
	return strconv.FormatUint(*o.p, 10)
}

// Type implements value.
func (*uintOption) Type() string { return "uint" }

// floatOption is a number with a fraction, 0 to 1 where it is a ratio.
type floatOption float32

// Set implements value.
func (o *floatOption) Set(s string) error {
	n, err := strconv.ParseFloat(s, 32)
	if err != nil {
		return fmt.Errorf("%q is not a number", s)
	}
	*o = floatOption(n)
	return nil
}

func (o *floatOption) String() string { return strconv.FormatFloat(float64(*o), 'g', -1, 32) }

// Type implements value.
func (*floatOption) Type() string { return "float" }

// wordsOption is a command line, split as a shell does.
type wordsOption []string

// Set implements value.
func (o *wordsOption) Set(s string) error {
	words, err := shlex.Split(s)
	if err != nil {
		return err
	}
	*o = words
	return nil
}

func (o *wordsOption) String() string { return strings.Join(*o, " ") }

// Type implements value.
func (*wordsOption) Type() string { return "command" }
