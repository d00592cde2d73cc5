package sched

import (
	"fmt"
	"slices"
	"time"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

// Explanation is the leader's reasoning about one service: where its next task could run and why not elsewhere, and what
// keeps its tasks from running as wanted.
type Explanation struct {
	ServiceID string
	Service   string // its name
	Mode      string // "replicated", "global", "replicated-job" or "global-job"
	// Wanted and Running count tasks; of a job, those that shall complete, and those that run. Completed is of a job's
	// current iteration.
	Wanted, Running int
	Completed       int `json:",omitempty"`
	// SpecVersion is the version of the spec that new tasks follow.
	SpecVersion uint64
	Update      *swarm.UpdateStatus `json:",omitempty"`
	Rebalance   *state.Rebalance    `json:",omitempty"`
	// Summary is what would become of one more task now.
	Summary string
	// Spread lists the labels that tasks are spread over, outermost first.
	Spread []string `json:",omitempty"`
	// Nodes has all nodes: first those that may take a task, in the order in which they would get one, then the others.
	Nodes []NodeExplanation
	// Tasks has one entry for each place where something is not as wanted.
	Tasks []TaskExplanation `json:",omitempty"`
}

// NodeExplanation is what the scheduler thinks of one node.
type NodeExplanation struct {
	ID, Hostname string
	// Order is when the node would be chosen: 1 = next. 0: it does not fit, or the service has a task for each node.
	Order int `json:",omitempty"`
	Fits  bool
	// Filters are all that concern the service, in the order in which they are asked.
	Filters []Verdict
	// Branch has the node's values of the labels that tasks are spread over, BranchTasks the number of the service's tasks
	// that run in each: branches with few come first.
	Branch      []string `json:",omitempty"`
	BranchTasks []int    `json:",omitempty"`
	// Failures are those of tasks of the current spec in the last five minutes; they count from five on. Then few
	// ServiceTasks come first, then few Tasks (of all services).
	Failures, ServiceTasks, Tasks int
	// HeldUntil is until when it gets no new tasks because it went down repeatedly.
	HeldUntil *time.Time `json:",omitempty"`
}

// Verdict is what one filter says of a node.
type Verdict struct {
	Filter string
	OK     bool
	// Detail says why not, with numbers.
	Detail string `json:",omitempty"`
}

// TaskExplanation is a task that does not run as wanted, and why.
type TaskExplanation struct {
	ID     string `json:",omitempty"` // "": there is none yet
	Slot   int    `json:",omitempty"` // 0 for services with a task for each node
	NodeID string `json:",omitempty"`
	Node   string `json:",omitempty"` // its hostname
	State  swarm.TaskState
	// DesiredState is what the task is told to be.
	DesiredState swarm.TaskState
	// Crashes is how many tasks before it in this place ended soon after their start, in a row.
	Crashes uint32 `json:",omitempty"`
	Reason  string
	// Next is when the leader looks again by itself, if it is not waiting for something to change.
	Next *time.Time `json:",omitempty"`
}

var modeNames = map[mode]string{replicated: "replicated", global: "global", replicatedJob: "replicated-job", globalJob: "global-job"}

// Explain tells the leader's reasoning about a service, by what is in the view at a time. It asks the same filters and
// the same order of nodes as the scheduler. state.ErrNotFound if there is no such service.
//
// It reads the whole view: nodes are ranked by all their tasks.
func Explain(v state.View, serviceID string, now time.Time) (*Explanation, error) {
	b := newBoard(v, now)
	s := b.services[serviceID]
	if s == nil || s.service == nil || s.service.PendingDelete {
		return nil, fmt.Errorf("service %s: %w", serviceID, state.ErrNotFound)
	}
	r := s.revision()
	if r == nil {
		return nil, fmt.Errorf("service %s: version %d of its spec: %w", serviceID, s.service.SpecVersion, state.ErrNotFound)
	}
	for p := range s.places {
		s.touched[p] = struct{}{}
	}
	b.assess(s)
	e := &Explanation{
		ServiceID: s.id, Service: s.service.Spec.Name, Mode: modeNames[modeOf(s.service)], Wanted: b.wantedTasks(s), Completed: s.counts[finished],
		SpecVersion: s.service.SpecVersion, Update: s.service.UpdateStatus, Rebalance: s.service.Rebalance, Spread: r.spread,
	}
	for p := range s.places {
		if slices.ContainsFunc(s.standers(p), func(t *state.Task) bool { return live(t) && t.Status.State == swarm.TaskStateRunning }) {
			e.Running++
		}
	}
	b.explainNodes(e, s, r)
	b.explainTasks(e, s)
	return e, nil
}

// wantedTasks is how many tasks a service is to have, or to complete.
func (b *board) wantedTasks(s *serviceInfo) int {
	switch m := modeOf(s.service); m {
	case replicated:
		return replicas(s.service)
	case replicatedJob:
		_, total := jobSize(s.service)
		return total
	default:
		n := 0
		for id := range b.nodes {
			if c := b.coverage(s, id); c == wanted || c == kept && s.stand(state.Place{NodeID: id}) != vacant {
				n++
			}
		}
		return n
	}
}

func (b *board) explainNodes(e *Explanation, s *serviceInfo, r *revisionInfo) {
	defer b.discount(r)() // as the scheduler does
	j := newJudge(r, b.now)
	g := b.candidates(j, placing)
	k := revisionKey{s.id, r.SpecVersion}
	order := map[*nodeInfo]int{}
	branches := map[*nodeInfo][]int{}
	for _, n := range b.nodes {
		if n.node != nil {
			branches[n] = g.counts(n)
		}
	}
	perNode := modeOf(s.service).perNode()
	switch {
	case g.empty():
		e.Summary = "another task would get no node: " + j.explain()
	case perNode:
		e.Summary = fmt.Sprintf("%d of %d nodes may take a task", g.size(), len(branches))
	default:
		e.Summary = "another task would run on " + nodeName(g.best().node)
	}
	for place := 1; !g.empty(); place++ {
		best := *g.best()
		order[best.node] = place
		g.took(false, best)
	}
	for _, id := range sorted(b.nodes) {
		n := b.nodes[id]
		if n.node == nil {
			continue
		}
		rank := n.rank(k, b.now)
		x := NodeExplanation{
			ID: id, Hostname: n.node.Description.Hostname, Order: order[n], Fits: order[n] > 0, Failures: n.recentFailures(k, b.now),
			ServiceTasks: rank.same, Tasks: rank.active, HeldUntil: pointer(n.heldUntil(b.now)),
		}
		if len(r.spread) > 0 {
			x.Branch, x.BranchTasks = n.branchOf(r.spread), branches[n]
		}
		for _, i := range r.filters {
			f := &pipeline[i]
			verdict := Verdict{Filter: f.name, OK: f.fits(j, n)}
			if !verdict.OK {
				verdict.Detail = f.why(j, n)
			}
			x.Filters = append(x.Filters, verdict)
		}
		e.Nodes = append(e.Nodes, x)
	}
	slices.SortStableFunc(e.Nodes, func(x, y NodeExplanation) int {
		if x.Fits != y.Fits {
			if x.Fits {
				return -1
			}
			return 1
		}
		return x.Order - y.Order
	})
	if perNode {
		for i := range e.Nodes {
			e.Nodes[i].Order = 0
		}
	}
}

// counts lists the number of tasks in a node's branches, outermost first.
func (g *grove) counts(n *nodeInfo) []int {
	var out []int
	at := &g.root
	for _, value := range n.branchOf(g.keys) {
		at = at.index[value]
		out = append(out, at.tasks)
	}
	return out
}

// size is how many candidates there are.
func (g *grove) size() int { return g.root.size() }

func (b *branch) size() int {
	n := len(b.nodes)
	for _, c := range b.below {
		n += c.size()
	}
	return n
}

func nodeName(n *nodeInfo) string {
	if n.node != nil && n.node.Description.Hostname != "" {
		return n.node.Description.Hostname
	}
	return n.id
}

func pointer(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
