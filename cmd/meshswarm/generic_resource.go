package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/cli/opts"
	"github.com/docker/docker/api/types/swarm"
)

// checkGenericResource is the validator of flags that take KIND=N or KIND=NAME.
func checkGenericResource(term string) (string, error) {
	kind, v, ok := strings.Cut(term, "=")
	if !ok || !plainWord(kind) || !plainWord(v) {
		return "", fmt.Errorf("invalid generic-resource format %q: write KIND=NUMBER, or KIND=NAME for each single one, as GPU=2 or GPU=UUID1", term)
	}
	return term, nil
}

// plainWord tells whether a kind or name can stand in DOCKER_RESOURCE_KIND=NAME,NAME.
func plainWord(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == '=' || r == ',' || r == 0x7f })
}

// parseGenericResources reads what a node has: KIND=N for a number of equal ones, or KIND=NAME once for each one that
// has a name. One kind is either counted or named. The result is sorted by kind, then name.
func parseGenericResources(terms []string) ([]swarm.GenericResource, error) {
	var list []swarm.GenericResource
	for _, term := range terms {
		kind, v, _ := strings.Cut(term, "=")
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			list = append(list, swarm.GenericResource{NamedResourceSpec: &swarm.NamedGenericResource{Kind: kind, Value: v}})
			continue
		}
		if n < 0 {
			return nil, fmt.Errorf("generic-resource %s: there cannot be less than 0 of it", term)
		}
		list = append(list, swarm.GenericResource{DiscreteResourceSpec: &swarm.DiscreteGenericResource{Kind: kind, Value: n}})
	}
	slices.SortFunc(list, func(a, b swarm.GenericResource) int {
		return cmp.Or(strings.Compare(resourceKind(a), resourceKind(b)), strings.Compare(resourceName(a), resourceName(b)))
	})
	for i := 1; i < len(list); i++ {
		a, b := list[i-1], list[i]
		if resourceKind(a) != resourceKind(b) {
			continue
		}
		if a.DiscreteResourceSpec != nil && b.NamedResourceSpec != nil {
			return nil, fmt.Errorf("generic-resource %s is given as a number and by name: write one of both", resourceKind(a))
		}
		if resourceName(a) == resourceName(b) {
			return nil, fmt.Errorf("generic-resource %s is given twice", genericResource(b))
		}
	}
	return list, nil
}

func resourceKind(r swarm.GenericResource) string {
	if r.NamedResourceSpec != nil {
		return r.NamedResourceSpec.Kind
	}
	return valueOf(r.DiscreteResourceSpec).Kind
}

// resourceName is empty for a resource that is counted.
func resourceName(r swarm.GenericResource) string { return valueOf(r.NamedResourceSpec).Value }

// genericResource writes a resource as the flags do.
func genericResource(r swarm.GenericResource) string {
	if r.NamedResourceSpec != nil {
		return r.NamedResourceSpec.Kind + "=" + r.NamedResourceSpec.Value
	}
	return fmt.Sprintf("%s=%d", resourceKind(r), valueOf(r.DiscreteResourceSpec).Value)
}

// resourceList writes several as people read them.
func resourceList(list []swarm.GenericResource) string {
	words := make([]string, len(list))
	for i, r := range list {
		words[i] = genericResource(r)
	}
	return strings.Join(words, ", ")
}

func newResourceList() opts.ListOpts { return opts.NewListOpts(checkGenericResource) }

// requestedResources reads what each task of a service needs: numbers only, the scheduler picks the names.
func requestedResources(terms []string) ([]swarm.GenericResource, error) {
	list, err := parseGenericResources(terms)
	if err != nil {
		return nil, err
	}
	for _, r := range list {
		if r.NamedResourceSpec != nil {
			return nil, fmt.Errorf("invalid generic-resource request %q: a service asks for a number of a kind, as %s=1, and the scheduler picks which",
				genericResource(r), resourceKind(r))
		}
	}
	return list, nil
}

// changeResources removes by kind, and adds or replaces.
func changeResources(list []swarm.GenericResource, add, remove []string) ([]swarm.GenericResource, error) {
	added, err := requestedResources(add)
	if err != nil {
		return nil, err
	}
	has := func(list []swarm.GenericResource, kind string) bool {
		return slices.ContainsFunc(list, func(r swarm.GenericResource) bool { return resourceKind(r) == kind })
	}
	for _, kind := range remove {
		if strings.Contains(kind, "=") {
			return nil, fmt.Errorf("--generic-resource-rm %s: write the kind alone", kind)
		}
		if !has(list, kind) {
			return nil, errors.New("could not find generic-resource " + kind + " to remove it")
		}
		list = slices.DeleteFunc(slices.Clone(list), func(r swarm.GenericResource) bool { return resourceKind(r) == kind })
	}
	list = slices.DeleteFunc(slices.Clone(list), func(r swarm.GenericResource) bool { return has(added, resourceKind(r)) })
	list = append(list, added...)
	slices.SortFunc(list, func(a, b swarm.GenericResource) int { return strings.Compare(resourceKind(a), resourceKind(b)) })
	return list, nil
}

// placementPrefs is --placement-pref: spread=LABEL, most important first.
type placementPrefs []swarm.PlacementPreference

// Set implements value.
func (o *placementPrefs) Set(s string) error {
	strategy, over, ok := strings.Cut(s, "=")
	switch {
	case !ok || strategy == "" || over == "":
		return errors.New(`placement preference must be of the format "spread=node.labels.LABEL" or "spread=engine.labels.LABEL"`)
	case strategy != "spread":
		return fmt.Errorf("unsupported placement preference %s (only spread is supported)", strategy)
	}
	*o = append(*o, swarm.PlacementPreference{Spread: &swarm.SpreadOver{SpreadDescriptor: over}})
	return nil
}

func (o *placementPrefs) String() string {
	words := make([]string, len(*o))
	for i, p := range *o {
		words[i] = prefText(p)
	}
	return strings.Join(words, ", ")
}

// Type implements value.
func (*placementPrefs) Type() string { return "pref" }

func prefText(p swarm.PlacementPreference) string {
	return "spread=" + valueOf(p.Spread).SpreadDescriptor
}

// changePrefs removes what has the same words, and adds at the end.
func changePrefs(list, add, remove []swarm.PlacementPreference) []swarm.PlacementPreference {
	list = slices.DeleteFunc(slices.Clone(list), func(p swarm.PlacementPreference) bool {
		return slices.ContainsFunc(remove, func(r swarm.PlacementPreference) bool { return prefText(r) == prefText(p) })
	})
	return append(list, add...)
}
