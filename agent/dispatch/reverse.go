package dispatch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/meshswarm/meshswarm/agent/rpc"
	"github.com/meshswarm/meshswarm/raft/state"
)

const (
	reverseTimeout = 10 * time.Second // for the node's answer
	maxReverse     = 100              // of one node at once
	// errorTrailer carries why a reverse stream ended early.
	errorTrailer = "Meshswarm-Error"
)

// ErrNoSession: the node has no session with the leader, so nothing can be asked of it.
var ErrNoSession = errors.New("node has no session with the leader: it is down or was cut off")

// reverse is a reverse stream that was asked for.
type reverse struct {
	node   string
	answer chan answer   // one
	gone   chan struct{} // closed when nobody waits for the answer any more
}

type answer struct {
	conn *reverseConn
	err  error
}

// Logs asks a node for the output of one of its tasks. The reader ends with the output, and with an error when the node
// could not go on; the caller closes it. Without a session of the node the error is ErrNoSession, at once.
func (d *Dispatcher) Logs(ctx context.Context, nodeID string, req LogRequest) (io.ReadCloser, error) {
	conn, err := d.Reverse(ctx, nodeID, kindLogs, req)
	if err != nil {
		return nil, fmt.Errorf("read logs of task %s: %w", req.TaskID, err)
	}
	return conn, nil
}

// Reverse asks a node for a stream of some kind. What the node sends is read; what is written goes to the node. It lives
// until Close, the node's end or the end of ctx.
func (d *Dispatcher) Reverse(ctx context.Context, nodeID, kind string, req any) (io.ReadWriteCloser, error) {
	t, err := d.current()
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(req)
	if err != nil {
		return nil, fmt.Errorf("encode request: %w", err)
	}
	id := state.NewID()
	s, r, err := t.expectReverse(nodeID, id)
	if err != nil {
		return nil, err
	}
	s.open(opening{ID: id, Kind: kind, Request: body})
	timer := time.NewTimer(reverseTimeout)
	defer timer.Stop()
	select {
	case a := <-r.answer:
		if a.err == nil {
			a.conn.closeWith(ctx)
			return a.conn, nil
		}
		err = a.err
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-s.ctx.Done():
		err = fmt.Errorf("node %s: %w", nodeID, ErrNoSession)
	case <-timer.C:
		err = fmt.Errorf("node %s did not answer within %s", nodeID, reverseTimeout)
	}
	t.forgetReverse(id, r)
	return nil, err
}

func (t *term) expectReverse(nodeID, id string) (*session, *reverse, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.sessions[nodeID]
	if s == nil {
		return nil, nil, fmt.Errorf("node %s: %w", nodeID, ErrNoSession)
	}
	if t.openings[nodeID] >= maxReverse {
		return nil, nil, fmt.Errorf("node %s has %d streams open: %w", nodeID, maxReverse, rpc.ErrTooMany)
	}
	t.openings[nodeID]++
	r := &reverse{node: nodeID, answer: make(chan answer, 1), gone: make(chan struct{})}
	t.reverse[id] = r
	return s, r, nil
}

// forgetReverse drops a stream that nobody waits for, answered or not.
func (t *term) forgetReverse(id string, r *reverse) {
	close(r.gone)
	if t.claimReverse(id, r.node) != nil {
		t.endReverse(r.node)
	}
}

// claimReverse takes the expectation of id, if it is that node's to answer.
func (t *term) claimReverse(id, node string) *reverse {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.reverse[id]
	if r == nil || r.node != node {
		return nil
	}
	delete(t.reverse, id)
	return r
}

func (t *term) endReverse(node string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.openings[node]--; t.openings[node] == 0 {
		delete(t.openings, node)
	}
}

func (t *term) refuseReverse(node string, no refusal) {
	if r := t.claimReverse(no.ID, node); r != nil {
		t.endReverse(node)
		r.answer <- answer{err: fmt.Errorf("node %s: %s", node, clip(no.Message, maxStatusText))}
	}
}

