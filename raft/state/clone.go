package state

import (
	"maps"
	"reflect"
	"slices"
)

// Kind implements Object.
func (c *Cluster) Kind() Kind { return KindCluster }

// Kind implements Object.
func (n *Node) Kind() Kind { return KindNode }

// Kind implements Object.
func (s *Service) Kind() Kind { return KindService }

// Kind implements Object.
func (r *Revision) Kind() Kind { return KindRevision }

// Kind implements Object.
func (t *Task) Kind() Kind { return KindTask }

// Kind implements Object.
func (n *Network) Kind() Kind { return KindNetwork }

// Key implements Object.
func (c *Cluster) Key() string { return ClusterKey }

// Key implements Object.
func (n *Node) Key() string { return n.ID }

// Key implements Object.
func (s *Service) Key() string { return s.ID }

// Key implements Object.
func (r *Revision) Key() string { return RevisionKey(r.ServiceID, r.SpecVersion) }

// Key implements Object.
func (t *Task) Key() string { return t.ID }

// Key implements Object.
func (n *Network) Key() string { return n.ID }

// Clone returns a copy that shares nothing with c.
func (c *Cluster) Clone() *Cluster { return deepClone(c) }

// Clone returns a copy that shares nothing with s.
func (s *Service) Clone() *Service { return deepClone(s) }

// Clone returns a copy that shares nothing with r.
func (r *Revision) Clone() *Revision { return deepClone(r) }

// Clone returns a copy that shares nothing with n.
func (n *Network) Clone() *Network { return deepClone(n) }

// Clone returns a copy whose labels, prefixes and port errors are its own; the rest of the description, which a node
// reports as a whole, is shared. By hand, because nodes change with every heartbeat that tells something new.
func (n *Node) Clone() *Node {
	c := *n
	c.Spec.Labels = maps.Clone(n.Spec.Labels)
	c.Description.Resources.GenericResources = slices.Clone(n.Description.Resources.GenericResources)
	c.Description.Engine.Labels = maps.Clone(n.Description.Engine.Labels)
	c.Description.Engine.Plugins = slices.Clone(n.Description.Engine.Plugins)
	c.HostPrefixes = slices.Clone(n.HostPrefixes)
	c.PortErrors = maps.Clone(n.PortErrors)
	c.Downs = slices.Clone(n.Downs)
	return &c
}

// Clone returns a copy that shares nothing with t. By hand, because tasks are what changes most.
func (t *Task) Clone() *Task {
	c := *t
	if t.Status.ContainerStatus != nil {
		s := *t.Status.ContainerStatus
		c.Status.ContainerStatus = &s
	}
	c.Status.PortStatus.Ports = slices.Clone(t.Status.PortStatus.Ports)
	c.Networks = slices.Clone(t.Networks)
	for i := range c.Networks {
		c.Networks[i].Addresses = slices.Clone(c.Networks[i].Addresses)
		c.Networks[i].Aliases = slices.Clone(c.Networks[i].Aliases)
	}
	c.GenericResources = slices.Clone(t.GenericResources)
	return &c
}

// CloneObject implements Object.
func (c *Cluster) CloneObject() Object { return c.Clone() }

// CloneObject implements Object.
func (n *Node) CloneObject() Object { return n.Clone() }

// CloneObject implements Object.
func (s *Service) CloneObject() Object { return s.Clone() }

// CloneObject implements Object.
func (r *Revision) CloneObject() Object { return r.Clone() }

// CloneObject implements Object.
func (t *Task) CloneObject() Object { return t.Clone() }

// CloneObject implements Object.
func (n *Network) CloneObject() Object { return n.Clone() }

// deepClone copies everything that p points to, however Docker's spec types grow.
func deepClone[T any](p *T) *T {
	if p == nil {
		return nil
	}
	c := new(T)
	*c = *p
	deepen(reflect.ValueOf(c).Elem())
	return c
}

// deepen replaces, in place, every pointer, slice and map below v by a copy. Structs with unexported fields (time.Time,
// netip.Addr) are plain values and stay.
func deepen(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() && v.CanSet() {
			c := reflect.New(v.Type().Elem())
			c.Elem().Set(v.Elem())
			deepen(c.Elem())
			v.Set(c)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Field(i).CanSet() {
				deepen(v.Field(i))
			}
		}
	case reflect.Slice:
		if v.IsNil() {
			return
		}
		c := reflect.MakeSlice(v.Type(), v.Len(), v.Len())
		reflect.Copy(c, v)
		if !plain(v.Type().Elem().Kind()) {
			for i := range c.Len() {
				deepen(c.Index(i))
			}
		}
		v.Set(c)
	case reflect.Map:
		if v.IsNil() {
			return
		}
		c := reflect.MakeMapWithSize(v.Type(), v.Len())
		for it := v.MapRange(); it.Next(); {
			e := reflect.New(v.Type().Elem()).Elem()
			e.Set(it.Value())
			deepen(e)
			c.SetMapIndex(it.Key(), e)
		}
		v.Set(c)
	}
}

func plain(k reflect.Kind) bool {
	return k <= reflect.Complex128 || k == reflect.String
}
