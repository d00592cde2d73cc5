package mesh

import (
	"encoding/binary"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
)

const (
	// rxMessages is how many (coalesced) datagrams one system call receives.
	rxMessages = 8
	maxUDP     = 65535
	// maxSegments is the kernel's bound on the segments of one UDP GSO send (UDP_MAX_SEGMENTS was 64 before Linux 6.9).
	maxSegments = 64
	// maxGSO is the payload of the largest datagram over IPv4.
	maxGSO = maxUDP - 20 - 8
)

// A socket sends and receives batches of datagrams with recvmmsg and sendmmsg.
// One goroutine receives; any number send.
type socket struct {
	conn   *net.UDPConn
	raw    syscall.RawConn
	v6     bool
	logger *slog.Logger
	gso    atomic.Bool                        // cleared for good when the network card refuses
	fault  func(segmented bool) syscall.Errno // fails sends in tests; nil: none
	rx     receiver
	tx     sync.Pool // *sender
}

// mmsghdr is the kernel's struct mmsghdr.
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

func newSocket(c *net.UDPConn, v6 bool, logger *slog.Logger) (*socket, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	s := &socket{conn: c, raw: raw, v6: v6, logger: logger}
	err = raw.Control(func(fd uintptr) {
		_, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT)
		s.gso.Store(err == nil)
	})
	if err != nil {
		return nil, err
	}
	s.rx.init()
	s.tx.New = func() any { return newSender() }
	return s, nil
}

func (s *socket) close() error { return s.conn.Close() }

// A receiver is the state of the one goroutine that receives. Its buffers are
// its own: what the kernel coalesced is copied into wireguard-go's, so that
// those stay as small as a datagram.
type receiver struct {
	bufs  [rxMessages][]byte
	names [rxMessages]unix.RawSockaddrInet6
	oob   [rxMessages][64]byte
	iov   [rxMessages]unix.Iovec
	msgs  [rxMessages]mmsghdr
	next  int // the message being handed out, up to n
	n     int
	off   int
	last  *endpoint // of the last datagram: most come from few senders

	read func(fd uintptr) bool
	errs syscall.Errno
}

func (r *receiver) init() {
	for i := range r.bufs {
		r.bufs[i] = make([]byte, maxUDP)
	}
	r.read = func(fd uintptr) bool {
		for {
			r.prepare()
			n, _, errno := syscall.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&r.msgs[0])), rxMessages, unix.MSG_DONTWAIT, 0, 0)
			if errno == unix.EINTR {
				continue
			}
			r.n, r.errs = int(n), errno
			if errno != 0 {
				r.n = 0
			}
			return errno != unix.EAGAIN
		}
	}
}

func (r *receiver) prepare() {
	for i := range r.msgs {
		r.iov[i].Base = &r.bufs[i][0]
		r.iov[i].SetLen(maxUDP)
		h := &r.msgs[i].hdr
		h.Name = (*byte)(unsafe.Pointer(&r.names[i]))
		h.Namelen = unix.SizeofSockaddrInet6
		h.Iov = &r.iov[i]
		h.SetIovlen(1)
		h.Control = &r.oob[i][0]
		h.SetControllen(len(r.oob[i]))
		h.Flags = 0
	}
}

// receive is a conn.ReceiveFunc.
func (s *socket) receive(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
	r := &s.rx
	for r.next == r.n {
		r.next, r.off = 0, 0
		if err := s.raw.Read(r.read); err != nil {
			r.n = 0
			return 0, err
		}
		if r.errs != 0 && r.errs != unix.ECONNREFUSED {
			return 0, r.errs
		}
	}
	n := 0
	for n < len(bufs) && r.next < r.n {
		n += r.take(bufs[n:], sizes[n:], eps[n:])
	}
	return n, nil
}

// take hands out segments of the message at next, as many as there is room for.
func (r *receiver) take(bufs [][]byte, sizes []int, eps []conn.Endpoint) int {
	m := &r.msgs[r.next]
	data := r.bufs[r.next][:m.n]
	size := segmentSize(r.oob[r.next][:m.hdr.Controllen])
	if size <= 0 || m.hdr.Flags&unix.MSG_TRUNC != 0 {
		size = len(data)
	}
	ep := r.endpoint(&r.names[r.next])
	n := 0
	for n < len(bufs) && r.off < len(data) {
		seg := data[r.off:min(r.off+size, len(data))]
		sizes[n], eps[n] = copy(bufs[n], seg), ep
		r.off += len(seg)
		n++
	}
	if r.off >= len(data) {
		r.next, r.off = r.next+1, 0
	}
	return n
}

func (r *receiver) endpoint(sa *unix.RawSockaddrInet6) *endpoint {
	port := binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&sa.Port))[:])
	var a netip.Addr
	if sa.Family == unix.AF_INET {
		a = netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(sa)).Addr)
	} else {
		a = netip.AddrFrom16(sa.Addr).Unmap()
	}
	addr := netip.AddrPortFrom(a, port)
	if r.last == nil || r.last.addr != addr {
		r.last = &endpoint{addr: addr}
	}
	return r.last
}

// segmentSize returns the size of the segments of a coalesced datagram (UDP_GRO), 0 for a single one.
func segmentSize(oob []byte) int {
	for len(oob) >= unix.SizeofCmsghdr {
		h, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return 0
		}
		if h.Level == unix.SOL_UDP && h.Type == unix.UDP_GRO && len(data) >= 2 {
			return int(binary.NativeEndian.Uint16(data))
		}
		oob = rest
	}
	return 0
}

