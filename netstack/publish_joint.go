package netstack

import (
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

const (
	// lastWords is how long the node of the task may take to say what the task still had to say, once the task is gone.
	lastWords = time.Second
	// lastBytes is how long the client may take nothing of what the task still had to say.
	lastBytes = 10 * time.Second
)

// joint is a client's connection joined with one to a task, or to the task's node. A task that ends has often just answered: what it sent
// before its end still reaches the client when the tables do not have the task any more.
type joint struct {
	client, task duplex
	remote       bool // task leads to the task's node

	moved  atomic.Uint64 // pieces that went to the client
	passed atomic.Bool   // all of them, and the end
	over   atomic.Bool
}

// run splices until either end has ended.
func (j *joint) run() {
	defer j.over.Store(true)
	spliceNoting(j.client, j.task, func(ended bool) {
		j.moved.Add(1)
		if ended {
			j.passed.Store(true)
		}
	})
}

// cut ends both at once.
func (j *joint) cut() {
	j.task.abort()
	if j.passed.Load() {
		_ = j.client.Close() // what it has not yet taken is still sent
		return
	}
	j.client.abort()
}

// lose is called when the task has left the tables.
func (j *joint) lose() {
	switch {
	case ended(j.task):
		j.linger(j.moved.Load(), lastBytes)
	case j.remote: // its node knows whether there is more to come
		j.linger(j.moved.Load(), lastWords)
	default:
		j.cut()
	}
}

// linger cuts the connection when nothing has moved for a while.
func (j *joint) linger(seen uint64, patience time.Duration) {
	time.AfterFunc(patience, func() {
		if j.over.Load() {
			return
		}
		now := j.moved.Load()
		switch {
		case now != seen:
			j.linger(now, patience)
		case patience < lastBytes && ended(j.task):
			j.linger(now, lastBytes)
		default:
			j.cut()
		}
	})
}

// ended tells whether the other side has sent its end, though it may not all be read here.
func ended(d duplex) bool {
	c, ok := d.(*stackConn)
	if !ok {
		return false
	}
	switch tcp.EndpointState(c.ep.State()) {
	case tcp.StateCloseWait, tcp.StateLastAck, tcp.StateClosing, tcp.StateTimeWait, tcp.StateClose:
		return true
	}
	return false
}
