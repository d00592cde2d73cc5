package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/docker/cli/opts"
	"github.com/docker/docker/api/types/swarm"
	"github.com/urfave/cli/v2"
	"golang.org/x/sync/errgroup"

	"github.com/meshswarm/meshswarm/agent"
)

const controlPort = "2377"

// upOptions are the values of up's flags. What is empty here, the node takes from its last start or from its defaults.
type upOptions struct {
	join, token, tokenFile                 string
	dataDir, socket                        string
	listenAddr, advertiseAddr, publishAddr string
	dataPathPort                           uint64
	dockerHost, hostname, logLevel         string
	taskDevice                             string
	labels, resources, addrPools           opts.ListOpts
	// has are the resources, parsed.
	has    []swarm.GenericResource
	detach bool
	// readyFD is where a detached node tells its parent how the start went.
	readyFD int64
}

func newUpOptions() *upOptions {
	return &upOptions{
		dataDir: defaultDataDir(), socket: defaultSocket(), logLevel: "info",
		labels: opts.NewListOpts(opts.ValidateLabel), resources: newResourceList(), addrPools: opts.NewListOpts(nil),
	}
}

func (p *program) upCommand() *cli.Command {
	o := newUpOptions()
	ready := flagInt(&o.readyFD, "ready-fd", "").(*cli.Int64Flag)
	ready.Hidden = true
	port := flagUint(&o.dataPathPort, "data-path-port", "UDP port of the mesh").(*cli.Uint64Flag)
	port.DefaultText = strconv.Itoa(agent.DefaultDataPathPort)
	return &cli.Command{
		Name: "up", Usage: "Start this machine's node",
		Description: "The first start creates a swarm, or joins one with --join and --token; later ones resume from disk,\n" +
			"with the flags of the last one where they are not given again.\n" +
			"SIGTERM stops the node and leaves its tasks running; `meshswarm down` stops both.",
		Flags: []cli.Flag{
			flagString(&o.advertiseAddr, "advertise-addr", "Address others reach this node at (ip or ip:port; default: of --listen-addr or of the default route)"),
			flagString(&o.dataDir, "data-dir", "Folder for what must survive a restart"),
			port,
			flagList(&o.addrPools, "default-addr-pool", "CIDR that subnets of networks are taken from, when the swarm is created (default 10.0.0.0/8)"),
			flagBool(&o.detach, "detach,d", "Run in the background; return when the node is ready"),
			flagString(&o.dockerHost, "docker-host", "Docker engine to run tasks on (default: DOCKER_HOST or the engine's usual socket)"),
			flagList(&o.resources, "generic-resource", "What this node has for tasks to reserve: KIND=NUMBER, or KIND=NAME for each single one"),
			flagString(&o.hostname, "hostname", "Name of this node (default: the machine's)"),
			flagString(&o.join, "join", "Join the swarm of the manager at HOST:PORT"),
			flagList(&o.labels, "label", "Engine label of this node (key=value)"),
			flagString(&o.listenAddr, "listen-addr", "Address of the control port (ip or ip:port; default: all addresses, port "+controlPort+")"),
			flagString(&o.logLevel, "log-level", `What to log ("debug", "info", "warn", "error")`),
			flagString(&o.publishAddr, "publish-addr", "Address that published ports listen on (default: all)"),
			flagString(&o.socket, "socket", "Unix socket to listen on for clients"),
			flagString(&o.taskDevice, "task-device", `Kind of network device that tasks get, "tun" or "veth" (default: what works here)`),
			flagString(&o.token, "token", "Join token"),
			flagString(&o.tokenFile, "token-file", "File with the join token, - for standard input (others on this machine can read --token in the list of processes)"),
			ready,
		},
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			if c.IsSet(port.Name) && o.dataPathPort == 0 {
				return errDataPathPort
			}
			if err := o.settle(p.in); err != nil {
				return err
			}
			if o.detach {
				return p.upDetached(c.Context, o)
			}
			return p.upHere(c.Context, o)
		},
	}
}

var errDataPathPort = errors.New("--data-path-port: write a port from 1 to 65535")

// settle checks the options and makes paths absolute, so that they mean the same in another process.
func (o *upOptions) settle(stdin io.Reader) error {
	var err error
	if o.dataDir, err = filepath.Abs(o.dataDir); err != nil {
		return err
	}
	if o.socket, err = filepath.Abs(strings.TrimPrefix(o.socket, "unix://")); err != nil {
		return err
	}
	if err := checkSocketPath(o.socket); err != nil {
		return err
	}
	if o.dataPathPort > 65535 {
		return errDataPathPort
	}
	if _, err := parseLevel(o.logLevel); err != nil {
		return err
	}
	if o.has, err = parseGenericResources(o.resources.GetSlice()); err != nil {
		return err
	}
	if err := o.readToken(stdin); err != nil {
		return err
	}
	if (o.join == "") != (o.token == "") {
		return errors.New("--join and --token go together: `meshswarm join-token worker` on a manager prints both")
	}
	if o.join != "" {
		o.join = withPort(o.join, controlPort)
	}
	o.listenAddr = withPort(o.listenAddr, controlPort)
	return nil
}

// maxToken bounds what is read as a join token.
const maxToken = 4096

