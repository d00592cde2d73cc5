package sandbox

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
)

// Handover is what the agent gets from a sandbox. The files belong to the caller. They share their open file descriptions
// with the sandbox's own duplicates, and are non-blocking.
type Handover struct {
	Devices []Device
	// DNSUDP and DNSTCP are the sockets at 127.0.0.11:53 inside the namespace: a bound UDP socket, a listening TCP socket.
	DNSUDP, DNSTCP *os.File
	// Warnings tell what the namespace could not be given, in words.
	Warnings []string
}

// Device is one network interface of the task, seen from the agent.
type Device struct {
	DeviceSpec
	Kind Kind
	// File is the TUN (KindTUN) or the packet socket (KindPacket).
	File *os.File
	// MAC is the task's own hardware address (KindPacket only).
	MAC net.HardwareAddr
}

// Close closes all files that are still in the handover. Set those to nil that went to another owner.
func (h *Handover) Close() error {
	if h == nil {
		return nil
	}
	files := []*os.File{h.DNSUDP, h.DNSTCP}
	for _, d := range h.Devices {
		files = append(files, d.File)
	}
	var errs []error
	for _, f := range files {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// readLimited reads a small file whole, and refuses a larger one.
func readLimited(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return data, nil
}
