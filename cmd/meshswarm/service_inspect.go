package main

import (
	"errors"
	"strings"

	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/swarm"
	"github.com/docker/docker/client"
	"github.com/urfave/cli/v2"
)

func (p *program) serviceInspect() *cli.Command {
	var format string
	var pretty bool
	return &cli.Command{
		Name: "inspect", Usage: "Display detailed information on one or more services", ArgsUsage: "SERVICE [SERVICE...]",
		Flags: []cli.Flag{
			flagString(&format, "format,f", inspectUsage),
			flagBool(&pretty, "pretty", "Print the information in a human friendly format"),
		},
		Action: p.onNode(1, func(c *cli.Context, node *client.Client) error {
			if pretty && format != "" {
				return errors.New("--format is incompatible with human friendly format")
			}
			if pretty {
				format = servicePretty
			}
			return p.inspect(c.Args().Slice(), format, func(name string) (any, []byte, error) {
				s, raw, err := node.ServiceInspectWithRaw(c.Context, name, swarm.ServiceInspectOptions{InsertDefaults: true})
				if err != nil || !pretty {
					return s, raw, err
				}
				view := serviceView{Service: s}
				for _, n := range s.Spec.TaskTemplate.Networks {
					name := n.Target
					if found, err := node.NetworkInspect(c.Context, name, network.InspectOptions{Scope: "swarm"}); err == nil {
						name = found.Name
					}
					view.Networks = append(view.Networks, name)
				}
				return view, raw, nil
			})
		}),
	}
}

// serviceView is what the --pretty template reads.
type serviceView struct {
	swarm.Service
	Networks []string
}

// ModeName is the first word of the service's mode, for people.
func (v serviceView) ModeName() string {
	row := serviceRow{s: v.Service}
	return strings.ToUpper(row.Mode()[:1]) + row.Mode()[1:]
}

const servicePretty = `
ID:		{{.ID}}
Name:		{{.Spec.Name}}
{{- with .Spec.Labels}}
Labels:
{{- range $k, $v := .}}
 {{$k}}{{if $v}}={{$v}}{{end}}
{{- end}}{{end}}
Service Mode:	{{.ModeName}}
{{- with .Spec.Mode.Replicated}}{{with .Replicas}}
 Replicas:	{{.}}
{{- end}}{{end}}
{{- with .Spec.Mode.ReplicatedJob}}
{{- with .MaxConcurrent}}
 Max Concurrent: {{.}}
{{- end}}
{{- with .TotalCompletions}}
 Total Completions: {{.}}
{{- end}}{{end}}
{{- with .JobStatus}}
JobStatus:
 Iteration:	{{.JobIteration.Index}}
 Last execution: {{ago .LastExecution}}
{{- end}}
{{- with .UpdateStatus}}{{if .State}}
UpdateStatus:
 State:		{{.State}}
{{- with .StartedAt}}
 Started:	{{ago .}}
{{- end}}
{{- with .CompletedAt}}
 Completed:	{{ago .}}
{{- end}}
 Message:	{{.Message}}
{{- end}}{{end}}
{{- with .Spec.TaskTemplate.Placement}}{{if or .Constraints .Preferences .MaxReplicas}}
Placement:
{{- with .Constraints}}
 Constraints:	{{.}}
{{- end}}
{{- with .Preferences}}
 Preferences:   {{range $i, $p := .}}{{if $i}}, {{end}}{{with $p.Spread}}spread={{.SpreadDescriptor}}{{end}}{{end}}
{{- end}}
{{- with .MaxReplicas}}
 Max Replicas Per Node:   {{.}}
{{- end}}{{end}}{{end}}
{{- with .Spec.UpdateConfig}}
UpdateConfig:
 Parallelism:	{{.Parallelism}}
{{- if .Delay}}
 Delay:		{{.Delay}}
{{- end}}
 On failure:	{{.FailureAction}}
{{- if .Monitor}}
 Monitoring Period: {{.Monitor}}
{{- end}}
 Max failure ratio: {{.MaxFailureRatio}}
 Update order:      {{.Order}}
{{- end}}
{{- with .Spec.RollbackConfig}}
RollbackConfig:
 Parallelism:	{{.Parallelism}}
{{- if .Delay}}
 Delay:		{{.Delay}}
{{- end}}
 On failure:	{{.FailureAction}}
{{- if .Monitor}}
 Monitoring Period: {{.Monitor}}
{{- end}}
 Max failure ratio: {{.MaxFailureRatio}}
 Rollback order:    {{.Order}}
{{- end}}
{{- with .Spec.TaskTemplate.RestartPolicy}}
RestartPolicy:
 Condition:	{{.Condition}}
{{- with .Delay}}
 Delay:		{{.}}
{{- end}}
{{- with value .MaxAttempts}}
 Max attempts:	{{.}}
{{- end}}
{{- with value .Window}}
 Window:	{{.}}
{{- end}}
{{- end}}
{{- with .Spec.TaskTemplate.ContainerSpec}}
ContainerSpec:
 Image:		{{.Image}}
{{- with .Command}}
 Entrypoint:	{{join . " "}}
{{- end}}
{{- with .Args}}
 Args:		{{join . " "}}
{{- end}}
{{- with .Env}}
 Env:		{{join . " "}}
{{- end}}
{{- with .Dir}}
 Dir:		{{.}}
{{- end}}
{{- with .User}}
 User:		{{.}}
{{- end}}
{{- with .Mounts}}
Mounts:
{{- range .}}
 Target:	{{.Target}}
  Source:	{{.Source}}
  ReadOnly:	{{.ReadOnly}}
  Type:		{{.Type}}
{{- end}}{{end}}{{end}}
{{- with .Spec.TaskTemplate.Resources}}
Resources:
{{- with .Reservations}}{{if or .NanoCPUs .MemoryBytes .GenericResources}}
 Reservations:
{{- if .NanoCPUs}}
  CPU:		{{cpus .NanoCPUs}}
{{- end}}
{{- if .MemoryBytes}}
  Memory:	{{memory .MemoryBytes}}
{{- end}}
{{- with .GenericResources}}
  Generic:	{{resources .}}
{{- end}}{{end}}{{end}}
{{- with .Limits}}{{if or .NanoCPUs .MemoryBytes .Pids}}
 Limits:
{{- if .NanoCPUs}}
  CPU:		{{cpus .NanoCPUs}}
{{- end}}
{{- if .MemoryBytes}}
  Memory:	{{memory .MemoryBytes}}
{{- end}}
{{- with .Pids}}
  PIDs:		{{.}}
{{- end}}{{end}}{{end}}{{end}}
{{- with .Networks}}
Networks:	{{join . " "}}
{{- end}}
Endpoint Mode:	{{.Endpoint.Spec.Mode}}
{{- with .Endpoint.Ports}}
Ports:
{{- range .}}
 PublishedPort = {{.PublishedPort}}
  Protocol = {{.Protocol}}
  TargetPort = {{.TargetPort}}
  PublishMode = {{.PublishMode}}
{{- end}}{{end}}
`
