package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/docker/client"
	"github.com/docker/go-units"
	"github.com/urfave/cli/v2"

	"github.com/meshswarm/meshswarm/sched"
)

func (p *program) serviceExplain() *cli.Command {
	var format string
	return &cli.Command{
		Name: "explain", Usage: "Explain where the tasks of a service may run, and what keeps them from it", ArgsUsage: "SERVICE",
		Description: "The first lines say how it is; then what is not as wanted and why; then each node: when it would get a task of\n" +
			"the service (ORDER 1 is next), how many tasks it has, and what speaks against it.",
		Flags: []cli.Flag{flagString(&format, "format,f", inspectUsage)},
		Action: p.onNode(1, func(c *cli.Context, node *client.Client) error {
			if err := exactArgs(c, 1); err != nil {
				return err
			}
			render, err := inspectRenderer(format)
			if err != nil {
				return &statusError{64, err}
			}
			var raw json.RawMessage
			if err := ask(c.Context, node, http.MethodGet, "/meshswarm/services/"+url.PathEscape(c.Args().First())+"/explain", &raw); err != nil {
				return err
			}
			if format == "json" {
				_, err := fmt.Fprintln(p.out, string(raw))
				return err
			}
			var e sched.Explanation
			if err := json.Unmarshal(raw, &e); err != nil {
				return fmt.Errorf("read the node's explanation: %w", err)
			}
			if render != nil {
				return render(p, e, raw)
			}
			return p.printExplanation(&e)
		}),
	}
}

// maxExplained is how many rows a table for people has.
const maxExplained = 100

func (p *program) printExplanation(e *sched.Explanation) error {
	fmt.Fprintf(p.out, "%s (%s): %s; %s.\n", e.Service, e.Mode, progressOf(e), strings.TrimSuffix(e.Summary, "."))
	if u := e.Update; u != nil && u.State != "" {
		fmt.Fprintf(p.out, "Update: %s (%s)\n", u.State, u.Message)
	}
	if r := e.Rebalance; r != nil {
		fmt.Fprintf(p.out, "Rebalance: %d %s to move\n", len(r.Tasks), plural(len(r.Tasks), "task"))
	}
	if len(e.Tasks) > 0 {
		rows := [][]string{{"TASK", "NODE", "STATE", "NEXT LOOK", "REASON"}}
		for _, t := range e.Tasks {
			rows = append(rows, []string{explainedTask(e, t), orDash(t.Node), orDash(string(t.State)), fromNow(t.Next), oneLine(t.Reason)})
		}
		if err := p.explained("Not as wanted", rows); err != nil {
			return err
		}
	}
	rows := [][]string{{"NODE", "ORDER", "SPREAD", "ITS TASKS", "ALL TASKS", "FAILURES", "REASON"}}
	for _, n := range e.Nodes {
		order := "-"
		if n.Order > 0 {
			order = fmt.Sprint(n.Order)
		}
		rows = append(rows, []string{
			cmp.Or(n.Hostname, n.ID), order, branchOf(e.Spread, n), fmt.Sprint(n.ServiceTasks), fmt.Sprint(n.Tasks), fmt.Sprint(n.Failures), nodeVerdict(n),
		})
	}
	if len(e.Spread) == 0 {
		for i := range rows {
			rows[i] = slices.Delete(rows[i], 2, 3)
		}
	}
	return p.explained("Nodes", rows)
}

// explained prints a table, of many rows only the first.
func (p *program) explained(title string, rows [][]string) error {
	fmt.Fprintf(p.out, "\n%s:\n", title)
	table := tabwriter.NewWriter(p.out, 6, 1, 3, ' ', 0)
	for _, row := range rows[:min(len(rows), maxExplained+1)] {
		fmt.Fprintln(table, strings.Join(row, "\t"))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if more := len(rows) - 1 - maxExplained; more > 0 {
		fmt.Fprintf(p.out, "… and %d more: --format json has all\n", more)
	}
	return nil
}

// progressOf is how far the service is.
func progressOf(e *sched.Explanation) string {
	switch e.Mode {
	case "replicated-job", "global-job":
		return fmt.Sprintf("%d of %d tasks completed, %d running", e.Completed, e.Wanted, e.Running)
	case "global":
		return fmt.Sprintf("a task runs on %d of %d nodes that shall have one", e.Running, e.Wanted)
	}
	return fmt.Sprintf("%d of %d tasks run", e.Running, e.Wanted)
}

// explainedTask names a task as service ps does.
func explainedTask(e *sched.Explanation, t sched.TaskExplanation) string {
	switch {
	case t.Slot != 0:
		return fmt.Sprintf("%s.%d", e.Service, t.Slot)
	case t.Node != "" || t.NodeID != "":
		return e.Service + "." + cmp.Or(t.Node, t.NodeID)
	}
	return "-"
}

// nodeVerdict is what speaks against a node, or that nothing does.
func nodeVerdict(n sched.NodeExplanation) string {
	var against []string
	for _, f := range n.Filters {
		if !f.OK {
			against = append(against, oneLine(cmp.Or(f.Detail, "refused by filter "+f.Filter)))
		}
	}
	switch {
	case len(against) > 0:
		return strings.Join(against, "; ")
	case !n.Fits && n.HeldUntil != nil:
		return "gets no new tasks because it went down repeatedly, until " + fromNow(n.HeldUntil)
	case !n.Fits:
		return "does not fit"
	}
	return "fits"
}

// branchOf writes a node's place in the spread: "zone=a (3), row=2 (1)", each with the number of the service's tasks there.
func branchOf(spread []string, n sched.NodeExplanation) string {
	var words []string
	for i, over := range spread {
		if i >= len(n.Branch) {
			break
		}
		label := over
		for _, prefix := range []string{"node.labels.", "engine.labels."} {
			label = strings.TrimPrefix(label, prefix)
		}
		word := label + "=" + n.Branch[i]
		if n.Branch[i] == "" {
			word = "no " + label
		}
		if i < len(n.BranchTasks) {
			word += fmt.Sprintf(" (%d)", n.BranchTasks[i])
		}
		words = append(words, word)
	}
	return orDash(strings.Join(words, ", "))
}

// fromNow is a time as people say it, "-" for none.
func fromNow(t *time.Time) string {
	if t == nil {
		return "-"
	}
	if left := time.Until(*t).Round(time.Second); left > 0 {
		return "in " + strings.ToLower(units.HumanDuration(left))
	}
	return "now"
}

func orDash(s string) string { return cmp.Or(s, "-") }

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
