package state

import (
	"context"
	"errors"
	"io"

	"github.com/docker/docker/api/types/swarm"
)

// Errors of Apply. A batch that earns one changed nothing.
var (
	ErrExists       = errors.New("object already exists")
	ErrNameConflict = errors.New("name conflicts with an existing object")
	ErrNotFound     = errors.New("object does not exist")
	ErrSequence     = errors.New("update out of sequence")
	// ErrTaken: an address, VIP or ingress port of the batch already has another owner.
	ErrTaken = errors.New("already taken")
	// ErrLagged ends a Watch that fell too far behind.
	ErrLagged = errors.New("watch lagged behind")
)

// Store holds the cluster's objects.
type Store struct{ impl }

type impl struct{}

// New returns an empty store.
func New() *Store { panic("contract") }

// Apply changes the store by one batch, at a raft index. Deterministic.
func (s *Store) Apply(index uint64, b Batch) error { panic("contract") }

// Index is the raft index of the last applied batch (also of refused ones).
func (s *Store) Index() uint64 { panic("contract") }

// View is an immutable snapshot.
func (s *Store) View() View { panic("contract") }

// ViewAndWatch gives a snapshot and the changes after it in one atomic step. Close the watch when done.
func (s *Store) ViewAndWatch() (View, *Watch) { panic("contract") }

// WaitIndex blocks until the store has applied index.
func (s *Store) WaitIndex(ctx context.Context, index uint64) error { panic("contract") }

// Snapshot writes all objects of a view; Restore replaces the store's content with what Snapshot wrote.
func (v View) Snapshot(w io.Writer) error  { panic("contract") }
func (s *Store) Restore(r io.Reader) error { panic("contract") }

// Encode and DecodeBatch are the log entry's form: one version byte, then the content.
func (b Batch) Encode() ([]byte, error)      { panic("contract") }
func DecodeBatch(data []byte) (Batch, error) { panic("contract") }

// Change is what one Op did. Old is nil for Create, New is nil for Delete.
type Change struct{ Old, New Object }

// Commit is what one batch did.
type Commit struct {
	Index   uint64
	Changes []Change
}

// Watch delivers commits in order.
type Watch struct{}

// Next blocks until there is at least one commit after the last delivered one and returns all there are.
func (w *Watch) Next(ctx context.Context) ([]Commit, error) { panic("contract") }

// Close ends the watch.
func (w *Watch) Close() { panic("contract") }

// View is an immutable snapshot of the store. Objects are shared: never change them. Slices are the caller's.
// A getter returns nil where nothing is there.
type View struct{}

func (v View) Index() uint64                                    { panic("contract") }
func (v View) Cluster() *Cluster                                { panic("contract") }
func (v View) Node(id string) *Node                             { panic("contract") }
func (v View) Nodes() []*Node                                   { panic("contract") }
func (v View) Service(id string) *Service                       { panic("contract") }
func (v View) ServiceByName(name string) *Service               { panic("contract") }
func (v View) Services() []*Service                             { panic("contract") }
func (v View) Revision(serviceID string, spec uint64) *Revision { panic("contract") }
func (v View) Revisions(serviceID string) []*Revision           { panic("contract") }
func (v View) Task(id string) *Task                             { panic("contract") }
func (v View) Tasks() []*Task                                   { panic("contract") }
func (v View) TasksByService(id string) []*Task                 { panic("contract") }
func (v View) TasksByNode(id string) []*Task                    { panic("contract") }
func (v View) TasksBySlot(serviceID string, slot int) []*Task   { panic("contract") }
func (v View) Network(id string) *Network                       { panic("contract") }
func (v View) NetworkByName(name string) *Network               { panic("contract") }
func (v View) Networks() []*Network                             { panic("contract") }

// ByIDPrefix lists the keys of a kind that start with prefix, at most limit (lookups by truncated ID).
func (v View) ByIDPrefix(kind Kind, prefix string, limit int) []Object { panic("contract") }

// Rank orders task states: a task's observed and desired state only grow.
func Rank(s swarm.TaskState) int { panic("contract") }

// NewID returns a random 25-character base36 identifier, as Swarm's.
func NewID() string { panic("contract") }

// RevisionKey is the primary key of a Revision.
func RevisionKey(serviceID string, specVersion uint64) string { panic("contract") }

// TaskName is service.slot.taskid.
func (t *Task) Name() string { panic("contract") }
