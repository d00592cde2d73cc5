package main

import (
	"fmt"
	"time"

	"github.com/docker/cli/opts"
	"github.com/docker/cli/opts/swarmopts"
	"github.com/urfave/cli/v2"
)

const detachUsage = "Exit immediately instead of waiting for the service to converge"

// serviceOptions are the values of the flags of service create and service update.
type serviceOptions struct {
	image string
	args  []string

	detach, quiet  bool
	noResolveImage bool

	name, mode                 string
	replicas, maxConcurrent    uintOption
	hostname, workdir, user    string
	entrypoint, updateArgs     wordsOption
	stopSignal                 string
	stopGrace                  opts.DurationOpt
	tty, readOnly, init        bool
	oomScoreAdj                int64
	env, envFile               opts.ListOpts
	labels, containerLabels    opts.ListOpts
	groups, hosts, constraints opts.ListOpts
	prefs                      placementPrefs
	resources                  opts.ListOpts
	dns, dnsSearch, dnsOption  opts.ListOpts
	maxPerNode                 uint64
	sysctls, capAdd, capDrop   opts.ListOpts
	ulimits                    opts.UlimitOpt
	mounts                     opts.MountOpt
	networks                   opts.NetworkOpt
	publish                    swarmopts.PortOpt
	endpointMode               string
	limitCPU, reserveCPU       opts.NanoCPUs
	limitMemory, reserveMemory opts.MemBytes
	limitPids                  int64
	logDriver                  string
	logOpts                    opts.ListOpts
	restart                    restartOptions
	update, rollback           updateOptions
	health                     healthOptions
	force, rollBack            bool
	remove                     removals
}

type restartOptions struct {
	condition     string
	delay, window opts.DurationOpt
	maxAttempts   uintOption
}

// updateOptions are the --update-* flags, or with kind "rollback" those of the same meaning for rollbacks.
type updateOptions struct {
	kind            string
	parallelism     uint64
	delay, monitor  time.Duration
	failureAction   string
	maxFailureRatio floatOption
	order           string
}

type healthOptions struct {
	cmd                                           string
	interval, timeout, startPeriod, startInterval opts.PositiveDurationOpt
	retries                                       int64
	none                                          bool
}

// removals are the values of the --*-rm flags of service update.
type removals struct {
	env, labels, containerLabels opts.ListOpts
	groups, hosts, mounts        opts.ListOpts
	constraints, resources       opts.ListOpts
	prefs                        placementPrefs
	dns, dnsSearch, dnsOption    opts.ListOpts
	sysctls, ulimits, networks   opts.ListOpts
	publish                      swarmopts.PortOpt
}

func newServiceOptions() *serviceOptions {
	plain := func() opts.ListOpts { return opts.NewListOpts(nil) }
	return &serviceOptions{
		mode: "replicated", endpointMode: "vip",
		update: updateOptions{kind: "update", parallelism: 1}, rollback: updateOptions{kind: "rollback", parallelism: 1},
		env: opts.NewListOpts(opts.ValidateEnv), envFile: plain(),
		labels: opts.NewListOpts(opts.ValidateLabel), containerLabels: opts.NewListOpts(opts.ValidateLabel),
		groups: plain(), constraints: plain(), resources: newResourceList(), hosts: opts.NewListOpts(opts.ValidateExtraHost),
		dns: opts.NewListOpts(opts.ValidateIPAddress), dnsSearch: opts.NewListOpts(opts.ValidateDNSSearch), dnsOption: plain(),
		sysctls: plain(), capAdd: plain(), capDrop: plain(), ulimits: *opts.NewUlimitOpt(nil),
		logOpts: opts.NewListOpts(opts.ValidateEnv),
		remove: removals{
			env: plain(), labels: plain(), containerLabels: plain(), groups: plain(), hosts: plain(), mounts: plain(),
			constraints: plain(), resources: plain(),
			dns: plain(), dnsSearch: plain(), dnsOption: plain(), sysctls: plain(), ulimits: plain(), networks: plain(),
		},
	}
}

