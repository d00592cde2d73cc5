package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// ErrSetup is wrapped by errors of Ask when the sandbox itself reported why it could not set up.
var ErrSetup = errors.New("sandbox setup")

// Ask gets the descriptors from the sandbox whose shared folder is dir. It waits, until ctx ends, for a sandbox that is
// still setting up. It may be called again at any time, also by another process; each time there are new duplicates.
func Ask(ctx context.Context, dir string) (*Handover, error) {
	wait := 2 * time.Millisecond
	for {
		h, err := ask(ctx, dir)
		if err == nil || !notReady(err) {
			return h, err
		}
		if text, rerr := readLimited(filepath.Join(dir, ErrorFile), 4096); rerr == nil && len(text) > 0 {
			return nil, fmt.Errorf("%w: %s", ErrSetup, text)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for the sandbox (%w): %w", context.Cause(ctx), err)
		case <-time.After(wait):
			wait = min(wait+wait/4, 100*time.Millisecond)
		}
	}
}

// Sockets lists the task's TCP connections that are past the handshake.
func Sockets(ctx context.Context, dir string) ([]Socket, error) {
	c, err := dial(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := writeRequest(c, wantSockets); err != nil {
		return nil, err
	}
	var out []Socket
	buf := make([]byte, maxReply+1)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return nil, fmt.Errorf("read sockets from the sandbox: %w", err)
		}
		r, err := parseReply(buf[:n])
		if err != nil {
			return nil, err
		}
		if out = append(out, r.Sockets...); len(out) > maxSockets {
			return nil, fmt.Errorf("%w: more than %d sockets", errProtocol, maxSockets)
		}
		if !r.More {
			return out, nil
		}
	}
}

// AskTraffic tells what is going on in the task's connections. Not every kernel can say, nor the sandbox of an older agent.
func AskTraffic(ctx context.Context, dir string) (Traffic, error) {
	c, err := dial(ctx, dir)
	if err != nil {
		return Traffic{}, err
	}
	defer c.Close()
	if err := writeRequest(c, wantTraffic); err != nil {
		return Traffic{}, err
	}
	buf := make([]byte, maxReply+1)
	n, err := c.Read(buf)
	if err != nil {
		return Traffic{}, fmt.Errorf("read traffic from the sandbox: %w", err)
	}
	r, err := parseReply(buf[:n])
	if err != nil {
		return Traffic{}, err
	}
	if r.Traffic == nil {
		return Traffic{}, fmt.Errorf("%w: no traffic in the reply", errProtocol)
	}
	return *r.Traffic, nil
}

// notReady recognizes a socket that is not there, or not listening, yet.
func notReady(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED)
}

func ask(ctx context.Context, dir string) (*Handover, error) {
	c, err := dial(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := writeRequest(c, wantHandover); err != nil {
		return nil, err
	}
	buf, oob := make([]byte, maxReply+1), make([]byte, unix.CmsgSpace(4*maxFiles))
	n, oobn, flags, _, err := c.ReadMsgUnix(buf, oob)
	if err != nil {
		return nil, fmt.Errorf("read from the sandbox: %w", err)
	}
	fds, err := parseRights(oob[:oobn])
	if err != nil {
		return nil, err
	}
	h, err := newHandover(buf[:n], flags, fds)
	if err != nil {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}
	return h, err
}

// dial connects through the folder's descriptor: a unix socket's path is limited to 107 bytes, the folder's is not.
func dial(ctx context.Context, dir string) (*net.UnixConn, error) {
	folder, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the sandbox's folder: %w", &os.PathError{Op: "open", Path: dir, Err: err})
	}
	defer unix.Close(folder)
	var d net.Dialer
	c, err := d.DialContext(ctx, "unixpacket", "/proc/self/fd/"+strconv.Itoa(folder)+"/"+SocketFile)
	if err != nil {
		return nil, fmt.Errorf("dial sandbox: %w", err)
	}
	deadline := time.Now().Add(clientTimeout * time.Second)
	if at, ok := ctx.Deadline(); ok && at.Before(deadline) {
		deadline = at
	}
	if err := c.SetDeadline(deadline); err != nil {
		c.Close()
		return nil, fmt.Errorf("dial sandbox: %w", err)
	}
	return c.(*net.UnixConn), nil
}

func writeRequest(c *net.UnixConn, want string) error {
	data, err := json.Marshal(request{Version: protocolVersion, Want: want})
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	if _, err := c.Write(data); err != nil {
		return fmt.Errorf("ask the sandbox: %w", err)
	}
	return nil
}

// parseRights takes the descriptors out of the control messages. Whatever it returns is open, also with an error.
func parseRights(oob []byte) ([]int, error) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("%w: control message: %v", errProtocol, err)
	}
	var fds []int
	for i := range msgs {
		if len(msgs[i].Data)%4 != 0 {
			continue // ParseUnixRights would panic
		}
		more, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			continue // not descriptors
		}
		fds = append(fds, more...)
	}
	return fds, nil
}

// newHandover checks the reply against the descriptors and wraps them. On error the descriptors stay the caller's.
func newHandover(data []byte, flags int, fds []int) (*Handover, error) {
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		return nil, fmt.Errorf("%w: reply is too long", errProtocol)
	}
	r, err := parseReply(data)
	if err != nil {
		return nil, err
	}
	devices, err := r.devices(len(fds))
	if err != nil {
		return nil, err
	}
	for i, fd := range fds {
		want := uint32(unix.S_IFSOCK)
		if i >= 2 && devices[i-2].Kind == KindTUN {
			want = unix.S_IFCHR
		}
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != want {
			return nil, fmt.Errorf("%w: descriptor %d is of the wrong type", errProtocol, i)
		}
	}
	h := &Handover{Devices: devices, Warnings: r.Warnings}
	h.DNSUDP = os.NewFile(uintptr(fds[0]), "dns-udp")
	h.DNSTCP = os.NewFile(uintptr(fds[1]), "dns-tcp")
	for i := range h.Devices {
		h.Devices[i].File = os.NewFile(uintptr(fds[i+2]), h.Devices[i].Name)
	}
	return h, nil
}