// ServeReverse is the handler of POST /v1/logs/{id}, by which a node answers.
func (d *Dispatcher) ServeReverse(w http.ResponseWriter, r *http.Request) {
	peer, ok := rpc.PeerFrom(r.Context())
	if !ok {
		rpc.WriteError(w, rpc.ErrNoCertificate)
		return
	}
	t, err := d.current()
	if err == nil {
		err = t.begin()
	}
	if err != nil {
		rpc.WriteError(w, err)
		return
	}
	defer t.handlers.Done()
	rev := t.claimReverse(r.PathValue("id"), peer.NodeID)
	if rev == nil {
		rpc.WriteError(w, rpc.ErrNotFound.With("nobody waits for this stream"))
		return
	}
	defer t.endReverse(peer.NodeID)
	conn, err := newReverseConn(w, r)
	if err != nil {
		rev.answer <- answer{err: err}
		return
	}
	rev.answer <- answer{conn: conn}
	select {
	case <-conn.done:
	case <-rev.gone:
	case <-r.Context().Done():
	case <-t.ctx.Done():
	}
	conn.shut()
}

// reverseConn is the leader's end of a reverse stream. Its calls end before the handler that it belongs to returns.
type reverseConn struct {
	r    *http.Request
	w    http.ResponseWriter
	rc   *http.ResponseController
	once sync.Once
	done chan struct{} // closed by Close
	stop func() bool

	mu      sync.Mutex
	over    bool
	calls   int           // running Reads and Writes
	drained chan struct{} // closed when over and no call runs
}

func newReverseConn(w http.ResponseWriter, r *http.Request) (*reverseConn, error) {
	rc := http.NewResponseController(w)
	if err := rc.EnableFullDuplex(); err != nil {
		return nil, fmt.Errorf("open reverse stream: %w", err)
	}
	w.WriteHeader(http.StatusOK)
	if err := rc.Flush(); err != nil {
		return nil, fmt.Errorf("open reverse stream: %w", err)
	}
	return &reverseConn{r: r, w: w, rc: rc, done: make(chan struct{}), drained: make(chan struct{})}, nil
}

// closeWith closes the connection with ctx.
func (c *reverseConn) closeWith(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() { c.once.Do(func() { close(c.done) }) })
	c.mu.Lock()
	c.stop = stop
	c.mu.Unlock()
}

func (c *reverseConn) begin() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.over {
		c.calls++
	}
	return !c.over
}

func (c *reverseConn) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.calls--; c.over && c.calls == 0 {
		close(c.drained)
	}
}

// Read implements io.Reader.
func (c *reverseConn) Read(p []byte) (int, error) {
	if !c.begin() {
		return 0, errTermOver
	}
	defer c.end()
	n, err := c.r.Body.Read(p)
	if errors.Is(err, io.EOF) {
		if text := c.r.Trailer.Get(errorTrailer); text != "" {
			err = errors.New(clip(text, maxStatusText))
		}
	}
	return n, err
}

// Write implements io.Writer.
func (c *reverseConn) Write(p []byte) (int, error) {
	if !c.begin() {
		return 0, errTermOver
	}
	defer c.end()
	n, err := c.w.Write(p)
	if err == nil {
		err = c.rc.Flush()
	}
	return n, err
}

// Close implements io.Closer.
func (c *reverseConn) Close() error {
	c.mu.Lock()
	stop := c.stop
	c.mu.Unlock()
	if stop != nil {
		stop()
	}
	c.once.Do(func() { close(c.done) })
	return nil
}

// shut ends running calls and allows no more. Without running calls the stream ends in good order.
func (c *reverseConn) shut() {
	c.mu.Lock()
	c.over = true
	busy := c.calls > 0
	c.mu.Unlock()
	if busy {
		_ = c.rc.SetReadDeadline(time.Unix(1, 0))
		_ = c.rc.SetWriteDeadline(time.Unix(1, 0))
		<-c.drained
	}
}
