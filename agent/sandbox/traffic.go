package sandbox

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// answerIn is how long a client's request is waited for: after that its connection counts as one on which the client
// simply spoke last.
const answerIn = 5 * time.Second

// Silence is how long a connection has to be silent to be taken for idle.
const Silence = 250 * time.Millisecond

// Traffic is what is going on in a task's TCP connections: those that came from outside of the task to a port at which
// it listens.
type Traffic struct {
	Connections int `json:"connections"`
	// Waiting counts those whose client spoke last, less than five seconds ago: it waits for an answer. A connection that is
	// not older than that and on which nobody has spoken yet is one, too: its request may be on its way.
	Waiting int `json:"waiting"`
	// Answering counts those to which the task goes on speaking (less than Silence ago) long after its client did (Silence
	// before that): an answer that takes its time, or a stream.
	Answering int `json:"answering"`
	// Silent is how long ago the last data came or went, in milliseconds; -1 when there is no connection.
	Silent int64 `json:"silent"`
	// Unsent counts those with data that the client does not have yet.
	Unsent int `json:"unsent"`
	// Leaving counts connections that the task has closed, of either direction, whose other side does not know it yet.
	Leaving int `json:"leaving"`
}

// String says it in words.
func (t Traffic) String() string {
	return fmt.Sprintf("of %d connections %d wait for an answer, %d get one, %d have not received all of it", t.Connections, t.Waiting, t.Answering, t.Unsent)
}

// Fields of the kernel's structures (linux/inet_diag.h, linux/tcp.h).
const (
	diagRequestLen = unix.NLMSG_HDRLEN + 56
	diagMessageLen = 72
	diagInfo       = 2 // INET_DIAG_INFO
	infoLastSent   = 44
	infoLastRecv   = 52
	infoLen        = infoLastRecv + 4
	infoReceived   = 128 // bytes of data
	infoDataOut    = 156 // segments with data
	infoLong       = infoDataOut + 4
	stateFinWait1  = 4
	stateLastAck   = 9
	stateListen    = 10
	stateClosing   = 11
	diagTimeout    = 2 // seconds
)

// diagStates are those asked for: all from ESTABLISHED on except TIME_WAIT and CLOSE, which have nothing to say.
const diagStates = 1<<1 | 1<<4 | 1<<5 | 1<<8 | 1<<9 | 1<<11

// traffic asks the kernel about the namespace's TCP sockets.
func traffic() (Traffic, error) {
	t := Traffic{Silent: -1}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_INET_DIAG)
	if err != nil {
		return t, fmt.Errorf("open socket diagnosis: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: diagTimeout}); err != nil {
		return t, err
	}
	served := map[uint16]bool{}
	err = diagAll(fd, 1<<stateListen, func(s diagSocket) { served[s.local.Port()] = true })
	if err == nil {
		err = diagAll(fd, diagStates, func(s diagSocket) { t.count(s, served[s.local.Port()]) })
	}
	return t, err
}

// count adds a connection.
func (t *Traffic) count(s diagSocket, incoming bool) {
	if s.remote.Addr().IsLoopback() || !s.remote.Addr().IsValid() {
		return
	}
	if s.state == stateFinWait1 || s.state == stateLastAck || s.state == stateClosing {
		t.Leaving++
	}
	if !incoming || !s.timed {
		return
	}
	t.Connections++
	if s.unsent > 0 {
		t.Unsent++
	}
	if (s.lastRecv < s.lastSent || s.fresh) && s.lastRecv < uint32(answerIn.Milliseconds()) {
		t.Waiting++
	}
	if silence := uint32(Silence.Milliseconds()); s.lastSent < silence && s.lastRecv >= s.lastSent+silence {
		t.Answering++
	}
	if last := int64(min(s.lastRecv, s.lastSent)); t.Silent < 0 || last < t.Silent {
		t.Silent = last
	}
}

