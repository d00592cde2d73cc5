package sched

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// knownKeys are the keys of constraints; the last two go on with the name of a label.
var knownKeys = []string{"node.id", "node.hostname", "node.ip", "node.role", "node.platform.os", "node.platform.arch", nodeLabels, engineLabels}

// noName stands for a label that was not named.
const noName = "NAME"

// CheckConstraints tells what is wrong with the placement constraints of a spec: what Swarm would refuse, in its words,
// and what in Swarm would only never match: unknown keys (naming the known one that is nearest), values that no node can
// have, and constraints that exclude each other. nil if nothing is wrong.
func CheckConstraints(exprs []string) error {
	seen := make(map[string][]constraint) // by canonical key, each value once: so a long list costs its length
	for _, e := range exprs {
		c, err := parseConstraint(e)
		if err != nil {
			return err
		}
		if err := c.possible(); err != nil {
			return err
		}
		key, known := c.canonical(), false
		for _, o := range seen[key] {
			if o.excludes(c, key) {
				return fmt.Errorf("constraints %q and %q contradict each other: no node can satisfy both", o.text, c.text)
			}
			known = known || o.not == c.not && o.value == c.value
		}
		if !known {
			seen[key] = append(seen[key], c)
		}
	}
	return nil
}

// possible refuses keys that do not exist, and values that no node can have.
func (c *constraint) possible() error {
	key := c.canonical()
	if !slices.ContainsFunc(knownKeys, func(k string) bool {
		if strings.HasSuffix(k, ".") {
			return strings.HasPrefix(key, k) && len(key) > len(k)
		}
		return k == key
	}) {
		if near := nearestKey(c.key); near != "" {
			return fmt.Errorf("constraint %q: unknown key '%s': did you mean %s?", c.text, c.key, near)
		}
		return fmt.Errorf("constraint %q: unknown key '%s': the keys are %s", c.text, c.key, keyList())
	}
	switch key {
	case "node.role":
		if !slices.Contains([]string{"manager", "worker"}, strings.ToLower(c.value)) {
			return fmt.Errorf("constraint %q: a node's role is manager or worker", c.text)
		}
	case "node.ip":
		if _, ok := c.prefix(); !ok {
			return fmt.Errorf("constraint %q: want an IP address or a prefix like 192.0.2.0/24", c.text)
		}
	}
	return nil
}

// canonical is the key with everything but the name of a label in lower case.
func (c *constraint) canonical() string {
	for _, prefix := range []string{nodeLabels, engineLabels} {
		if name, ok := cutFold(c.key, prefix); ok {
			return prefix + name
		}
	}
	return strings.ToLower(c.key)
}

// excludes tells whether no node can satisfy both; key is the canonical key that they share.
func (c *constraint) excludes(o constraint, key string) bool {
	if key == "node.role" && c.not && o.not {
		return !strings.EqualFold(c.value, o.value) // there are two
	}
	if c.not && o.not {
		return false
	}
	if key == "node.ip" {
		return excludesIP(c, &o)
	}
	same := strings.EqualFold(c.value, o.value)
	if key == "node.platform.arch" {
		same = arch(c.value) == arch(o.value)
	}
	return same == (c.not != o.not)
}

// excludesIP: two networks exclude each other if they have no address in common, or if one has nothing that the other
// does not rule out.
func excludesIP(a, b *constraint) bool {
	if a.not {
		a, b = b, a
	}
	p, okP := a.prefix()
	q, okQ := b.prefix()
	if !okP || !okQ {
		return false
	}
	if b.not {
		return q.Bits() <= p.Bits() && q.Contains(p.Addr())
	}
	return !p.Overlaps(q)
}

// prefix is the value of a constraint on addresses.
func (c *constraint) prefix() (netip.Prefix, bool) {
	if a, err := netip.ParseAddr(c.value); err == nil {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), true
	}
	p, err := netip.ParsePrefix(c.value)
	return p.Masked(), err == nil
}

// nearestKey is the known key that was most likely meant; "" if none is near. The name of a label stays as it is.
func nearestKey(key string) string {
	best, least := "", 0
	for _, known := range knownKeys {
		meant, compared := known, known
		if strings.HasSuffix(known, ".") {
			name := labelName(key)
			meant, compared = known+name, known+name
			if name == noName {
				compared = strings.TrimSuffix(known, ".")
			}
		}
		lower, compared := strings.ToLower(key), strings.ToLower(compared)
		d := editDistance(lower, compared)
		if _, short, _ := strings.Cut(compared, "."); !strings.Contains(key, ".") || strings.HasPrefix(lower, "label") {
			d = min(d, editDistance(lower, short)) // the "node." may have been left out
		}
		if d <= max(2, len(known)/4) && (best == "" || d < least) {
			best, least = meant, d
		}
	}
	return best
}

// labelName is what in a key that should have been a label's is the name: all behind the second dot, or behind
// the first if the "node." was left out.
func labelName(key string) string {
	parts := strings.SplitN(key, ".", 3)
	switch {
	case len(parts) == 3 && strings.HasPrefix(strings.ToLower(parts[0]), "label"):
		return parts[1] + "." + parts[2]
	case len(parts) == 3 && parts[2] != "":
		return parts[2]
	case len(parts) == 2 && strings.HasPrefix(strings.ToLower(parts[0]), "label") && parts[1] != "":
		return parts[1]
	}
	return noName
}

func keyList() string {
	var list []string
	for _, k := range knownKeys {
		if strings.HasSuffix(k, ".") {
			k += noName
		}
		list = append(list, k)
	}
	return strings.Join(list[:len(list)-1], ", ") + " and " + list[len(list)-1]
}

// editDistance is Levenshtein's: how many characters must be put in, taken out or changed.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
