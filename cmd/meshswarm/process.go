package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process names a process for good: a number alone may belong to another one later, a number with its start may not.
type process struct {
	PID int
	// Start is when the kernel started it, in clock ticks since boot (proc_pid_stat(5), field 22).
	Start uint64
}

var errNoProcess = errors.New("no such process")

// findProcess names the process that has this number now.
func findProcess(pid int) (process, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return process{}, errNoProcess
	}
	state, start, err := parseStat(string(text))
	if err != nil {
		return process{}, err
	}
	if state == "Z" || state == "X" {
		return process{}, errNoProcess
	}
	return process{pid, start}, nil
}

// parseStat reads state and start out of /proc/PID/stat. The second field is the program's name in parentheses and may
// hold anything, parentheses too.
func parseStat(text string) (state string, start uint64, err error) {
	const startField = 22 - 3 // counted from the state, which is field 3
	fields := strings.Fields(text[strings.LastIndex(text, ")")+1:])
	if len(fields) <= startField {
		return "", 0, fmt.Errorf("read process status %q: too short", text)
	}
	start, err = strconv.ParseUint(fields[startField], 10, 64)
	if err != nil {
		return "", 0, fmt.Errorf("read process status: %w", err)
	}
	return fields[0], start, nil
}

func (p process) alive() bool {
	now, err := findProcess(p.PID)
	return err == nil && now == p
}

// signal reaches this process or nobody. The gap between looking and signalling is closed by the kernel handle.
func (p process) signal(s syscall.Signal) error {
	handle, err := os.FindProcess(p.PID)
	if err != nil {
		return errNoProcess
	}
	defer handle.Release()
	if !p.alive() {
		return errNoProcess
	}
	return handle.Signal(s)
}

// wait returns when the process has ended.
func (p process) wait(ctx context.Context) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for p.alive() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for process %d to end: %w", p.PID, context.Cause(ctx))
		case <-tick.C:
		}
	}
	return nil
}
