package state

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/docker/api/types/swarm"
	memdb "github.com/hashicorp/go-memdb"
)

// claimTable is the table of everything that may have one owner only.
const claimTable = "claim"

// claim is one unique thing and the object that owns it.
type claim struct {
	thing thing
	kind  Kind
	key   string
}

// thing is the unique thing: a class and what it is called inside the class.
type thing struct {
	class string // see the constants below
	scope string // network ID of an address, kind of a name, protocol of a port
	name  string
}

const (
	classAddr = "address" // in a network
	classMesh = "mesh address"
	className = "name"
	classPort = "published port"
)

func (t thing) String() string {
	switch t.class {
	case classAddr:
		return fmt.Sprintf("address %s in network %s", t.name, t.scope)
	case className:
		return fmt.Sprintf("%s name %q", t.scope, t.name)
	case classPort:
		return fmt.Sprintf("published port %s/%s", t.name, t.scope)
	}
	return t.class + " " + t.name
}

func (t thing) id() string { return t.class + "\x00" + t.scope + "\x00" + t.name }

type claimIndex struct{ stringArgs }

func (claimIndex) FromObject(o interface{}) (bool, []byte, error) {
	return true, term(o.(*claim).thing.id()), nil
}

// moveClaims gives up what changed or deleted objects no longer need, then takes what they need now, each object seen as
// it was before and as it is after all changes. What an object had and keeps is not touched.
func moveClaims(txn *memdb.Txn, changes []Change) error {
	var moved []Change
	for _, c := range net(changes) {
		if !sameClaims(c) {
			moved = append(moved, c)
		}
	}
	for _, c := range moved {
		if c.Old == nil {
			continue
		}
		had, _ := claimsOf(c.Old) // was accepted once, so it has no error
		for _, t := range had {
			if err := dropClaim(txn, t, c.Old); err != nil {
				return err
			}
		}
	}
	for _, c := range moved {
		if c.New == nil {
			continue
		}
		if err := takeClaims(txn, c.New); err != nil {
			return err
		}
	}
	return nil
}

// sameClaims finds the changes, most of all, that leave an object all it has and give it nothing: statuses.
func sameClaims(c Change) bool {
	switch was := c.Old.(type) {
	case *Task:
		is, ok := c.New.(*Task)
		if !ok || Terminal(was.Status.State) != Terminal(is.Status.State) {
			return false
		}
		return Terminal(is.Status.State) || slices.EqualFunc(was.Networks, is.Networks, func(a, b Attachment) bool {
			return a.NetworkID == b.NetworkID && slices.Equal(a.Addresses, b.Addresses)
		})
	case *Node:
		is, ok := c.New.(*Node)
		return ok && was.Mesh.Addr == is.Mesh.Addr
	}
	return false
}

// net folds several changes of one object into one, in order of first appearance.
func net(changes []Change) []Change {
	if len(changes) < 2 {
		return changes
	}
	type id struct {
		kind Kind
		key  string
	}
	at := make(map[id]int, len(changes))
	out := make([]Change, 0, len(changes))
	for _, c := range changes {
		o := c.New
		if o == nil {
			o = c.Old
		}
		k := id{o.Kind(), o.Key()}
		if i, ok := at[k]; ok {
			out[i].New = c.New
			continue
		}
		at[k] = len(out)
		out = append(out, c)
	}
	return out
}

func dropClaim(txn *memdb.Txn, t thing, owner Object) error {
	c, err := claimOf(txn, t)
	if err != nil || c == nil || c.kind != owner.Kind() || c.key != owner.Key() {
		return err
	}
	if err := txn.Delete(claimTable, c); err != nil {
		return fmt.Errorf("free %s: %w", t, err)
	}
	return nil
}

