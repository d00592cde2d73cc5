package netstack

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const ethLen = 14

// maxParts bounds the pieces of one frame that is written: a frame header and
// the parts of a merged super-packet.
const maxParts = maxMerge + 1

// A device reads and writes the frames of a link's file through the runtime's
// poller: one frame per system call. One goroutine reads; any number write at once.
type device struct {
	kind Kind
	file *os.File
	raw  syscall.RawConn
	// to and from are the Ethernet addresses of written frames (Packet).
	to, from [6]byte

	// The state of the one reader; read is made once, so that reading allocates nothing.
	read func(fd uintptr) bool
	pkt  packet
	err  error

	writers sync.Pool // *deviceWrite
}

var (
	errNoFile = errors.New("link has no file")
	errMAC    = errors.New("packet link needs the hardware address of the task's end")
)

// openDevice takes file over: it is closed on failure.
func openDevice(cfg *LinkConfig) (*device, error) {
	if cfg.File == nil {
		return nil, errNoFile
	}
	d := &device{kind: cfg.Kind}
	switch cfg.Kind {
	case TUN:
	case Packet:
		if len(cfg.MAC) != len(d.to) {
			cfg.File.Close()
			return nil, errMAC
		}
		copy(d.to[:], cfg.MAC)
		copy(d.from[:], cfg.MAC)
		d.from[0] = d.from[0]&^1 | 2 // locally administered
		d.from[5] ^= 0xff
	default:
		cfg.File.Close()
		return nil, fmt.Errorf("unknown kind %d of link", cfg.Kind)
	}
	if err := d.adopt(cfg.File); err != nil {
		return nil, err
	}
	d.read = d.readOne
	d.writers.New = func() any { return newDeviceWrite() }
	return d, nil
}

// adopt makes the file pollable. A file that came over a socket may be in
// blocking mode, which os.File does not change later: so a duplicate is opened anew.
func (d *device) adopt(f *os.File) error {
	defer f.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		return fmt.Errorf("link's file: %w", err)
	}
	fd, dupErr := -1, error(nil)
	if err := raw.Control(func(old uintptr) { fd, dupErr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 3) }); err != nil {
		return fmt.Errorf("link's file: %w", err)
	}
	if dupErr != nil {
		return fmt.Errorf("duplicate link's file: %w", dupErr)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return fmt.Errorf("make link's file nonblocking: %w", err)
	}
	d.file = os.NewFile(uintptr(fd), f.Name())
	d.raw, err = d.file.SyscallConn()
	return err
}

func (d *device) close() error { return d.file.Close() }

// readPacket blocks for the next IP packet. The packet belongs to the caller, who may hand it
// back for reuse with the next call.
func (d *device) readPacket(p *packet) error {
	d.pkt, d.err = *p, nil
	*p = packet{}
	if err := d.raw.Read(d.read); err != nil {
		d.pkt.release()
		return err
	}
	*p = d.pkt
	d.pkt = packet{}
	return d.err
}

// errSkip says that the frame was none of ours.
var errSkip = errors.New("not an IP frame")

// readOne tries one read and reports whether it is done. While it waits it holds no buffer:
// links that are silent cost none.
func (d *device) readOne(fd uintptr) bool {
	if d.pkt.buf == nil {
		d.pkt.buf = getBuffer(maxIP)
		if d.pkt.buf == nil {
			return d.discard(fd)
		}
	}
	start := headroom - vnetLen
	if d.kind == Packet {
		start -= ethLen
	}
	n, err := unix.Read(int(fd), d.pkt.buf.b[start:])
	for err == unix.EINTR {
		n, err = unix.Read(int(fd), d.pkt.buf.b[start:])
	}
	if err == unix.EAGAIN {
		d.pkt.release()
		return false
	}
	if err != nil {
		d.err = os.NewSyscallError("read", err)
		return true
	}
	d.err = d.decode(d.pkt.buf.b[start:start+n], n)
	return true
}

var errNoBuffer = errors.New("bound on packet buffers reached")

// discard reads a frame away.
func (d *device) discard(fd uintptr) bool {
	var b [vnetLen]byte
	if _, err := unix.Read(int(fd), b[:]); err == unix.EAGAIN {
		return false
	}
	d.err = errNoBuffer
	return true
}

