package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// readyFD is the descriptor on which a spawned node reports.
const readyFD = 3

// readyMessage is the one line that a spawned node writes to its parent.
type readyMessage struct {
	Info  *nodeInfo `json:",omitempty"`
	Error string    `json:",omitempty"`
}

// report is the child's end of that line. Without a descriptor it does nothing.
type report struct{ f *os.File }

func newReport(fd int64) *report {
	if fd == 0 {
		return &report{}
	}
	syscall.CloseOnExec(int(fd))
	return &report{os.NewFile(uintptr(fd), "ready")}
}

// asked tells whether a parent waits for the report (and will greet the person itself).
func (r *report) asked() bool { return r.f != nil }

func (r *report) ready(info nodeInfo) { r.send(readyMessage{Info: &info}) }
func (r *report) failed(err error)    { r.send(readyMessage{Error: err.Error()}) }

func (r *report) send(m readyMessage) {
	if r.f != nil {
		// A parent that went away does not matter to the node.
		_ = json.NewEncoder(r.f).Encode(m)
	}
}

func (r *report) close() {
	if r.f != nil {
		r.f.Close()
	}
}

// spawned is a node that runs as a process of its own.
type spawned struct {
	pid  int
	info nodeInfo
}

// spawn starts `meshswarm up` in a session of its own and returns when it is ready, or with the reason why not. A
// start that ctx interrupts is taken back.
func spawn(ctx context.Context, o *upOptions, logPath string) (spawned, error) {
	self, err := os.Executable()
	if err != nil {
		return spawned{}, fmt.Errorf("find own program: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(logPath), 0o700); err != nil {
		return spawned{}, fmt.Errorf("create folder for the log: %w", err)
	}
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return spawned{}, fmt.Errorf("open log: %w", err)
	}
	defer log.Close()
	start, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return spawned{}, fmt.Errorf("open log: %w", err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return spawned{}, fmt.Errorf("make pipe: %w", err)
	}
	defer r.Close()

	cmd := exec.Command(self, append([]string{"up", "--ready-fd", strconv.Itoa(readyFD)}, o.flags()...)...)
	cmd.Dir = "/"
	cmd.Stdin = strings.NewReader(o.token)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return spawned{}, fmt.Errorf("start node: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })
	defer stop()

	var message readyMessage
	err = json.NewDecoder(r).Decode(&message)
	if err == nil && message.Info != nil {
		pid := cmd.Process.Pid // Release forgets it
		return spawned{pid: pid, info: *message.Info}, cmd.Process.Release()
	}
	// It ends by itself: it said why, or it is gone.
	waitErr := cmd.Wait()
	switch {
	case ctx.Err() != nil:
		return spawned{}, fmt.Errorf("start of the node interrupted: %w; its log is %s", context.Cause(ctx), logPath)
	case message.Error != "":
		return spawned{}, errors.New(message.Error)
	}
	return spawned{}, fmt.Errorf("the node ended before it was ready (%v); the end of its log %s:\n%s", waitErr, logPath, tail(logPath, start))
}

// tail is the end of what a file got after an offset.
func tail(path string, after int64) string {
	const most = 2048
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil {
		after = max(after, info.Size()-most)
	}
	text, err := io.ReadAll(io.NewSectionReader(f, after, most))
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(text))
}
