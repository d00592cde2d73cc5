package main

import (
	"fmt"
	"sort"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	"github.com/docker/cli/cli/command/formatter"
	"github.com/docker/docker/api/types/swarm"
	"github.com/fvbommel/sortorder"
	"github.com/urfave/cli/v2"
)

const serviceTable = "table {{.ID}}\t{{.Name}}\t{{.Mode}}\t{{.Replicas}}\t{{.Image}}\t{{.Ports}}"

func (p *program) serviceList() *cli.Command {
	var list listFlags
	return &cli.Command{
		Name: "ls", Aliases: []string{"list"}, Usage: "List services",
		Flags: list.flags("Only display IDs"),
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			node, err := p.client()
			if err != nil {
				return err
			}
			services, err := node.ServiceList(c.Context, swarm.ServiceListOptions{Filters: list.filter.Value(), Status: !list.quiet})
			if err != nil {
				return err
			}
			sort.Slice(services, func(i, j int) bool {
				return sortorder.NaturalLess(services[i].Spec.Name, services[j].Spec.Name)
			})
			header := &serviceRow{HeaderContext: formatter.HeaderContext{Header: formatter.SubHeaderContext{
				"ID": "ID", "Name": formatter.NameHeader, "Mode": "MODE", "Replicas": "REPLICAS",
				"Image": formatter.ImageHeader, "Ports": formatter.PortsHeader,
			}}}
			return write(list.context(p, serviceTable), header, services, func(s swarm.Service) formatter.SubContext {
				return &serviceRow{s: s}
			})
		},
	}
}

// serviceRow gives the columns of service ls; its methods are the fields of --format.
type serviceRow struct {
	formatter.HeaderContext
	s swarm.Service
}

// MarshalJSON implements json.Marshaler: an object of all columns.
func (r *serviceRow) MarshalJSON() ([]byte, error) { return formatter.MarshalJSON(r) }

func (r *serviceRow) ID() string   { return formatter.TruncateID(r.s.ID) }
func (r *serviceRow) Name() string { return r.s.Spec.Name }

func (r *serviceRow) Mode() string {
	switch mode := r.s.Spec.Mode; {
	case mode.Global != nil:
		return "global"
	case mode.Replicated != nil:
		return "replicated"
	case mode.ReplicatedJob != nil:
		return "replicated job"
	case mode.GlobalJob != nil:
		return "global job"
	}
	return ""
}

func (r *serviceRow) Replicas() string {
	status := valueOf(r.s.ServiceStatus)
	text := fmt.Sprintf("%d/%d", status.RunningTasks, status.DesiredTasks)
	if job := r.s.Spec.Mode.ReplicatedJob; job != nil {
		return fmt.Sprintf("%s (%d/%d completed)", text, status.CompletedTasks, valueOf(job.TotalCompletions))
	}
	if r.s.Spec.Mode.GlobalJob != nil {
		return fmt.Sprintf("%s (%d/%d completed)", text, status.CompletedTasks, status.DesiredTasks+status.CompletedTasks)
	}
	if limit := valueOf(r.s.Spec.TaskTemplate.Placement).MaxReplicas; limit > 0 && r.s.Spec.Mode.Replicated != nil {
		return fmt.Sprintf("%s (max %d per node)", text, limit)
	}
	return text
}

func (r *serviceRow) Image() string {
	return shortImage(valueOf(r.s.Spec.TaskTemplate.ContainerSpec).Image)
}

// shortImage is an image's name as people write it, without its digest.
func shortImage(image string) string {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return image
	}
	tagged, ok := named.(reference.NamedTagged)
	if !ok {
		return image
	}
	short, err := reference.WithTag(reference.TrimNamed(tagged), tagged.Tag())
	if err != nil {
		return image
	}
	return reference.FamiliarString(short)
}

// Ports are the ingress ports, consecutive ones as a range: "*:8080->80/tcp, *:9000-9002->9000-9002/udp".
func (r *serviceRow) Ports() string {
	var ranges []portRange
	ports := append([]swarm.PortConfig(nil), r.s.Endpoint.Ports...)
	sort.SliceStable(ports, func(i, j int) bool {
		if ports[i].Protocol != ports[j].Protocol {
			return ports[i].Protocol < ports[j].Protocol
		}
		return ports[i].PublishedPort < ports[j].PublishedPort
	})
	for _, port := range ports {
		if port.PublishMode != swarm.PortConfigPublishModeIngress {
			continue
		}
		if n := len(ranges); n > 0 && ranges[n-1].extend(port) {
			continue
		}
		ranges = append(ranges, portRange{
			protocol: port.Protocol, published: span{port.PublishedPort, port.PublishedPort}, target: span{port.TargetPort, port.TargetPort},
		})
	}
	texts := make([]string, len(ranges))
	for i, one := range ranges {
		texts[i] = fmt.Sprintf("*:%s->%s/%s", one.published, one.target, one.protocol)
	}
	return strings.Join(texts, ", ")
}

// span is a run of port numbers, both ends included.
type span struct{ first, last uint32 }

func (s span) String() string {
	if s.first == s.last {
		return strconv.Itoa(int(s.first))
	}
	return fmt.Sprintf("%d-%d", s.first, s.last)
}

type portRange struct {
	protocol          swarm.PortConfigProtocol
	published, target span
}

// extend takes one more port in if both of its numbers go on where the range ends (or all share one target).
func (r *portRange) extend(p swarm.PortConfig) bool {
	if p.Protocol != r.protocol || p.PublishedPort != r.published.last+1 {
		return false
	}
	oneTarget := r.target.first == r.target.last && p.TargetPort == r.target.first
	onTarget := p.TargetPort == r.target.last+1 && r.target.last-r.target.first == r.published.last-r.published.first
	if !oneTarget && !onTarget {
		return false
	}
	r.published.last, r.target.last = p.PublishedPort, p.TargetPort
	return true
}
