package sched

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"

	"github.com/meshswarm/meshswarm/raft/state"
)

// The characters that Swarm allows (swarmkit manager/constraint).
var (
	constraintKey   = regexp.MustCompile(`(?i)^[a-z_][a-z0-9\-_.]+$`)
	constraintValue = regexp.MustCompile(`(?i)^[a-z0-9:\-_\s\.\*\(\)\?\+\[\]\\\^\$\|\/]+$`)
)

const (
	nodeLabels   = "node.labels."
	engineLabels = "engine.labels."
)

// constraint is one "key == value" or "key != value".
type constraint struct {
	key, value string
	not        bool
}

// constraints must all hold. One that cannot be parsed never does.
type constraints struct {
	all     []constraint
	invalid bool
}

// CheckConstraints tells what is wrong with the placement constraints of a spec, in Swarm's words; nil if nothing is.
func CheckConstraints(exprs []string) error {
	for _, e := range exprs {
		if _, err := parseConstraint(e); err != nil {
			return err
		}
	}
	return nil
}

func parseConstraints(exprs []string) constraints {
	var c constraints
	for _, e := range exprs {
		one, err := parseConstraint(e)
		if err != nil {
			c.invalid = true
			continue
		}
		c.all = append(c.all, one)
	}
	return c
}

func parseConstraint(expr string) (constraint, error) {
	for _, op := range []string{"==", "!="} {
		key, value, ok := strings.Cut(expr, op)
		if !ok {
			continue
		}
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		if !constraintKey.MatchString(key) {
			return constraint{}, fmt.Errorf("key '%s' is invalid", key)
		}
		if !constraintValue.MatchString(value) {
			return constraint{}, fmt.Errorf("value '%s' is invalid", value)
		}
		return constraint{key: key, value: value, not: op == "!="}, nil
	}
	return constraint{}, fmt.Errorf("constraint expected one operator from ==, !=: %q", expr)
}

func (cs constraints) match(n *state.Node) bool {
	if cs.invalid {
		return false
	}
	for _, c := range cs.all {
		if !c.match(n) {
			return false
		}
	}
	return true
}

func (c constraint) match(n *state.Node) bool {
	switch key := strings.ToLower(c.key); {
	case key == "node.id":
		return c.is(n.ID)
	case key == "node.hostname":
		return c.is(n.Description.Hostname)
	case key == "node.ip":
		return c.matchIP(n.Status.Addr)
	case key == "node.role":
		return c.is(string(n.Role))
	case key == "node.platform.os":
		return c.is(n.Description.Platform.OS)
	case key == "node.platform.arch":
		return c.is(n.Description.Platform.Architecture)
	case len(key) > len(nodeLabels) && strings.HasPrefix(key, nodeLabels):
		return c.is(n.Spec.Labels[c.key[len(nodeLabels):]])
	case len(key) > len(engineLabels) && strings.HasPrefix(key, engineLabels):
		return c.is(n.Description.Engine.Labels[c.key[len(engineLabels):]])
	}
	return false
}

func (c constraint) is(what string) bool { return strings.EqualFold(c.value, what) != c.not }

func (c constraint) matchIP(addr string) bool {
	ip, err := netip.ParseAddr(addr)
	if err != nil {
		return c.not
	}
	if a, err := netip.ParseAddr(c.value); err == nil {
		return (a.Unmap() == ip.Unmap()) != c.not
	}
	if p, err := netip.ParsePrefix(c.value); err == nil {
		return p.Contains(ip.Unmap()) != c.not
	}
	return false
}
