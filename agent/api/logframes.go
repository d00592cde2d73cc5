package api

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/docker/docker/pkg/stdcopy"
)

const (
	frameHeader = 8
	// maxFrame is the largest log record taken; engines cut lines at 16 KiB.
	maxFrame = 1 << 20
	maxLine  = 64 << 10
)

// errFrame is a stream that is not what an engine sends.
var errFrame = errors.New("damaged log stream")

// readLog reads an engine's log with timestamps, record by record. Each line is the callback's to keep.
func readLog(r io.Reader, tty bool, emit func(source string, at time.Time, line []byte) error) error {
	if tty {
		return readLines(r, emit)
	}
	br := bufio.NewReader(r)
	var head [frameHeader]byte
	for {
		if _, err := io.ReadFull(br, head[:]); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return fmt.Errorf("read log: %w", err)
		}
		size := binary.BigEndian.Uint32(head[4:])
		if size > maxFrame {
			return fmt.Errorf("%w: record of %d bytes", errFrame, size)
		}
		data := make([]byte, size)
		if _, err := io.ReadFull(br, data); err != nil {
			return fmt.Errorf("read log: %w", err)
		}
		source := ""
		switch stdcopy.StdType(head[0]) {
		case stdcopy.Stdin, stdcopy.Stdout:
			source = "stdout"
		case stdcopy.Stderr:
			source = "stderr"
		case stdcopy.Systemerr:
			return errors.New(string(bytes.TrimSpace(data)))
		default:
			return fmt.Errorf("%w: stream %d", errFrame, head[0])
		}
		at, line := cutTimestamp(data)
		if err := emit(source, at, line); err != nil {
			return err
		}
	}
}

// readLines reads a terminal's log, which has no frames.
func readLines(r io.Reader, emit func(source string, at time.Time, line []byte) error) error {
	br := bufio.NewReaderSize(r, maxLine)
	for {
		data, err := br.ReadSlice('\n')
		if len(data) > 0 {
			at, line := cutTimestamp(bytes.Clone(data))
			if eerr := emit("stdout", at, line); eerr != nil {
				return eerr
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return fmt.Errorf("read log: %w", err)
		}
	}
}

// cutTimestamp takes the leading RFC 3339 time off a record. A record without one keeps the zero time.
func cutTimestamp(data []byte) (time.Time, []byte) {
	stamp, line, ok := bytes.Cut(data, []byte(" "))
	if !ok || len(stamp) > len("2006-01-02T15:04:05.000000000+00:00") {
		return time.Time{}, data
	}
	at, err := time.Parse(time.RFC3339Nano, string(stamp))
	if err != nil {
		return time.Time{}, data
	}
	return at, line
}
