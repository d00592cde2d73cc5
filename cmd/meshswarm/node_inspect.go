package main

import (
	"errors"

	"github.com/docker/docker/client"
	"github.com/urfave/cli/v2"
)

func (p *program) nodeInspect() *cli.Command {
	var format string
	var pretty bool
	return &cli.Command{
		Name: "inspect", Usage: "Display detailed information on one or more nodes", ArgsUsage: "self|NODE [NODE...]",
		Flags: []cli.Flag{
			flagString(&format, "format,f", inspectUsage),
			flagBool(&pretty, "pretty", "Print the information in a human friendly format"),
		},
		Action: p.onNode(1, func(c *cli.Context, node *client.Client) error {
			if pretty && format != "" {
				return errors.New("--format is incompatible with human friendly format")
			}
			if pretty {
				format = nodePretty
			}
			return p.inspect(c.Args().Slice(), format, func(name string) (any, []byte, error) {
				id, err := nodeID(c.Context, node, name)
				if err != nil {
					return nil, nil, err
				}
				return node.NodeInspectWithRaw(c.Context, id)
			})
		}),
	}
}

const nodePretty = `ID:			{{.ID}}
{{- with .Spec.Name}}
Name:			{{.}}
{{- end}}
{{- with .Spec.Labels}}
Labels:
{{- range $k, $v := .}}
 - {{$k}}{{if $v}}={{$v}}{{end}}
{{- end}}{{end}}
Hostname:		{{.Description.Hostname}}
Joined at:		{{.CreatedAt}}
Status:
 State:			{{.Status.State}}
{{- with .Status.Message}}
 Message:		{{.}}
{{- end}}
 Availability:		{{.Spec.Availability}}
{{- with .Status.Addr}}
 Address:		{{.}}
{{- end}}
{{- with .ManagerStatus}}
Manager Status:
 Address:		{{.Addr}}
 Raft Status:		{{.Reachability}}
 Leader:		{{if .Leader}}Yes{{else}}No{{end}}
{{- end}}
Platform:
 Operating System:	{{.Description.Platform.OS}}
 Architecture:		{{.Description.Platform.Architecture}}
Resources:
 CPUs:			{{cpus .Description.Resources.NanoCPUs}}
 Memory:		{{memory .Description.Resources.MemoryBytes}}
{{- with .Description.Resources.GenericResources}}
 Generic:		{{resources .}}
{{- end}}
{{- with plugins .Description.Engine.Plugins}}
Plugins:
{{- range $type, $names := .}}
 {{$type}}:		{{join $names ", "}}
{{- end}}{{end}}
Engine Version:		{{.Description.Engine.EngineVersion}}
{{- with .Description.Engine.Labels}}
Engine Labels:
{{- range $k, $v := .}}
 - {{$k}}{{if $v}}={{$v}}{{end}}
{{- end}}{{end}}
`