// A sender is one batch under way.
type sender struct {
	name  unix.RawSockaddrInet6
	iov   [conn.IdealBatchSize]unix.Iovec
	msgs  [conn.IdealBatchSize]mmsghdr
	oob   [conn.IdealBatchSize][24]byte
	first int
	n     int
	done  int
	errs  syscall.Errno
	write func(fd uintptr)
	retry func(fd uintptr) bool
}

func newSender() *sender {
	w := &sender{}
	w.write = func(fd uintptr) { w.sendmmsg(fd) }
	w.retry = func(fd uintptr) bool {
		w.sendmmsg(fd)
		return w.errs != unix.EAGAIN
	}
	return w
}

func (w *sender) sendmmsg(fd uintptr) {
	for {
		n, _, errno := syscall.Syscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&w.msgs[w.first])), uintptr(w.n-w.first), 0, 0, 0)
		if errno == unix.EINTR {
			continue
		}
		w.done, w.errs = int(n), errno
		if errno != 0 {
			w.done = 0
		}
		return
	}
}

// send sends all datagrams. When the network card cannot segment (EIO), or this
// path cannot (EINVAL, EMSGSIZE: the segments do not fit it), they go one by one.
func (s *socket) send(bufs [][]byte, ep *endpoint) error {
	if len(bufs) > conn.IdealBatchSize {
		return errors.New("batch too large")
	}
	w := s.tx.Get().(*sender)
	defer s.tx.Put(w)
	defer w.clear()
	namelen := w.setName(ep.addr, s.v6)
	gso := s.gso.Load() && len(bufs) > 1
	w.fill(bufs, namelen, gso)
	err := s.flush(w)
	if err == nil || !gso {
		return err
	}
	switch {
	case errors.Is(err, unix.EIO):
		s.gso.Store(false)
		s.logger.Info("UDP segmentation offload is refused and left out", "addr", s.conn.LocalAddr())
	case !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EMSGSIZE):
		return err
	}
	// What was sent already is sent again: WireGuard drops repeated packets.
	w.fill(bufs, namelen, false)
	return s.flush(w)
}

// flush sends the messages of w; one that fails is passed over.
func (s *socket) flush(w *sender) error {
	var failed error
	for w.first < w.n {
		err := s.raw.Control(w.write)
		if err == nil && w.errs == unix.EAGAIN {
			err = s.raw.Write(w.retry)
		}
		if err != nil {
			return err
		}
		if s.fault != nil {
			w.errs = s.fault(w.msgs[w.first].hdr.Controllen != 0)
		}
		if w.errs != 0 {
			failed = w.errs
			if w.msgs[w.first].hdr.Controllen != 0 {
				return failed // segmented: send decides
			}
			w.done = 1
		}
		w.first += w.done
	}
	return failed
}

func (w *sender) setName(addr netip.AddrPort, v6 bool) uint32 {
	w.name = unix.RawSockaddrInet6{}
	if v6 {
		w.name.Family = unix.AF_INET6
		w.name.Addr = addr.Addr().As16()
		w.name.Scope_id = scope(addr.Addr().Zone())
		binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&w.name.Port))[:], addr.Port())
		return unix.SizeofSockaddrInet6
	}
	sa := (*unix.RawSockaddrInet4)(unsafe.Pointer(&w.name))
	sa.Family = unix.AF_INET
	sa.Addr = addr.Addr().As4()
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&sa.Port))[:], addr.Port())
	return unix.SizeofSockaddrInet4
}

func scope(zone string) uint32 {
	if zone == "" {
		return 0
	}
	if i, err := net.InterfaceByName(zone); err == nil {
		return uint32(i.Index)
	}
	return 0
}

// fill makes messages of the datagrams. With gso, runs of equal size (the last
// one may be smaller) become one message of several pieces, which the kernel cuts again: nothing is copied.
func (w *sender) fill(bufs [][]byte, namelen uint32, gso bool) {
	w.first, w.n = 0, 0
	for i := 0; i < len(bufs); {
		run := 1
		if gso {
			run = runLength(bufs[i:])
		}
		for j := i; j < i+run; j++ {
			w.iov[j].Base = unsafe.SliceData(bufs[j])
			w.iov[j].SetLen(len(bufs[j]))
		}
		m := &w.msgs[w.n]
		*m = mmsghdr{}
		m.hdr.Name = (*byte)(unsafe.Pointer(&w.name))
		m.hdr.Namelen = namelen
		m.hdr.Iov = &w.iov[i]
		m.hdr.SetIovlen(run)
		if run > 1 {
			m.hdr.Control = &w.oob[w.n][0]
			m.hdr.SetControllen(putSegmentSize(w.oob[w.n][:], len(bufs[i])))
		}
		w.n++
		i += run
	}
}

// runLength returns how many of the first datagrams one segmented send takes.
func runLength(bufs [][]byte) int {
	size, total := len(bufs[0]), len(bufs[0])
	n := 1
	for n < len(bufs) && n < maxSegments && len(bufs[n]) <= size && total+len(bufs[n]) <= maxGSO {
		total += len(bufs[n])
		n++
		if len(bufs[n-1]) < size {
			break
		}
	}
	return n
}

// putSegmentSize writes a UDP_SEGMENT control message and returns its length.
func putSegmentSize(b []byte, size int) int {
	n := unix.CmsgSpace(2)
	clear(b[:n])
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
	h.Level, h.Type = unix.SOL_UDP, unix.UDP_SEGMENT
	h.SetLen(unix.CmsgLen(2))
	binary.NativeEndian.PutUint16(b[unix.CmsgLen(0):], uint16(size))
	return n
}

// clear lets go of the datagrams.
func (w *sender) clear() {
	clear(w.iov[:])
	clear(w.msgs[:w.n])
}