func takeClaims(txn *memdb.Txn, o Object) error {
	wants, err := claimsOf(o)
	if err != nil {
		return fmt.Errorf("%s %s: %w", o.Kind(), o.Key(), err)
	}
	for _, t := range wants {
		c, err := claimOf(txn, t)
		if err != nil {
			return err
		}
		if c != nil && (c.kind != o.Kind() || c.key != o.Key()) {
			sentinel := ErrTaken
			if t.class == className {
				sentinel = ErrNameConflict
			}
			return fmt.Errorf("%s %s: %s of %s %s: %w", o.Kind(), o.Key(), t, c.kind, c.key, sentinel)
		}
		if err := txn.Insert(claimTable, &claim{thing: t, kind: o.Kind(), key: o.Key()}); err != nil {
			return fmt.Errorf("take %s: %w", t, err)
		}
	}
	return nil
}

func claimOf(txn *memdb.Txn, t thing) (*claim, error) {
	raw, err := txn.First(claimTable, byID, t.id())
	if err != nil {
		return nil, fmt.Errorf("look up %s: %w", t, err)
	}
	c, _ := raw.(*claim)
	return c, nil
}

// claimsOf lists what an object owns exclusively.
func claimsOf(o Object) ([]thing, error) {
	switch o := o.(type) {
	case *Task:
		return taskClaims(o), nil
	case *Service:
		return serviceClaims(o)
	case *Network:
		return networkClaims(o)
	case *Node:
		if o.Mesh.Addr.IsValid() {
			return []thing{{class: classMesh, name: o.Mesh.Addr.Unmap().String()}}, nil
		}
	}
	return nil, nil
}

// taskClaims: a task keeps its addresses until it is seen to have ended.
func taskClaims(t *Task) []thing {
	if Terminal(t.Status.State) {
		return nil
	}
	var out []thing
	for _, n := range t.Networks {
		for _, p := range n.Addresses {
			if p.IsValid() {
				out = append(out, addrThing(n.NetworkID, p.Addr()))
			}
		}
	}
	return out
}

// serviceClaims: a service that was removed keeps its VIPs while its tasks stop (old flows use them), but its name and
// its published ports are free for the next one at once.
func serviceClaims(s *Service) ([]thing, error) {
	var out []thing
	for _, v := range s.Endpoint.VirtualIPs {
		if v.Addr == "" {
			continue
		}
		a, err := parseAddr(v.Addr)
		if err != nil {
			return nil, fmt.Errorf("%w: virtual IP %q in network %s", ErrInvalid, v.Addr, v.NetworkID)
		}
		out = append(out, addrThing(v.NetworkID, a))
	}
	if s.PendingDelete {
		return out, nil
	}
	for _, p := range s.Endpoint.Ports {
		if p.PublishedPort == 0 || p.PublishMode == swarm.PortConfigPublishModeHost {
			continue
		}
		proto := p.Protocol
		if proto == "" {
			proto = swarm.PortConfigProtocolTCP
		}
		out = append(out, thing{class: classPort, scope: string(proto), name: strconv.FormatUint(uint64(p.PublishedPort), 10)})
	}
	return append(out, nameThing(KindService, s.Spec.Name)...), nil
}

func networkClaims(n *Network) ([]thing, error) {
	var out []thing
	if n.IPAM != nil {
		for _, c := range n.IPAM.Configs {
			if c.Gateway == "" {
				continue
			}
			a, err := parseAddr(c.Gateway)
			if err != nil {
				return nil, fmt.Errorf("%w: gateway %q", ErrInvalid, c.Gateway)
			}
			out = append(out, addrThing(n.ID, a))
		}
	}
	if n.PendingDelete {
		return out, nil
	}
	return append(out, nameThing(KindNetwork, n.Spec.Name)...), nil
}

// nameThing: names are unique whatever their case, as in Swarm, because DNS does not tell cases apart.
func nameThing(k Kind, name string) []thing {
	if name == "" {
		return nil
	}
	return []thing{{class: className, scope: string(k), name: strings.ToLower(name)}}
}

func addrThing(network string, a netip.Addr) thing {
	return thing{class: classAddr, scope: network, name: a.Unmap().String()}
}

// parseAddr takes an address with or without a prefix length.
func parseAddr(s string) (netip.Addr, error) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p.Addr(), nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("parse address: %w", err)
	}
	return a, nil
}
