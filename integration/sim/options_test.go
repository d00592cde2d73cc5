package sim

import (
	"flag"
	"time"
)

// options are a run's size. Zero fields are derived from the others.
type options struct {
	agents, tasks, lost, replicas int
	zones                         int
	parallelism                   uint64
	witnesses                     int
	patience                      time.Duration
	report                        string
	verbose                       bool
	slack                         int
	downlink                      float64
}

var flags options

func init() {
	flag.IntVar(&flags.agents, "agents", defaultAgents, "simulated nodes")
	flag.IntVar(&flags.tasks, "tasks", defaultTasks, "tasks of all services together")
	flag.IntVar(&flags.lost, "lost", 0, "nodes that are lost at once; 0: a tenth")
	flag.IntVar(&flags.replicas, "replicas", 0, "replicas of the service that is updated; 0: a quarter of the tasks")
	flag.Uint64Var(&flags.parallelism, "parallelism", 0, "of the update; 0: a twentieth of the replicas")
	flag.IntVar(&flags.witnesses, "witnesses", 5, "nodes that keep all they are told, to be compared with the store at the end")
	flag.DurationVar(&flags.patience, "patience", 3*time.Minute, "how long any step may take")
	flag.StringVar(&flags.report, "report", "", "write the report to this file, and as JSON beside it")
	flag.IntVar(&flags.slack, "slack", defaultSlack, "by how much the periods and timeouts of raft and sessions are longer than the product's")
	flag.Float64Var(&flags.downlink, "downlink", 30, "what all nodes together can receive, in megabytes per second")
	flag.BoolVar(&flags.verbose, "sim.v", false, "log what the managers' rooms say")
}

// derived fills what follows from the size.
func (o options) derived() options {
	if o.lost == 0 {
		o.lost = max(1, o.agents/10)
	}
	if o.replicas == 0 {
		o.replicas = o.tasks / 4
	}
	if o.parallelism == 0 {
		o.parallelism = uint64(max(1, o.replicas/20))
	}
	o.zones = max(1, o.agents/zoneNodes)
	o.witnesses = min(o.witnesses, o.agents)
	return o
}
