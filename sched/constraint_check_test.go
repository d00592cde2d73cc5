package sched

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

func TestCheckConstraints(t *testing.T) {
	for _, tc := range []struct {
		exprs string // separated by commas
		want  string // part of the error, "" for none
	}{
		{"node.id==a", ""},
		{"NODE.Labels.Zone==a,Engine.Labels.x!=b", ""},
		{"node.labels.a==x,node.labels.b==y,node.labels.A==z", ""},
		{"node.labels.a==x,node.labels.a==X", ""},
		{"node.labels.a!=x,node.labels.a!=y", ""},
		{"node.ip==10.0.0.0/8,node.ip==10.1.2.3", ""},
		{"node.ip==10.0.0.0/8,node.ip!=10.1.2.3", ""},
		{"node.platform.arch==amd64,node.platform.arch==x86_64", ""},
		{"node.id", "expected one operator"},
		{"node.id==a b,x", `expected one operator from ==, !=: "x"`},

		{"node.hostnam==a", "did you mean node.hostname?"},
		{"hostname==a", "did you mean node.hostname?"},
		{"role==worker", "did you mean node.role?"},
		{"node.label.zone==a", "did you mean node.labels.zone?"},
		{"node.lables.zone.x==a", "did you mean node.labels.zone.x?"},
		{"labels.zone==a", "did you mean node.labels.zone?"},
		{"engine.label.Zone==a", "did you mean engine.labels.Zone?"},
		{"node.labels==a", "did you mean node.labels.NAME?"},
		{"node.labels.==a", "did you mean node.labels.NAME?"},
		{"node.arch==amd64", "unknown key 'node.arch'"},
		{"colour==red", "the keys are node.id, node.hostname"},

		{"node.labels.a==x,node.labels.a==y", "contradict each other"},
		{"node.labels.a==x,NODE.labels.a!=X", "contradict each other"},
		{"node.labels.a!=x,node.labels.b==x,node.labels.a==x", `"node.labels.a!=x" and "node.labels.a==x"`},
		{"node.role==manager,node.role!=manager", "contradict each other"},
		{"node.role!=manager,node.role!=worker", "contradict each other"},
		{"node.ip==10.0.0.0/8,node.ip==192.0.2.1", "contradict each other"},
		{"node.ip==10.1.2.3,node.ip!=10.0.0.0/8", "contradict each other"},
		{"node.platform.arch==amd64,node.platform.arch!=x86_64", "contradict each other"},

		{"node.role==boss", "manager or worker"},
		{"node.ip==here", "want an IP address"},
	} {
		err := CheckConstraints(strings.Split(tc.exprs, ","))
		switch {
		case tc.want == "" && err != nil:
			t.Errorf("%s: %v", tc.exprs, err)
		case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
			t.Errorf("%s: error %v, want %q", tc.exprs, err, tc.want)
		}
	}
}

// A constraint that an older version took in stays one that no node satisfies.
func TestUnknownConstraintNeverMatches(t *testing.T) {
	for _, expr := range []string{"node.hostnam==host1", "node.hostnam!=host1", "no constraint"} {
		c := parseConstraints([]string{expr})
		if n := labelled("n1", "host1"); c.match(n) || c.broken(n) == "" {
			t.Errorf("%s: matches", expr)
		}
	}
}

func labelled(id, hostname string, labels ...string) *state.Node {
	n := &state.Node{ID: id, Status: swarm.NodeStatus{State: swarm.NodeStateReady}}
	n.Description.Hostname = hostname
	n.Spec.Labels = map[string]string{}
	for _, l := range labels {
		k, v, _ := strings.Cut(l, "=")
		n.Spec.Labels[k] = v
	}
	return n
}

// A long list is checked in a moment, not in the square of its length: the check runs in the request on the leader.
func TestCheckConstraintsManyAtOnce(t *testing.T) {
	const n = 10_000
	for name, expr := range map[string]func(int) string{
		"other keys":   func(i int) string { return fmt.Sprintf("node.labels.x%d==1", i) },
		"other values": func(i int) string { return fmt.Sprintf("node.hostname!=h%d", i) },
		"the same":     func(int) string { return "node.ip==10.0.0.0/8" },
	} {
		exprs := make([]string, n)
		for i := range exprs {
			exprs[i] = expr(i)
		}
		began := time.Now()
		if err := CheckConstraints(exprs); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("%s: checking %d constraints took %v", name, n, took)
		}
	}
}
