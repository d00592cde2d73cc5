package state

func (c *Cluster) Kind() Kind  { return KindCluster }
func (n *Node) Kind() Kind     { return KindNode }
func (s *Service) Kind() Kind  { return KindService }
func (r *Revision) Kind() Kind { return KindRevision }
func (t *Task) Kind() Kind     { return KindTask }
func (n *Network) Kind() Kind  { return KindNetwork }

func (c *Cluster) Key() string  { return ClusterKey }
func (n *Node) Key() string     { return n.ID }
func (s *Service) Key() string  { return s.ID }
func (r *Revision) Key() string { return RevisionKey(r.ServiceID, r.SpecVersion) }
func (t *Task) Key() string     { return t.ID }
func (n *Network) Key() string  { return n.ID }

// Clone methods return copies whose top-level fields, and the maps and slices that proposers change, are their own.
func (c *Cluster) Clone() *Cluster   { panic("contract") }
func (n *Node) Clone() *Node         { panic("contract") }
func (s *Service) Clone() *Service   { panic("contract") }
func (r *Revision) Clone() *Revision { panic("contract") }
func (t *Task) Clone() *Task         { panic("contract") }
func (n *Network) Clone() *Network   { panic("contract") }

func (c *Cluster) CloneObject() Object  { return c.Clone() }
func (n *Node) CloneObject() Object     { return n.Clone() }
func (s *Service) CloneObject() Object  { return s.Clone() }
func (r *Revision) CloneObject() Object { return r.Clone() }
func (t *Task) CloneObject() Object     { return t.Clone() }
func (n *Network) CloneObject() Object  { return n.Clone() }
