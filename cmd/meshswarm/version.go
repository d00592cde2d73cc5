package main

import (
	"encoding/json"
	"fmt"
	"runtime"

	"github.com/docker/cli/templates"
	"github.com/docker/docker/client"
	"github.com/urfave/cli/v2"
)

// version is set by the linker (Makefile).
var version = ""

func buildVersion() string {
	if version == "" {
		return "dev"
	}
	return version
}

// versionInfo is what version prints; its fields are those of --format.
type versionInfo struct {
	Version, GoVersion, Os, Arch string
	// Node is the version of the node that answers, empty when none does.
	Node, APIVersion string
}

func (p *program) versionCommand() *cli.Command {
	var format string
	return &cli.Command{
		Name: "version", Usage: "Show the version of this program and of the node",
		Flags: []cli.Flag{flagString(&format, "format,f", inspectUsage)},
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			v := versionInfo{Version: buildVersion(), GoVersion: runtime.Version(), Os: runtime.GOOS, Arch: runtime.GOARCH}
			node, err := p.client()
			if err != nil {
				return err
			}
			switch server, err := node.ServerVersion(c.Context); {
			case err == nil:
				v.Node, v.APIVersion = server.Version, server.APIVersion
				// The top-level version is the engine's, for clients that read it; the node's own is a component.
				for _, c := range server.Components {
					if c.Name == "meshswarm" {
						v.Node = c.Version
					}
				}
			case !client.IsErrConnectionFailed(err):
				return err
			}
			return p.printVersion(v, format)
		},
	}
}

func (p *program) printVersion(v versionInfo, format string) error {
	switch format {
	case "json":
		return json.NewEncoder(p.out).Encode(v)
	case "":
		fmt.Fprintf(p.out, "meshswarm %s (%s, %s/%s)\n", v.Version, v.GoVersion, v.Os, v.Arch)
		if v.Node != "" {
			fmt.Fprintf(p.out, "node      %s (Engine API %s) at %s\n", v.Node, v.APIVersion, p.address())
		}
		return nil
	}
	tmpl, err := templates.Parse(format)
	if err != nil {
		return &statusError{64, fmt.Errorf("template parsing error: %w", err)}
	}
	if err := tmpl.Execute(p.out, v); err != nil {
		return &statusError{64, fmt.Errorf("template parsing error: %w", err)}
	}
	fmt.Fprintln(p.out)
	return nil
}
