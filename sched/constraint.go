package sched

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
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
	text       string // as it was written
	key, value string
	not        bool
}

// constraints must all hold. One that cannot be parsed, or whose key is unknown, never does.
type constraints struct {
	all     []constraint
	invalid []string // those that cannot be parsed
}

func parseConstraints(exprs []string) constraints {
	var c constraints
	for _, e := range exprs {
		one, err := parseConstraint(e)
		if err != nil {
			c.invalid = append(c.invalid, e)
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
		return constraint{text: expr, key: key, value: value, not: op == "!="}, nil
	}
	return constraint{}, fmt.Errorf("constraint expected one operator from ==, !=: %q", expr)
}

// any tells whether there is something to match at all.
func (cs constraints) any() bool { return len(cs.all) > 0 || len(cs.invalid) > 0 }

// texts are all constraints as they were written.
func (cs constraints) texts() []string {
	list := slices.Clone(cs.invalid)
	for i := range cs.all {
		list = append(list, cs.all[i].text)
	}
	return list
}

func (cs constraints) match(n *state.Node) bool {
	if len(cs.invalid) > 0 {
		return false
	}
	for i := range cs.all {
		if !cs.all[i].match(n) {
			return false
		}
	}
	return true
}

// broken names the first constraint that a node does not satisfy, with what the node has; "" if it satisfies all.
func (cs constraints) broken(n *state.Node) string {
	if len(cs.invalid) > 0 {
		return fmt.Sprintf("%q is no constraint", cs.invalid[0])
	}
	for i := range cs.all {
		c := &cs.all[i]
		if c.match(n) {
			continue
		}
		switch what, known := c.of(n); {
		case !known:
			return fmt.Sprintf("%q: unknown key", c.text)
		case what == "":
			return fmt.Sprintf("%q: it has none", c.text)
		default:
			return fmt.Sprintf("%q: it has %s", c.text, what)
		}
	}
	return ""
}

func (c *constraint) match(n *state.Node) bool {
	what, known := c.of(n)
	switch {
	case !known:
		return false
	case strings.EqualFold(c.key, "node.ip"):
		return c.matchIP(what)
	case strings.EqualFold(c.key, "node.platform.arch"):
		return strings.EqualFold(arch(c.value), arch(what)) != c.not // "amd64" is what a node calls "x86_64"
	}
	return strings.EqualFold(c.value, what) != c.not
}

// of is what a node has for the constraint's key; false if there is no such key. The names of labels tell cases apart.
func (c *constraint) of(n *state.Node) (value string, known bool) {
	switch key := strings.ToLower(c.key); {
	case key == "node.id":
		return n.ID, true
	case key == "node.hostname":
		return n.Description.Hostname, true
	case key == "node.ip":
		return n.Status.Addr, true
	case key == "node.role":
		return string(n.Role), true
	case key == "node.platform.os":
		return n.Description.Platform.OS, true
	case key == "node.platform.arch":
		return n.Description.Platform.Architecture, true
	}
	return label(n, c.key)
}

// label is a node's value for "node.labels.X" or "engine.labels.X"; false if key is neither.
func label(n *state.Node, key string) (value string, known bool) {
	if name, ok := cutFold(key, nodeLabels); ok {
		return n.Spec.Labels[name], true
	}
	if name, ok := cutFold(key, engineLabels); ok {
		return n.Description.Engine.Labels[name], true
	}
	return "", false
}

// cutFold takes a prefix, in any case, off something longer.
func cutFold(s, prefix string) (rest string, ok bool) {
	if len(s) <= len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return "", false
	}
	return s[len(prefix):], true
}

func (c *constraint) matchIP(addr string) bool {
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
