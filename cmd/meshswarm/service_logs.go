package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/cli/cli/command/formatter"
	"github.com/docker/cli/cli/command/idresolver"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/swarm"
	"github.com/docker/docker/client"
	"github.com/docker/docker/pkg/stdcopy"
	"github.com/urfave/cli/v2"
)

type logsOptions struct {
	noResolve, noTrunc, noTaskIDs    bool
	follow, timestamps, details, raw bool
	since, tail                      string
}

func (p *program) serviceLogs() *cli.Command {
	o := logsOptions{tail: "all"}
	return &cli.Command{
		Name: "logs", Usage: "Fetch the logs of a service or task", ArgsUsage: "SERVICE|TASK",
		Flags: []cli.Flag{
			flagBool(&o.details, "details", "Show extra details provided to logs"),
			flagBool(&o.follow, "follow,f", "Follow log output"),
			flagBool(&o.noResolve, "no-resolve", "Do not map IDs to Names in output"),
			flagBool(&o.noTaskIDs, "no-task-ids", "Do not include task IDs in output"),
			flagBool(&o.noTrunc, "no-trunc", "Do not truncate output"),
			flagBool(&o.raw, "raw", "Do not neatly format logs"),
			flagString(&o.since, "since", `Show logs since timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)`),
			flagString(&o.tail, "tail,n", "Number of lines to show from the end of the logs"),
			flagBool(&o.timestamps, "timestamps,t", "Show timestamps"),
		},
		Action: func(c *cli.Context) error {
			if err := exactArgs(c, 1); err != nil {
				return err
			}
			node, err := p.client()
			if err != nil {
				return err
			}
			return p.logs(c.Context, node, &o, c.Args().First())
		},
	}
}

// logSource is a service or a task whose logs can be read.
type logSource struct {
	read  func(ctx context.Context, name string, o container.LogsOptions) (io.ReadCloser, error)
	tty   bool
	width int // digits of the highest slot
}

func findLogSource(ctx context.Context, node *client.Client, name string) (logSource, error) {
	service, _, err := node.ServiceInspectWithRaw(ctx, name, swarm.ServiceInspectOptions{})
	if err == nil {
		source := logSource{read: node.ServiceLogs, tty: valueOf(service.Spec.TaskTemplate.ContainerSpec).TTY, width: 1}
		if mode := service.Spec.Mode.Replicated; mode != nil {
			source.width = digits(int(valueOf(mode.Replicas)))
		}
		return source, nil
	}
	if !errdefs.IsNotFound(err) {
		return logSource{}, err
	}
	task, _, err := node.TaskInspectWithRaw(ctx, name)
	if errdefs.IsNotFound(err) {
		return logSource{}, fmt.Errorf("no such task or service: %s", name)
	}
	if err != nil {
		return logSource{}, err
	}
	return logSource{read: node.TaskLogs, tty: valueOf(task.Spec.ContainerSpec).TTY, width: digits(task.Slot)}, nil
}

func digits(n int) int { return len(fmt.Sprint(n)) }

func (p *program) logs(ctx context.Context, node *client.Client, o *logsOptions, name string) error {
	source, err := findLogSource(ctx, node, name)
	if err != nil {
		return err
	}
	if source.tty && !o.raw {
		return errors.New("tty service logs only supported with --raw")
	}
	body, err := source.read(ctx, name, container.LogsOptions{
		ShowStdout: true, ShowStderr: true, Since: o.since, Timestamps: o.timestamps, Follow: o.follow, Tail: o.tail,
		// Who said a line stands in its details.
		Details: o.details || !o.raw,
	})
	if err != nil {
		return err
	}
	defer body.Close()
	switch {
	case source.tty:
		_, err = io.Copy(p.out, body)
	case o.raw:
		_, err = stdcopy.StdCopy(p.out, p.err, body)
	default:
		names := &taskNames{node: node, o: o, width: source.width, resolver: idresolver.New(node, o.noResolve), cache: map[logOrigin]string{}}
		_, err = stdcopy.StdCopy(&logWriter{ctx, o, names, p.out}, &logWriter{ctx, o, names, p.err}, body)
	}
	if ctx.Err() != nil && o.follow {
		return nil
	}
	return err
}

