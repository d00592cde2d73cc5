package sandbox

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

const (
	keepArg       = "keep"
	maxStateSize  = 1 << 18
	clientTimeout = 5    // seconds a client may take
	trimAfter     = 1000 // milliseconds without a client
)

// keepState is what the first stage leaves to the second, in a memory file. Descriptors are numbers that survive exec.
type keepState struct {
	Listener int
	// Owner is the user ID of the shared folder: the agent's, as this user namespace sees it.
	Owner uint32
	Files []int
	Reply reply
}

// listen opens the socket that agents ask at. Permission is by the folder, by the file's owner, and by the peer's user ID.
func listen(dir string) (fd int, owner uint32, err error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return -1, 0, fmt.Errorf("look at the shared folder: %w", err)
	}
	path := filepath.Join(dir, SocketFile)
	fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, 0, fmt.Errorf("open socket: %w", err)
	}
	if err := bindAt(fd, dir); err != nil {
		return -1, 0, fmt.Errorf("bind %s: %w", path, err)
	}
	err = unix.Chmod(path, 0o600)
	if err == nil && unix.Chown(path, int(st.Uid), int(st.Gid)) != nil {
		// An owner that is not mapped here cannot be given the file; then the folder's mode is the only guard.
		err = unix.Chmod(path, 0o666)
	}
	if err != nil {
		return -1, 0, fmt.Errorf("set mode of %s: %w", path, err)
	}
	if err := unix.Listen(fd, 8); err != nil {
		return -1, 0, fmt.Errorf("listen at %s: %w", path, err)
	}
	return fd, st.Uid, nil
}

// bindAt binds through the folder's descriptor, so that a long path is no obstacle.
func bindAt(fd int, dir string) error {
	d, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(d)
	return unix.Bind(fd, &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d/%s", d, SocketFile)})
}

// exec drops all privileges and turns the process into the second stage. The caller has locked its thread. It returns
// only when that does not succeed.
func (k keepState) exec() error {
	data, err := json.Marshal(k)
	if err != nil {
		return fmt.Errorf("encode state: %w", err)
	}
	mem, err := unix.MemfdCreate("sandbox", 0)
	if err != nil {
		return fmt.Errorf("create memory file: %w", err)
	}
	if _, err := unix.Pwrite(mem, data, 0); err != nil {
		return fmt.Errorf("write memory file: %w", err)
	}
	for _, fd := range append([]int{k.Listener}, k.Files...) {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
			return fmt.Errorf("keep descriptor %d: %w", fd, err)
		}
	}
	// Huge pages would make a heap of some hundred KiB cost megabytes.
	_ = unix.Prctl(unix.PR_SET_THP_DISABLE, 1, 0, 0, 0)
	if err := dropPrivileges(); err != nil {
		return err
	}
	argv := []string{"meshswarm", "sandbox", keepArg, strconv.Itoa(mem)}
	env := append(os.Environ(), "GOMAXPROCS=1", "GOGC=10")
	if err := unix.Exec("/proc/self/exe", argv, env); err != nil {
		return fmt.Errorf("execute second stage: %w", err)
	}
	return nil
}

// keep is the second stage: it holds the descriptors and answers one client at a time, until SIGTERM.
func keep(mem int) error {
	k, err := readState(mem)
	if err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	if err := checkPrivileges(); err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	handover, err := json.Marshal(k.Reply)
	if err != nil {
		return fmt.Errorf("sandbox: encode reply: %w", err)
	}
	for _, fd := range append([]int{k.Listener}, k.Files...) {
		unix.CloseOnExec(fd)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, unix.SIGTERM, unix.SIGINT)
	go func() {
		<-stop
		os.Exit(0)
	}()
	for idle := false; ; {
		if !idle && !k.asked() {
			trimMemory()
			idle = true
		}
		fd, _, err := unix.Accept4(k.Listener, unix.SOCK_CLOEXEC)
		switch {
		case err == nil:
			k.serve(fd, handover)
			unix.Close(fd)
			idle = false
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ECONNABORTED):
		default:
			return fmt.Errorf("sandbox: accept: %w", err)
		}
	}
}

// asked tells whether a client comes soon: memory is trimmed when none does, so that nobody waits for that.
func (k keepState) asked() bool {
	n, err := retry(func() (int, error) {
		return unix.Poll([]unix.PollFd{{Fd: int32(k.Listener), Events: unix.POLLIN}}, trimAfter)
	})
	return err == nil && n > 0
}

func readState(mem int) (keepState, error) {
	var k keepState
	buf := make([]byte, maxStateSize)
	n, err := unix.Pread(mem, buf, 0)
	unix.Close(mem)
	if err != nil {
		return k, fmt.Errorf("read state: %w", err)
	}
	if err := json.Unmarshal(buf[:n], &k); err != nil {
		return k, fmt.Errorf("read state: %w", err)
	}
	return k, nil
}

// serve answers one request. Errors of a client are the client's: it sees its connection close.
func (k keepState) serve(fd int, handover []byte) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil || (cred.Uid != k.Owner && cred.Uid != 0) {
		return
	}
	timeout := unix.Timeval{Sec: clientTimeout}
	for _, opt := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		if unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, opt, &timeout) != nil {
			return
		}
	}
	buf := make([]byte, maxRequest+1)
	n, err := retry(func() (int, error) { return unix.Read(fd, buf) })
	if err != nil || n == 0 {
		return
	}
	q, err := parseRequest(buf[:n])
	switch {
	case err != nil:
		send(fd, reply{Version: protocolVersion, Error: err.Error()})
	case q.Want == wantHandover:
		rights := unix.UnixRights(k.Files...)
		_, _ = retry(func() (int, error) { return unix.SendmsgN(fd, handover, rights, nil, unix.MSG_NOSIGNAL) })
	case q.Want == wantSockets:
		sendSockets(fd)
	case q.Want == wantTraffic:
		t, err := traffic()
		if err != nil {
			send(fd, reply{Version: protocolVersion, Error: err.Error()})
			return
		}
		send(fd, reply{Version: protocolVersion, Traffic: &t})
	default:
		send(fd, reply{Version: protocolVersion, Error: fmt.Sprintf("unknown request %q", q.Want)})
	}
}

// sendSockets streams the namespace's TCP connections in packets of bounded size.
func sendSockets(fd int) {
	var batch []Socket
	total := 0
	for _, name := range []string{"/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"} {
		f, err := os.Open(name)
		if err != nil {
			continue // no IPv6 in this kernel
		}
		for lines := bufio.NewScanner(f); lines.Scan() && total < maxSockets; {
			s, ok := parseSocket(lines.Text())
			if !ok {
				continue
			}
			batch, total = append(batch, s), total+1
			if len(batch) == socketsPerReply {
				if !send(fd, reply{Version: protocolVersion, Sockets: batch, More: true}) {
					f.Close()
					return
				}
				batch = batch[:0]
			}
		}
		f.Close()
	}
	send(fd, reply{Version: protocolVersion, Sockets: batch})
}

func send(fd int, r reply) bool {
	data, err := json.Marshal(r)
	if err != nil {
		return false
	}
	_, err = retry(func() (int, error) { return unix.SendmsgN(fd, data, nil, nil, unix.MSG_NOSIGNAL) })
	return err == nil
}

func retry(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}
