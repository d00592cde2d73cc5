package sched

// topic is what several nodes want to hear of: what concerns everybody, one network, or one node. It lists its rows by
// their last change, so that what changed since any time is found from the end, without looking at the rest.
type topic struct {
	network string // whose network's topic it is; "" for others
	// first and last are the ends of the list of rows, the latest change last.
	first, last *place
	rows        int
	// gone are the rows that left, the latest last; of those that left up to floor nothing is known.
	gone  []goneRow
	floor uint64
	// listeners are the nodes that have tasks in the network.
	listeners map[string]struct{}
}

// place is a row's place in one topic.
type place struct {
	row        *row
	topic      *topic
	prev, next *place
}

type goneRow struct {
	kind    rowKind
	key     string
	version uint64
}

// minGone is how many rows that left a topic remembers at least; it is as many as it has rows, if those are more.
const minGone = 256

// newTopic returns an empty topic that knows what happens after index.
func newTopic(network string, index uint64) *topic {
	return &topic{network: network, floor: index, listeners: map[string]struct{}{}}
}

// add puts p at the end.
func (t *topic) add(p *place) {
	p.prev, p.next = t.last, nil
	if t.last != nil {
		t.last.next = p
	} else {
		t.first = p
	}
	t.last = p
	t.rows++
}

// cut takes p out.
func (t *topic) cut(p *place) {
	if p.prev != nil {
		p.prev.next = p.next
	} else {
		t.first = p.next
	}
	if p.next != nil {
		p.next.prev = p.prev
	} else {
		t.last = p.prev
	}
	t.rows--
}

// lose takes p out for good: who had its row is told.
func (t *topic) lose(p *place, version uint64) {
	t.cut(p)
	t.gone = append(t.gone, goneRow{p.row.kind, p.row.key, version})
	if limit := max(minGone, t.rows); len(t.gone) > 2*limit {
		old := len(t.gone) - limit
		t.floor = t.gone[old-1].version
		t.gone = append([]goneRow(nil), t.gone[old:]...)
	}
}

// since calls fn for the rows that changed after version, the latest first.
func (t *topic) since(version uint64, fn func(*row)) {
	for p := t.last; p != nil && p.row.version > version; p = p.prev {
		fn(p.row)
	}
}

// goneSince calls fn for the rows that left after version, the latest first.
func (t *topic) goneSince(version uint64, fn func(goneRow)) {
	for i := len(t.gone) - 1; i >= 0 && t.gone[i].version > version; i-- {
		fn(t.gone[i])
	}
}

// empty tells whether nobody needs the topic.
func (t *topic) empty() bool { return t.rows == 0 && len(t.listeners) == 0 }
