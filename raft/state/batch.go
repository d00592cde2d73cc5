package state

import "time"

// Action is what an Op does.
type Action string

// The actions of an Op.
const (
	Create Action = "create"
	Update Action = "update"
	Delete Action = "delete"
)

// Op is one change of one object.
type Op struct {
	Action Action
	Object Object
	// Expected is Header.Modified of the object that the proposer read; Apply refuses the whole batch with ErrSequence if
	// the stored object has another. Must be set for Update; 0 on Delete means "whatever it is now".
	Expected uint64
	// SpecChange moves Meta.Version and UpdatedAt: a person changed the spec.
	SpecChange bool
}

// Batch is the unit of change: applied whole or not at all.
type Batch struct {
	Ops []Op
	// Time is the proposer's clock; Apply takes all its timestamps from here.
	Time time.Time
}