// commonFlags are those that create and update share, in the order of the alphabet within their groups.
func (o *serviceOptions) commonFlags() []cli.Flag {
	flags := []cli.Flag{
		flagBool(&o.detach, "detach,d", detachUsage),
		flagBool(&o.quiet, "quiet,q", "Suppress progress output"),
		flagVar(&o.replicas, "replicas", "Number of tasks"),
		flagList(&o.capAdd, "cap-add", "Add Linux capabilities"),
		flagList(&o.capDrop, "cap-drop", "Drop Linux capabilities"),
		flagString(&o.endpointMode, "endpoint-mode", "Endpoint mode (vip or dnsrr)"),
		flagVar(&o.entrypoint, "entrypoint", "Overwrite the default ENTRYPOINT of the image"),
		flagString(&o.health.cmd, "health-cmd", "Command to run to check health"),
		flagVar(&o.health.interval, "health-interval", "Time between running the check (ms|s|m|h)"),
		flagInt(&o.health.retries, "health-retries", "Consecutive failures needed to report unhealthy"),
		flagVar(&o.health.startInterval, "health-start-interval", "Time between running the check during the start period (ms|s|m|h)"),
		flagVar(&o.health.startPeriod, "health-start-period", "Start period for the container to initialize before counting retries towards unstable (ms|s|m|h)"),
		flagVar(&o.health.timeout, "health-timeout", "Maximum time to allow one check to run (ms|s|m|h)"),
		flagBool(&o.health.none, "no-healthcheck", "Disable any container-specified HEALTHCHECK"),
		flagString(&o.hostname, "hostname", "Container hostname"),
		flagBool(&o.init, "init", "Use an init inside each service container to forward signals and reap processes"),
		flagVar(&o.limitCPU, "limit-cpu", "Limit CPUs"),
		flagVar(&o.limitMemory, "limit-memory", "Limit Memory"),
		flagInt(&o.limitPids, "limit-pids", "Limit maximum number of processes (0 = unlimited)"),
		flagString(&o.logDriver, "log-driver", "Logging driver for service"),
		flagList(&o.logOpts, "log-opt", "Logging driver options"),
		flagBool(&o.noResolveImage, "no-resolve-image", "Do not query the registry to resolve image digest and supported platforms"),
		flagVar(&o.maxConcurrent, "max-concurrent", "Number of job tasks to run concurrently (default equal to --replicas)"),
		flagInt(&o.oomScoreAdj, "oom-score-adj", "Tune host's OOM preferences (-1000 to 1000)"),
		flagUint(&o.maxPerNode, "replicas-max-per-node", "Maximum number of tasks per node (default 0 = unlimited)"),
		flagBool(&o.readOnly, "read-only", "Mount the container's root filesystem as read only"),
		flagVar(&o.reserveCPU, "reserve-cpu", "Reserve CPUs"),
		flagVar(&o.reserveMemory, "reserve-memory", "Reserve Memory"),
		flagString(&o.restart.condition, "restart-condition", `Restart when condition is met ("none", "on-failure", "any") (default "any")`),
		flagVar(&o.restart.delay, "restart-delay", "Delay between restart attempts (ns|us|ms|s|m|h) (default 5s)"),
		flagVar(&o.restart.maxAttempts, "restart-max-attempts", "Maximum number of restarts before giving up"),
		flagVar(&o.restart.window, "restart-window", "Window used to evaluate the restart policy (ns|us|ms|s|m|h)"),
		flagVar(&o.stopGrace, "stop-grace-period", "Time to wait before force killing a container (ns|us|ms|s|m|h) (default 10s)"),
		flagString(&o.stopSignal, "stop-signal", "Signal to stop the container"),
		flagBool(&o.tty, "tty,t", "Allocate a pseudo-TTY"),
		flagString(&o.user, "user,u", "Username or UID (format: <name|uid>[:<group|gid>])"),
		flagString(&o.workdir, "workdir,w", "Working directory inside the container"),
	}
	flags = append(flags, o.update.flags(`"pause", "continue", "rollback"`)...)
	return append(flags, o.rollback.flags(`"pause", "continue"`)...)
}

// flags are --update-delay and the others, or --rollback-delay and the others, in the docker command's words.
func (u *updateOptions) flags(actions string) []cli.Flag {
	delay, during, order, done := "Delay between updates", "an update", "Update order", "updated simultaneously (0 to update all at once)"
	if u.kind == "rollback" {
		delay, during, order, done = "Delay between task rollbacks", "a rollback", "Rollback order", "rolled back simultaneously (0 to roll back all at once)"
	}
	const units = " (ns|us|ms|s|m|h)"
	return []cli.Flag{
		flagDuration(&u.delay, u.flag("delay"), delay+units),
		flagString(&u.failureAction, u.flag("failure-action"), fmt.Sprintf(`Action on %s failure (%s) (default "pause")`, u.kind, actions)),
		flagVar(&u.maxFailureRatio, u.flag("max-failure-ratio"), "Failure rate to tolerate during "+during),
		flagDuration(&u.monitor, u.flag("monitor"), fmt.Sprintf("Duration after each task %s to monitor for failure%s (default 5s)", u.kind, units)),
		flagString(&u.order, u.flag("order"), order+` ("start-first", "stop-first") (default "stop-first")`),
		flagUint(&u.parallelism, u.flag("parallelism"), "Maximum number of tasks "+done),
	}
}

func (u *updateOptions) flag(name string) string { return u.kind + "-" + name }

// flagNames are the names of all of flags.
func (u *updateOptions) flagNames() []string {
	var names []string
	for _, name := range []string{"delay", "failure-action", "max-failure-ratio", "monitor", "order", "parallelism"} {
		names = append(names, u.flag(name))
	}
	return names
}