func (d *device) decode(frame []byte, n int) error {
	if n == 0 {
		return os.ErrClosed // end of file: the twin's other end is gone
	}
	skip := vnetLen
	if d.kind == Packet {
		skip += ethLen
	}
	if n <= skip {
		return errSkip
	}
	d.pkt.hdr.decode(frame)
	if d.kind == Packet {
		typ := uint16(frame[vnetLen+12])<<8 | uint16(frame[vnetLen+13])
		if typ != unix.ETH_P_IP && typ != unix.ETH_P_IPV6 {
			return errSkip
		}
		if d.pkt.hdr.needsCsum() {
			d.pkt.hdr.csumStart -= ethLen
		}
		if d.pkt.hdr.hdrLen >= ethLen {
			d.pkt.hdr.hdrLen -= ethLen
		}
	}
	if n-skip > maxIP {
		return errSkip
	}
	d.pkt.ip = d.pkt.buf.b[headroom : headroom+n-skip]
	return nil
}

// header writes the frame header of a packet into b and returns its length.
func (d *device) header(b []byte, hdr vnetHdr, v6 bool) int {
	if d.kind == TUN {
		hdr.encode(b)
		return vnetLen
	}
	if hdr.needsCsum() {
		hdr.csumStart += ethLen
	}
	if hdr.hdrLen != 0 {
		hdr.hdrLen += ethLen
	}
	hdr.encode(b)
	e := b[vnetLen:]
	copy(e, d.to[:])
	copy(e[6:], d.from[:])
	typ := uint16(unix.ETH_P_IP)
	if v6 {
		typ = unix.ETH_P_IPV6
	}
	e[12], e[13] = byte(typ>>8), byte(typ)
	return vnetLen + ethLen
}

// write writes a packet whose bytes have the headroom of a buffer in front.
func (d *device) write(p *packet) error {
	n := vnetLen
	if d.kind == Packet {
		n += ethLen
	}
	frame := p.buf.b[headroom-n : headroom+len(p.ip)]
	d.header(frame, p.hdr, p.ip[0]>>4 == 6)
	w := d.writers.Get().(*deviceWrite)
	defer d.writers.Put(w)
	w.iov[0] = iovec(frame)
	return w.run(d.raw, 1)
}

// writeParts writes a packet of several pieces, the headers in the first one.
func (d *device) writeParts(hdr vnetHdr, parts [][]byte) error {
	if len(parts) > maxParts-1 {
		return unix.EMSGSIZE
	}
	w := d.writers.Get().(*deviceWrite)
	defer d.writers.Put(w)
	n := d.header(w.head[:], hdr, parts[0][0]>>4 == 6)
	w.iov[0] = iovec(w.head[:n])
	for i, b := range parts {
		w.iov[i+1] = iovec(b)
	}
	return w.run(d.raw, len(parts)+1)
}

func iovec(b []byte) unix.Iovec {
	v := unix.Iovec{Base: unsafe.SliceData(b)}
	v.SetLen(len(b))
	return v
}

// deviceWrite is one write under way; attempt is made once.
type deviceWrite struct {
	head    [vnetLen + ethLen]byte
	iov     [maxParts]unix.Iovec
	n       int
	err     syscall.Errno
	attempt func(fd uintptr)
	retry   func(fd uintptr) bool
}

func newDeviceWrite() *deviceWrite {
	w := &deviceWrite{}
	w.attempt = func(fd uintptr) { w.writev(fd) }
	w.retry = func(fd uintptr) bool {
		w.writev(fd)
		return w.err != unix.EAGAIN
	}
	return w
}

func (w *deviceWrite) writev(fd uintptr) {
	for {
		_, _, w.err = syscall.Syscall(syscall.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&w.iov[0])), uintptr(w.n))
		if w.err != unix.EINTR {
			return
		}
	}
}

// run writes without a lock, so that several goroutines may be in the kernel
// at once; only a device that is full (a socket's buffer) is waited for.
func (w *deviceWrite) run(raw syscall.RawConn, n int) error {
	w.n = n
	err := raw.Control(w.attempt)
	if err == nil && w.err == unix.EAGAIN {
		err = raw.Write(w.retry)
	}
	clear(w.iov[:n])
	if err != nil {
		return err
	}
	if w.err != 0 {
		return w.err
	}
	return nil
}
