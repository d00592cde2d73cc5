package raft

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	hraft "github.com/hashicorp/raft"
)

func TestLogger(t *testing.T) {
	var buf bytes.Buffer
	l := newLogger(slog.New(slog.NewTextHandler(&buf, &slog.HandlerOptions{Level: slog.LevelInfo})))
	l.Info("entering follower state", "follower", "x")
	if buf.Len() != 0 {
		t.Errorf("inner life is logged: %s", &buf)
	}
	for range 3 {
		l.Error("failed to heartbeat to", "peer", hraft.ServerAddress("a:1"), "error", errors.New("refused"))
	}
	l.With("peer", "b:1").Error("failed to heartbeat to", "odd")
	l.Warn("servers", "list", hclog.Fmt("%d of %d", 1, 2))
	got := strings.Split(strings.TrimSpace(buf.String()), "\n")
	if len(got) != 3 {
		t.Fatalf("%d lines:\n%s", len(got), &buf)
	}
	for i, want := range [][]string{
		{"level=WARN", `msg="failed to heartbeat to"`, "peer=a:1", "err=refused"},
		{"level=WARN", "peer=b:1"},
		{"level=INFO", `list="1 of 2"`},
	} {
		for _, w := range want {
			if !strings.Contains(got[i], w) {
				t.Errorf("line %d lacks %s: %s", i, w, got[i])
			}
		}
	}
}

func TestRepeats(t *testing.T) {
	r := repeats{last: map[string]time.Time{}}
	now := time.Unix(1, 0)
	if !r.fresh("a", now) || r.fresh("a", now.Add(repeatAfter-1)) || !r.fresh("b", now) || !r.fresh("a", now.Add(repeatAfter)) {
		t.Error("wrong things are repeated")
	}
}