func (o *upOptions) readToken(stdin io.Reader) error {
	if o.tokenFile == "" {
		return nil
	}
	if o.token != "" {
		return errors.New("--token and --token-file say the same: give one")
	}
	if o.tokenFile != "-" {
		f, err := os.Open(o.tokenFile)
		if err != nil {
			return fmt.Errorf("read join token: %w", err)
		}
		defer f.Close()
		stdin = f
	}
	text, err := io.ReadAll(io.LimitReader(stdin, maxToken))
	if err != nil {
		return fmt.Errorf("read join token: %w", err)
	}
	if o.token = strings.TrimSpace(string(text)); o.token == "" {
		return fmt.Errorf("no join token in %s", o.tokenFile)
	}
	return nil
}

// withPort adds the port where an address has none.
func withPort(addr, port string) string {
	if _, _, err := net.SplitHostPort(addr); err == nil || addr == "" {
		return addr
	}
	return net.JoinHostPort(strings.Trim(addr, "[]"), port)
}

// flags is the command line that starts a node with these options in another process. The token is not in it: it goes
// through standard input.
func (o *upOptions) flags() []string {
	list := []string{
		"--data-dir", o.dataDir, "--socket", o.socket, "--log-level", o.logLevel,
	}
	if o.dataPathPort != 0 {
		list = append(list, "--data-path-port", strconv.FormatUint(o.dataPathPort, 10))
	}
	for flag, value := range map[string]string{
		"--listen-addr": o.listenAddr, "--advertise-addr": o.advertiseAddr, "--publish-addr": o.publishAddr, "--docker-host": o.dockerHost,
		"--hostname": o.hostname, "--join": o.join, "--task-device": o.taskDevice,
	} {
		if value != "" {
			list = append(list, flag, value)
		}
	}
	for _, label := range o.labels.GetSlice() {
		list = append(list, "--label", label)
	}
	for _, resource := range o.resources.GetSlice() {
		list = append(list, "--generic-resource", resource)
	}
	for _, pool := range o.addrPools.GetSlice() {
		list = append(list, "--default-addr-pool", pool)
	}
	if o.token != "" {
		list = append(list, "--token-file", "-")
	}
	return list
}

// upHere runs the node in this process until ctx ends.
func (p *program) upHere(ctx context.Context, o *upOptions) error {
	report := newReport(o.readyFD)
	defer report.close()
	err := p.runUp(ctx, o, report)
	if err != nil && ctx.Err() == nil {
		report.failed(errors.New(p.explain(err)))
	}
	return err
}

func (p *program) runUp(ctx context.Context, o *upOptions, report *report) error {
	unlock, err := lockDataDir(o.dataDir, o.socket)
	if err != nil {
		return err
	}
	defer unlock()
	level, _ := parseLevel(o.logLevel)
	log := slog.New(slog.NewTextHandler(p.err, &slog.HandlerOptions{Level: level}))

	ready := make(chan nodeInfo, 1)
	run, ctx := errgroup.WithContext(ctx)
	ended := make(chan struct{})
	run.Go(func() error {
		defer close(ended)
		return p.node(ctx, o, log, func(info nodeInfo) { ready <- info })
	})
	run.Go(func() error {
		select {
		case info := <-ready:
			report.ready(info)
			if !report.asked() {
				p.greet(ctx, info)
			}
		case <-ended:
		}
		return nil
	})
	return run.Wait()
}

func parseLevel(text string) (slog.Level, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(text)); err != nil {
		return 0, fmt.Errorf("--log-level %s: write debug, info, warn or error", text)
	}
	return level, nil
}

// upDetached starts the node as a process of its own session.
func (p *program) upDetached(ctx context.Context, o *upOptions) error {
	node, err := spawn(ctx, o, filepath.Join(o.dataDir, "log"))
	if err != nil {
		return err
	}
	p.greet(ctx, node.info)
	fmt.Fprintf(p.out, "The node runs in the background as process %d and logs to %s.\n", node.pid, filepath.Join(o.dataDir, "log"))
	return nil
}

// greet tells a person what they need next.
func (p *program) greet(ctx context.Context, info nodeInfo) {
	if info.Problem != "" {
		fmt.Fprintf(p.err, "Node %s runs, but %s\n", info.NodeID, info.Problem)
		return
	}
	how := "joined"
	switch {
	case info.Created:
		how = "created"
	case info.Resumed:
		how = "is back in"
	}
	role := "worker"
	if info.Manager {
		role = "manager"
	}
	fmt.Fprintf(p.out, "Node %s %s swarm %s as %s (%s).\n\n", info.NodeID, how, info.SwarmID, role, info.AdvertiseAddr)
	socket := "unix://" + info.Socket
	flag := ""
	if info.Socket != defaultSocket() {
		flag = "-H " + socket + " "
	}
	if info.Manager {
		p.greetManager(ctx, socket, flag)
	}
	fmt.Fprintf(p.out, "To use the docker command on this node:\n\n    export DOCKER_HOST=%s\n\n", socket)
}

func (p *program) greetManager(ctx context.Context, socket, flag string) {
	node, err := dialHost(socket)
	if err != nil {
		fmt.Fprintln(p.err, p.explain(err))
		return
	}
	defer node.Close()
	if join, err := readJoin(ctx, node); err == nil {
		join.print(p.out, "worker")
		join.print(p.out, "manager")
	} else {
		fmt.Fprintf(p.out, "How another machine joins: meshswarm %sjoin-token worker|manager\n\n", flag)
	}
	fmt.Fprintf(p.out, "To deploy:\n\n    meshswarm %sservice create --name web --replicas 3 --publish 8080:80 nginx\n    meshswarm %sservice ps web\n\n", flag, flag)
}
