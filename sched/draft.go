package sched

import (
	"iter"
	"slices"
	"time"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/raft/state"
)

// maxOps is how many changes go into one batch (Swarm's number, too).
const maxOps = 200

// draft is what the current pass wants to change: the objects as they were before it, in order of their first change.
type draft struct {
	open    bool
	unit    int
	entries []draftEntry
	seen    map[objectKey]struct{} // but for tasks, which have it themselves
	specs   map[objectKey]struct{} // of these the user's spec changed
}

type objectKey struct {
	kind state.Kind
	key  string
}

type draftEntry struct {
	any  state.Object // some version of the object, to find it by
	was  state.Object // as it was before the pass; nil: the pass created it
	unit int
}

// batch is a part of a draft, with what is needed to take it back.
type batch struct {
	state.Batch
	entries []draftEntry
}

// begin opens a pass.
func (b *board) begin(at time.Time) {
	b.now = at
	b.awake()
	b.endHolds()
	b.pass++
	b.draft = draft{open: true, seen: map[objectKey]struct{}{}, specs: map[objectKey]struct{}{}}
}

// together marks the start of changes that shall be in one batch.
func (b *board) together() { b.draft.unit++ }

// put drafts an object, which must be the caller's own copy.
func (b *board) put(o state.Object) {
	if t, ok := o.(*state.Task); ok {
		b.putTask(t)
		return
	}
	b.remember(o)
	b.set(o)
}

func (b *board) putTask(t *state.Task) {
	i := b.tasks[t.ID]
	if i == nil {
		b.draft.entries = append(b.draft.entries, draftEntry{t, nil, b.draft.unit})
		b.setTask(t.ID, t)
		b.tasks[t.ID].pass = b.pass
		return
	}
	b.change(i, t)
}

// change drafts the next version of a task that is on the board.
func (b *board) change(i *taskInfo, t *state.Task) {
	if i.pass != b.pass {
		i.pass = b.pass
		b.draft.entries = append(b.draft.entries, draftEntry{t, i.Task, b.draft.unit})
	}
	b.changeTask(i, t)
}

// putSpec drafts a service whose spec is another: clients that saw the one before are told so when they update it.
func (b *board) putSpec(s *state.Service) {
	b.put(s)
	b.draft.specs[objectKey{s.Kind(), s.Key()}] = struct{}{}
}

// drop drafts the deletion of an object that is on the board.
func (b *board) drop(o state.Object) {
	b.remember(o)
	b.unset(o)
}

func (b *board) remember(o state.Object) {
	if t, ok := o.(*state.Task); ok {
		if i := b.tasks[t.ID]; i == nil || i.pass == b.pass {
			return
		}
		b.draft.entries = append(b.draft.entries, draftEntry{o, b.get(o), b.draft.unit})
		return
	}
	id := objectKey{o.Kind(), o.Key()}
	if _, ok := b.draft.seen[id]; ok {
		return
	}
	b.draft.seen[id] = struct{}{}
	b.draft.entries = append(b.draft.entries, draftEntry{o, b.get(o), b.draft.unit})
}

// setStatus drafts a task's new status.
func (b *board) setStatus(t *state.Task, s swarm.TaskState, message, err string) *state.Task {
	c := *t
	c.Status.Timestamp, c.Status.State, c.Status.Message, c.Status.Err = b.now, s, message, err
	b.put(&c)
	return &c
}

// setDesired drafts a task's new desired state. A task that never got a node has nothing to stop: it is over at once.
func (b *board) setDesired(t *state.Task, s swarm.TaskState) *state.Task {
	if state.Rank(t.DesiredState) >= state.Rank(s) {
		return t
	}
	c := *t
	c.DesiredState = s
	if state.Rank(s) >= state.Rank(swarm.TaskStateShutdown) && state.Rank(t.Status.State) < state.Rank(swarm.TaskStateAssigned) {
		c.Status = swarm.TaskStatus{Timestamp: b.now, State: swarm.TaskStateShutdown, Message: "shutdown before it was assigned", Err: t.Status.Err}
	}
	b.put(&c)
	return &c
}

// end closes a pass and cuts its draft into batches of at most limit changes. If there are several, the early ones hold
// what the changes of tasks rely on (subnets, virtual IPs): the later ones may only be proposed when they were accepted.
func (b *board) end(limit int) (early, late []batch) {
	var first, rest []draftEntry
	for e := range units(b.draft.entries) {
		if slices.ContainsFunc(e, func(e draftEntry) bool { return e.any.Kind() == state.KindTask }) {
			rest = append(rest, e...)
		} else {
			first = append(first, e...)
		}
	}
	if len(first)+len(rest) <= limit {
		early = b.cut(append(first, rest...), limit)
	} else {
		early, late = b.cut(first, limit), b.cut(rest, limit)
	}
	b.draft = draft{}
	return early, late
}

// units yields runs of entries that belong together.
func units(entries []draftEntry) iter.Seq[[]draftEntry] {
	return func(yield func([]draftEntry) bool) {
		for len(entries) > 0 {
			n := 1
			for n < len(entries) && entries[n].unit == entries[0].unit {
				n++
			}
			if !yield(entries[:n:n]) {
				return
			}
			entries = entries[n:]
		}
	}
}

// cut makes batches; a unit is cut only if it does not fit into one.
func (b *board) cut(entries []draftEntry, limit int) []batch {
	var out []batch
	var cur batch
	flush := func() {
		if len(cur.Ops) > 0 {
			cur.Time = b.now
			out = append(out, cur)
		}
		cur = batch{}
	}
	for unit := range units(entries) {
		if len(cur.Ops)+len(unit) > limit {
			flush()
		}
		for _, e := range unit {
			if op, ok := b.op(e); ok {
				cur.Ops = append(cur.Ops, op)
				cur.entries = append(cur.entries, e)
			}
			if len(cur.Ops) == maxOps {
				flush()
			}
		}
	}
	flush()
	return out
}

func (b *board) op(e draftEntry) (state.Op, bool) {
	is := b.get(e.any)
	switch {
	case is == nil && e.was == nil:
		return state.Op{}, false
	case is == nil:
		return state.Op{Action: state.Delete, Object: e.was, Expected: e.was.Head().Modified}, true
	case e.was == nil:
		return state.Op{Action: state.Create, Object: is}, true
	}
	spec := false
	if s, ok := is.(*state.Service); ok {
		_, spec = b.draft.specs[objectKey{s.Kind(), s.Key()}]
	}
	return state.Op{Action: state.Update, Object: is, Expected: e.was.Head().Modified, SpecChange: spec}, true
}

// revert takes a refused batch back: the board is again as the commits it has seen, and what the batch was about is
// looked at anew.
func (b *board) revert(r batch) {
	for _, e := range r.entries {
		if t, ok := b.get(e.any).(*state.Task); ok && t.Evicted {
			b.review[t.NodeID] = nil
		}
		o := e.was
		if o != nil {
			b.set(o)
		} else if o = b.get(e.any); o != nil {
			b.unset(o)
		}
		switch o := o.(type) {
		case *state.Task:
			b.dirty[o.ServiceID] = struct{}{}
			b.crowded[placeKey{o.ServiceID, o.Place()}] = struct{}{}
		case *state.Service:
			b.dirty[o.ID] = struct{}{}
		case *state.Revision:
			b.dirty[o.ServiceID] = struct{}{}
		}
	}
	b.freed, b.capacity = true, true
}