func (o *serviceOptions) createFlags() []cli.Flag {
	return []cli.Flag{
		flagList(&o.constraints, "constraint", "Placement constraints"),
		flagList(&o.containerLabels, "container-label", "Container labels"),
		flagList(&o.dns, "dns", "Set custom DNS servers"),
		flagList(&o.dnsOption, "dns-option", "Set DNS options"),
		flagList(&o.dnsSearch, "dns-search", "Set custom DNS search domains"),
		flagList(&o.env, "env,e", "Set environment variables"),
		flagList(&o.envFile, "env-file", "Read in a file of environment variables"),
		flagList(&o.resources, "generic-resource", "User defined resources that each task needs (KIND=NUMBER)"),
		flagList(&o.groups, "group", "Set one or more supplementary user groups for the container"),
		flagList(&o.hosts, "host", "Set one or more custom host-to-IP mappings (host:ip)"),
		flagList(&o.labels, "label,l", "Service labels"),
		flagString(&o.mode, "mode", `Service mode ("replicated", "global", "replicated-job", "global-job")`),
		flagVar(&o.mounts, "mount", "Attach a filesystem mount to the service"),
		flagString(&o.name, "name", "Service name"),
		flagVar(&o.networks, "network", "Network attachments"),
		flagVar(&o.prefs, "placement-pref", "Add a placement preference (spread=LABEL)"),
		flagVar(&o.publish, "publish,p", "Publish a port as a node port"),
		flagList(&o.sysctls, "sysctl", "Sysctl options"),
		flagVar(&o.ulimits, "ulimit", "Ulimit options"),
	}
}

func (o *serviceOptions) updateFlags() []cli.Flag {
	rm := &o.remove
	return []cli.Flag{
		flagVar(&o.updateArgs, "args", "Service command args"),
		flagList(&o.constraints, "constraint-add", "Add or update a placement constraint"),
		flagList(&rm.constraints, "constraint-rm", "Remove a constraint"),
		flagList(&o.containerLabels, "container-label-add", "Add or update a container label"),
		flagList(&rm.containerLabels, "container-label-rm", "Remove a container label by its key"),
		flagList(&o.dns, "dns-add", "Add or update a custom DNS server"),
		flagList(&rm.dns, "dns-rm", "Remove a custom DNS server"),
		flagList(&o.dnsOption, "dns-option-add", "Add or update a DNS option"),
		flagList(&rm.dnsOption, "dns-option-rm", "Remove a DNS option"),
		flagList(&o.dnsSearch, "dns-search-add", "Add or update a custom DNS search domain"),
		flagList(&rm.dnsSearch, "dns-search-rm", "Remove a DNS search domain"),
		flagList(&o.env, "env-add", "Add or update an environment variable"),
		flagList(&rm.env, "env-rm", "Remove an environment variable"),
		flagBool(&o.force, "force", "Force update even if no changes require it"),
		flagList(&o.resources, "generic-resource-add", "Add or update a user defined resource that each task needs (KIND=NUMBER)"),
		flagList(&rm.resources, "generic-resource-rm", "Remove a user defined resource by its kind"),
		flagList(&o.groups, "group-add", "Add an additional supplementary user group to the container"),
		flagList(&rm.groups, "group-rm", "Remove a previously added supplementary user group from the container"),
		flagList(&o.hosts, "host-add", "Add a custom host-to-IP mapping (host:ip)"),
		flagList(&rm.hosts, "host-rm", "Remove a custom host-to-IP mapping (host:ip)"),
		flagString(&o.image, "image", "Service image tag"),
		flagList(&o.labels, "label-add", "Add or update a service label"),
		flagList(&rm.labels, "label-rm", "Remove a label by its key"),
		flagVar(&o.mounts, "mount-add", "Add or update a mount on a service"),
		flagList(&rm.mounts, "mount-rm", "Remove a mount by its target path"),
		flagVar(&o.networks, "network-add", "Add a network"),
		flagList(&rm.networks, "network-rm", "Remove a network"),
		flagVar(&o.prefs, "placement-pref-add", "Add a placement preference (spread=LABEL)"),
		flagVar(&rm.prefs, "placement-pref-rm", "Remove a placement preference (spread=LABEL)"),
		flagVar(&o.publish, "publish-add", "Add or update a published port"),
		flagVar(&rm.publish, "publish-rm", "Remove a published port by its target port"),
		flagBool(&o.rollBack, "rollback", "Rollback to previous specification"),
		flagList(&o.sysctls, "sysctl-add", "Add or update a Sysctl option"),
		flagList(&rm.sysctls, "sysctl-rm", "Remove a Sysctl option"),
		flagVar(&o.ulimits, "ulimit-add", "Add or update a ulimit option"),
		flagList(&rm.ulimits, "ulimit-rm", "Remove a ulimit option"),
	}
}
