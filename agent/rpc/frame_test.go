package rpc

import (
	"bytes"
	"errors"
	"io"
	"runtime"
	"testing"
)

func TestFrames(t *testing.T) {
	buf, err := AppendFrame(nil, []byte("hello"), MaxUp)
	if err != nil {
		t.Fatal(err)
	}
	if buf, err = AppendFrame(buf, nil, MaxUp); err != nil {
		t.Fatal(err)
	}
	r := bytes.NewReader(buf)
	if m, err := ReadFrame(r, MaxUp); err != nil || string(m) != "hello" {
		t.Errorf("%q, %v", m, err)
	}
	if m, err := ReadFrame(r, MaxUp); err != nil || len(m) != 0 {
		t.Errorf("empty: %q, %v", m, err)
	}
	if _, err := ReadFrame(r, MaxUp); err != io.EOF {
		t.Errorf("end: %v", err)
	}
	if _, err := AppendFrame(nil, make([]byte, 5), 4); !errors.Is(err, ErrMessageSize) {
		t.Errorf("too large to send: %v", err)
	}
	if _, err := ReadFrame(bytes.NewReader(buf), 4); !errors.Is(err, ErrMessageSize) {
		t.Errorf("too large to receive: %v", err)
	}
	if _, err := ReadFrame(bytes.NewReader(buf[:6]), MaxUp); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut short: %v", err)
	}
}

// A length alone must not make the reader take memory.
func TestFrameMemory(t *testing.T) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 100 {
		_, _ = ReadFrame(bytes.NewReader([]byte{0, 0xff, 0xff, 0xff}), MaxDown)
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 50<<20 {
		t.Errorf("100 promised messages took %d bytes", got)
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, '{'})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 2, '1', '2'})
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		var again []byte
		for {
			m, err := ReadFrame(r, 1<<10)
			if err != nil {
				break
			}
			if again, err = AppendFrame(again, m, 1<<10); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.HasPrefix(data, again) {
			t.Fatal("frames do not survive a round trip")
		}
	})
}
