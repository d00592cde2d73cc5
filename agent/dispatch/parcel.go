package dispatch

import (
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/meshswarm/meshswarm/agent/rpc"
	"github.com/meshswarm/meshswarm/sched"
)

// maxPart is where an update goes on in another message: a leader that sends everything to many nodes at once holds no more
// than this for each.
const maxPart = 256 << 10

// parcel writes an update as JSON of downMessages. The rows are JSON already, shared by all sessions.
type parcel struct {
	send  func([]byte) error
	seq   uint64 // of the last delta sent
	index uint64
	full  bool // the next part is the first of a full update

	buf     []byte
	empty   bool   // no section was begun in buf
	field   string // of the delta: Set, Remove; "" before the first
	section string // map or list that is open, "" for none
}

// pack sends an update in as many messages as it takes. It changes p.seq.
func (p *parcel) pack(u *sched.Update) error {
	p.index, p.full = u.Index, u.Full
	p.begin()
	for _, rows := range []struct {
		name    string
		entries [][]byte
	}{{"Tasks", u.Set.Tasks}, {"Networks", u.Set.Networks}, {"Services", u.Set.Services}, {"Endpoints", u.Set.Endpoints}, {"Nodes", u.Set.Nodes}} {
		for _, e := range rows.entries {
			if err := p.item("Set", rows.name, '{', e); err != nil {
				return err
			}
		}
	}
	for _, rows := range []struct {
		name string
		keys []string
	}{{"Tasks", u.Remove.Tasks}, {"Networks", u.Remove.Networks}, {"Services", u.Remove.Services}, {"Endpoints", u.Remove.Endpoints}, {"Nodes", u.Remove.Nodes}} {
		for _, k := range rows.keys {
			key, err := json.Marshal(k)
			if err != nil {
				return fmt.Errorf("encode message: %w", err)
			}
			if err := p.item("Remove", rows.name, '[', key); err != nil {
				return err
			}
		}
	}
	return p.end(false)
}

func (p *parcel) begin() {
	p.seq++
	p.buf = append(p.buf[:0], `{"Delta":{"Seq":`...)
	p.buf = strconv.AppendUint(p.buf, p.seq, 10)
	p.buf = append(p.buf, `,"Index":`...)
	p.buf = strconv.AppendUint(p.buf, p.index, 10)
	if p.full {
		p.buf = append(p.buf, `,"Full":true`...)
	}
	p.full, p.field, p.section, p.empty = false, "", "", true
}

// item writes one element of a section of a field, in this part or the next.
func (p *parcel) item(field, section string, open byte, data []byte) error {
	if len(data) > rpc.MaxDown/2 {
		return fmt.Errorf("one object of the assignments takes %d bytes: %w", len(data), rpc.ErrMessageSize)
	}
	if !p.empty && len(p.buf)+len(data) > maxPart {
		if err := p.end(true); err != nil {
			return err
		}
		p.begin()
	}
	if p.field != field {
		p.closeField()
		p.buf = append(append(append(p.buf, `,"`...), field...), `":{`...)
		p.field, p.empty = field, true
	}
	if p.section != section {
		comma := p.section != ""
		p.closeSection()
		if comma {
			p.buf = append(p.buf, ',')
		}
		p.buf = append(append(append(p.buf, '"'), section...), `":`...)
		p.buf = append(p.buf, open)
		p.section = section
	} else {
		p.buf = append(p.buf, ',')
	}
	p.buf = append(p.buf, data...)
	p.empty = false
	return nil
}

func (p *parcel) closeSection() {
	switch {
	case p.section == "":
	case p.field == "Set":
		p.buf = append(p.buf, '}')
	default:
		p.buf = append(p.buf, ']')
	}
	p.section = ""
}

func (p *parcel) closeField() {
	p.closeSection()
	if p.field != "" {
		p.buf = append(p.buf, '}')
	}
	p.field = ""
}

// end sends the part.
func (p *parcel) end(more bool) error {
	p.closeField()
	p.buf = append(p.buf, '}')
	if more {
		p.buf = append(p.buf, `,"More":true`...)
	}
	p.buf = append(p.buf, '}')
	return p.send(p.buf)
}