// diagSocket is one socket as the kernel tells it.
type diagSocket struct {
	state         uint8
	local, remote netip.AddrPort
	unsent        uint32 // bytes that are not acknowledged
	// lastSent and lastRecv are how many milliseconds ago data went and came, since the connection's begin at most.
	lastSent, lastRecv uint32
	timed              bool // the two are known
	fresh              bool // no data went either way yet
}

func diagAll(fd int, states uint32, each func(diagSocket)) error {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		if err := diag(fd, family, states, each); err != nil {
			return fmt.Errorf("list sockets: %w", err)
		}
	}
	return nil
}

// diag lists the sockets of one address family (sock_diag(7)).
func diag(fd int, family uint8, states uint32, each func(diagSocket)) error {
	req := make([]byte, diagRequestLen)
	binary.NativeEndian.PutUint32(req, diagRequestLen)
	binary.NativeEndian.PutUint16(req[4:], unix.SOCK_DIAG_BY_FAMILY)
	binary.NativeEndian.PutUint16(req[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	b := req[unix.NLMSG_HDRLEN:]
	b[0], b[1], b[2] = family, unix.IPPROTO_TCP, 1<<(diagInfo-1)
	binary.NativeEndian.PutUint32(b[4:], states)
	if err := unix.Sendto(fd, req, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := retry(func() (int, error) { return unix.Read(fd, buf) })
		if err != nil {
			return err
		}
		if done, err := parseDiag(buf[:n], each); done || err != nil {
			return err
		}
	}
}

var errDiag = errors.New("the kernel's answer is incomplete")

// parseDiag reads one datagram of an answer, and tells whether it was the last one.
func parseDiag(data []byte, each func(diagSocket)) (done bool, err error) {
	for len(data) >= unix.NLMSG_HDRLEN {
		size := int(binary.NativeEndian.Uint32(data))
		if size < unix.NLMSG_HDRLEN || size > len(data) {
			return true, errDiag
		}
		body := data[unix.NLMSG_HDRLEN:size]
		switch binary.NativeEndian.Uint16(data[4:]) {
		case unix.NLMSG_DONE:
			return true, nil
		case unix.NLMSG_ERROR:
			if len(body) < 4 {
				return true, errDiag
			}
			return true, unix.Errno(-int32(binary.NativeEndian.Uint32(body)))
		case unix.SOCK_DIAG_BY_FAMILY:
			s, ok := parseDiagSocket(body)
			if !ok {
				return true, errDiag
			}
			each(s)
		}
		data = data[min((size+3)&^3, len(data)):]
	}
	return false, nil
}

func parseDiagSocket(b []byte) (s diagSocket, ok bool) {
	if len(b) < diagMessageLen {
		return s, false
	}
	width := 4
	if b[0] == unix.AF_INET6 {
		width = 16
	}
	s.state = b[1]
	local, _ := netip.AddrFromSlice(b[8 : 8+width])
	remote, _ := netip.AddrFromSlice(b[24 : 24+width])
	s.local = netip.AddrPortFrom(local.Unmap(), binary.BigEndian.Uint16(b[4:]))
	s.remote = netip.AddrPortFrom(remote.Unmap(), binary.BigEndian.Uint16(b[6:]))
	s.unsent = binary.NativeEndian.Uint32(b[60:])
	for b = b[diagMessageLen:]; len(b) >= 4; {
		size := int(binary.NativeEndian.Uint16(b))
		if size < 4 || size > len(b) {
			return s, false
		}
		if binary.NativeEndian.Uint16(b[2:]) == diagInfo && size >= 4+infoLen {
			s.lastSent, s.lastRecv = binary.NativeEndian.Uint32(b[4+infoLastSent:]), binary.NativeEndian.Uint32(b[4+infoLastRecv:])
			s.timed = true
			if info := b[4:size]; len(info) >= infoLong {
				s.fresh = binary.NativeEndian.Uint64(info[infoReceived:]) == 0 && binary.NativeEndian.Uint32(info[infoDataOut:]) == 0
			}
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return s, true
}