// logOrigin is who wrote a line.
type logOrigin struct{ node, service, task string }

// taskNames gives "web.1.abc@node1" for an origin and remembers it.
type taskNames struct {
	node     *client.Client
	o        *logsOptions
	width    int
	resolver *idresolver.IDResolver
	cache    map[logOrigin]string
}

func (n *taskNames) name(ctx context.Context, from logOrigin) (string, error) {
	if name, ok := n.cache[from]; ok {
		return name, nil
	}
	host, err := n.resolver.Resolve(ctx, swarm.Node{}, from.node)
	if err != nil {
		return "", err
	}
	service, err := n.resolver.Resolve(ctx, swarm.Service{}, from.service)
	if err != nil {
		return "", err
	}
	task, _, err := n.node.TaskInspectWithRaw(ctx, from.task)
	if err != nil {
		return "", err
	}
	name := fmt.Sprintf("%s.%d", service, task.Slot)
	switch {
	case n.o.noTaskIDs:
	case n.o.noTrunc:
		name += "." + task.ID
	default:
		name += "." + formatter.TruncateID(task.ID)
	}
	name += "@" + host + strings.Repeat(" ", max(0, n.width-digits(task.Slot)))
	n.cache[from] = name
	return name, nil
}

// logWriter rewrites lines of the form "[time ]details line" for people. stdcopy hands it one line per Write.
type logWriter struct {
	ctx   context.Context
	o     *logsOptions
	names *taskNames
	w     io.Writer
}

// Write implements io.Writer.
func (w *logWriter) Write(line []byte) (int, error) {
	rest := line
	var out bytes.Buffer
	if w.o.timestamps {
		stamp, after, _ := bytes.Cut(rest, []byte(" "))
		fmt.Fprintf(&out, "%s ", stamp)
		rest = after
	}
	text, message, ok := bytes.Cut(rest, []byte(" "))
	if !ok {
		return 0, fmt.Errorf("invalid context in log message: %q", line)
	}
	details, err := parseDetails(string(text))
	if err != nil {
		return 0, err
	}
	from, err := takeOrigin(details)
	if err != nil {
		return 0, err
	}
	name, err := w.names.name(w.ctx, from)
	if err != nil {
		return 0, err
	}
	fmt.Fprintf(&out, "%s    | ", name)
	if w.o.details {
		pairs := make([]string, 0, len(details))
		for _, key := range slices.Sorted(maps.Keys(details)) {
			pairs = append(pairs, key+"="+details[key])
		}
		fmt.Fprintf(&out, "%s ", strings.Join(pairs, ","))
	}
	out.Write(message)
	if _, err := w.w.Write(out.Bytes()); err != nil {
		return 0, err
	}
	return len(line), nil
}

// parseDetails reads "k=v,l=w", keys and values escaped as in a URL's query (Docker's log stream).
func parseDetails(text string) (map[string]string, error) {
	details := map[string]string{}
	for pair := range strings.SplitSeq(text, ",") {
		key, value, ok := strings.Cut(pair, "=")
		if !ok || key == "" {
			return nil, fmt.Errorf("invalid details in log message: %q", text)
		}
		key, err := url.QueryUnescape(key)
		if err != nil {
			return nil, fmt.Errorf("invalid details in log message: %w", err)
		}
		if value, err = url.QueryUnescape(value); err != nil {
			return nil, fmt.Errorf("invalid details in log message: %w", err)
		}
		details[key] = value
	}
	return details, nil
}

// takeOrigin takes the labels that say who wrote a line out of its details.
func takeOrigin(details map[string]string) (logOrigin, error) {
	var from logOrigin
	for key, field := range map[string]*string{
		"com.docker.swarm.node.id":    &from.node,
		"com.docker.swarm.service.id": &from.service,
		"com.docker.swarm.task.id":    &from.task,
	} {
		if *field = details[key]; *field == "" {
			return logOrigin{}, fmt.Errorf("log message without %s", key)
		}
		delete(details, key)
	}
	return from, nil
}
