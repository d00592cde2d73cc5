package main

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestArrange(t *testing.T) {
	for _, c := range []struct{ name, in, want, err string }{
		{"nothing", "", "", ""},
		{"group", "service", "service", ""},
		{"global flag", "-H x service ls", "--host=x service ls", ""},
		{"global flag, equals", "--host=x service ls -q", "--host=x service ls --quiet", ""},
		{"flag after argument", "service ps web --no-trunc -f id=1", "service ps --no-trunc --filter=id=1 -- web", ""},
		{"alias of a command", "service list -q", "service list --quiet", ""},
		{"glued value", "service create -p8080:80 nginx", "service create --publish=8080:80 -- nginx", ""},
		{"glued value with equals", "service create -p=8080:80 nginx", "service create --publish=8080:80 -- nginx", ""},
		{"letters together", "service create -dqeA=1 nginx", "service create --detach --quiet --env=A=1 -- nginx", ""},
		{"bool with value", "service create --detach=false -d=true nginx", "service create --detach=false --detach=true -- nginx", ""},
		{"the container's own flags", "service create -d nginx -p 1 --detach", "service create --detach -- nginx -p 1 --detach", ""},
		{"double dash", "service create -d -- nginx --x", "service create --detach -- nginx --x", ""},
		{"double dash between", "service rm a -- --b", "service rm -- a --b", ""},
		{"a dash is an argument", "service rm -", "service rm -- -", ""},
		{"value that looks like a flag", "service create --name --x nginx", "service create --name=--x -- nginx", ""},
		{"empty value", "service create --name= nginx", "service create --name= -- nginx", ""},
		{"help wins", "service create --help --nope", "service create --help", ""},
		{"short help", "service ls -h", "service ls --help", ""},

		{"unknown command", "servic", "", `unknown command "servic"`},
		{"unknown command below", "service lst", "", `meshswarm service: unknown command "lst"`},
		{"unknown flag", "service ls --nope=1", "", "unknown flag: --nope"},
		{"unknown letter", "service ls -qx", "", "unknown shorthand flag: 'x' in -qx"},
		{"letter with two dashes", "service ls --q", "", "unknown flag: --q"},
		{"missing value", "service create --name", "", "flag needs an argument: --name"},
		{"missing value of a letter", "service create -p", "", "flag needs an argument: -p"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &program{out: io.Discard, err: io.Discard}
			got, err := arrange(p.app(), append([]string{"meshswarm"}, strings.Fields(c.in)...))
			if c.err != "" {
				var status *statusError
				if !errors.As(err, &status) || status.code != usageCode || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("error %v, not %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.Fields("meshswarm "+c.want), got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// FuzzArrange: no command line crashes the reader, and what it makes reads the same a second time.
func FuzzArrange(f *testing.F) {
	for _, seed := range []string{
		"service create -dqeA=1 -p8080:80 nginx -x", "-H x service ps web --no-trunc", "service rm -- -a", "--", "-", "-=", "service update --args= x",
	} {
		f.Add(seed)
	}
	p := &program{out: io.Discard, err: io.Discard}
	f.Fuzz(func(t *testing.T, line string) {
		first, err := arrange(p.app(), append([]string{"meshswarm"}, strings.Split(line, " ")...))
		if err != nil {
			return
		}
		second, err := arrange(p.app(), first)
		if err != nil {
			t.Fatalf("%q became %q: %v", line, first, err)
		}
		if diff := cmp.Diff(first, second); diff != "" {
			t.Errorf("%q: %s", line, diff)
		}
	})
}
