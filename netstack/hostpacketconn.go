package netstack

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/waiter"
)

// stackPacketConn is a UDP socket of the gVisor stack.
type stackPacketConn struct {
	*gonet.UDPConn
	ep tcpip.Endpoint
	wq *waiter.Queue
}

func newStackPacketConn(wq *waiter.Queue, ep tcpip.Endpoint) *stackPacketConn {
	return &stackPacketConn{UDPConn: gonet.NewUDPConn(wq, ep), ep: ep, wq: wq}
}

// next waits for a datagram and returns it in a chunk, which the caller puts back.
func (c *stackPacketConn) next() (chunk *[]byte, n int, from netip.AddrPort, err error) {
	entry, ready := waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventHUp | waiter.EventErr)
	c.wq.EventRegister(&entry)
	defer c.wq.EventUnregister(&entry)
	for {
		chunk = chunks.Get().(*[]byte)
		n, from, err = c.tryRead(*chunk)
		if err == nil {
			return chunk, n, from, nil
		}
		chunks.Put(chunk)
		if !errors.Is(err, errWouldBlock) {
			return nil, 0, netip.AddrPort{}, err
		}
		<-ready
	}
}

func (c *stackPacketConn) tryRead(b []byte) (int, netip.AddrPort, error) {
	w := tcpip.SliceWriter(b)
	res, err := c.ep.Read(&w, tcpip.ReadOptions{NeedRemoteAddr: true})
	switch err.(type) {
	case nil:
		return res.Count, netip.AddrPortFrom(netipAddr(res.RemoteAddr.Addr), res.RemoteAddr.Port), nil
	case *tcpip.ErrWouldBlock:
		return 0, netip.AddrPort{}, errWouldBlock
	case *tcpip.ErrClosedForReceive:
		return 0, netip.AddrPort{}, net.ErrClosed
	case *tcpip.ErrConnectionRefused:
		return 0, netip.AddrPort{}, errRefused
	}
	return 0, netip.AddrPort{}, fmt.Errorf("read from the stack: %s", err)
}

// send sends a datagram; to is ignored by a connected socket when it is not valid. A full queue loses it, as networks do.
func (c *stackPacketConn) send(b []byte, to netip.AddrPort) error {
	var opts tcpip.WriteOptions
	if to.IsValid() {
		full := fullAddr(to)
		opts.To = &full
	}
	var r bytes.Reader
	r.Reset(b)
	_, err := c.ep.Write(&r, opts)
	switch err.(type) {
	case nil, *tcpip.ErrWouldBlock, *tcpip.ErrNoBufferSpace:
		return nil
	case *tcpip.ErrConnectionRefused:
		return errRefused
	}
	return fmt.Errorf("send to the stack: %s", err)
}
