package api

import (
	"slices"
	"strings"

	"github.com/docker/docker/api/types/filters"
)

// keySet is what filters.Args.Validate wants.
func keySet(keys ...string) map[string]bool {
	out := make(map[string]bool, len(keys))
	for _, k := range keys {
		out[k] = true
	}
	return out
}

// matchPrefix: any of the field's values is a prefix of one of the candidates, or the field is not filtered.
func matchPrefix(f filters.Args, field string, candidates ...string) bool {
	values := f.Get(field)
	if len(values) == 0 {
		return true
	}
	return slices.ContainsFunc(values, func(v string) bool {
		return slices.ContainsFunc(candidates, func(c string) bool { return strings.HasPrefix(c, v) })
	})
}

// matchAny: the field is not filtered, or has the value.
func matchAny(f filters.Args, field, value string) bool {
	values := f.Get(field)
	return len(values) == 0 || slices.Contains(values, value)
}

// matchLabels: every "key" or "key=value" of the field is among the labels. An empty value matches any, as in Swarm.
func matchLabels(f filters.Args, field string, labels map[string]string) bool {
	for _, kv := range f.Get(field) {
		k, want, _ := strings.Cut(kv, "=")
		if have, ok := labels[k]; !ok || want != "" && want != have {
			return false
		}
	}
	return true
}
