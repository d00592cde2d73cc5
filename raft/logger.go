package raft

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// repeatAfter is how often the same message, about the same peer, may be said again: hashicorp/raft complains about an
// unreachable peer with every attempt.
const repeatAfter = time.Minute

// logger gives hashicorp/raft's messages to slog. Its levels move down by one: what it calls an error is an attempt that
// it repeats by itself, and what it calls info is its inner life. What ends Run is reported by Run.
type logger struct {
	out    *slog.Logger
	args   []any // what With added
	said   *repeats
	prefix string
}

func newLogger(out *slog.Logger) *logger {
	return &logger{out: out, said: &repeats{last: map[string]time.Time{}}}
}

// repeats remembers what was said when, across all loggers made out of one.
type repeats struct {
	mu   sync.Mutex
	last map[string]time.Time
}

// fresh tells whether a message may be said now.
func (r *repeats) fresh(key string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if at, ok := r.last[key]; ok && now.Sub(at) < repeatAfter {
		return false
	}
	if len(r.last) > 1000 { // a bound, should the keys vary
		clear(r.last)
	}
	r.last[key] = now
	return true
}

func levelOf(l hclog.Level) slog.Level {
	switch l {
	case hclog.Error:
		return slog.LevelWarn
	case hclog.Warn:
		return slog.LevelInfo
	default:
		return slog.LevelDebug
	}
}

func (l *logger) Log(level hclog.Level, msg string, args ...any) {
	ctx, at := context.Background(), levelOf(level)
	if !l.out.Enabled(ctx, at) {
		return
	}
	attrs := l.attrs(args)
	if at > slog.LevelDebug && !l.said.fresh(msg+peerOf(attrs), time.Now()) {
		return
	}
	l.out.LogAttrs(ctx, at, l.prefix+msg, attrs...)
}

func (l *logger) attrs(args []any) []slog.Attr {
	all := append(append([]any(nil), l.args...), args...)
	var out []slog.Attr
	for i := 0; i+1 < len(all); i += 2 {
		key := fmt.Sprint(all[i])
		switch key {
		case "error":
			key = "err"
		case "server-id", "last-leader-id", "leader-id":
			key = "peer"
		}
		v := all[i+1]
		if f, ok := v.(hclog.Format); ok && len(f) > 0 {
			v = fmt.Sprintf(fmt.Sprint(f[0]), f[1:]...)
		}
		out = append(out, slog.String(key, fmt.Sprint(v)))
	}
	return out
}

func peerOf(attrs []slog.Attr) string {
	for _, a := range attrs {
		if a.Key == "peer" {
			return " " + a.Value.String()
		}
	}
	return ""
}

func (l *logger) Trace(string, ...any)           {}
func (l *logger) Debug(msg string, args ...any)  { l.Log(hclog.Debug, msg, args...) }
func (l *logger) Info(msg string, args ...any)   { l.Log(hclog.Info, msg, args...) }
func (l *logger) Warn(msg string, args ...any)   { l.Log(hclog.Warn, msg, args...) }
func (l *logger) Error(msg string, args ...any)  { l.Log(hclog.Error, msg, args...) }
func (l *logger) IsTrace() bool                  { return false }
func (l *logger) IsDebug() bool                  { return l.out.Enabled(context.Background(), slog.LevelDebug) }
func (l *logger) IsInfo() bool                   { return l.IsDebug() }
func (l *logger) IsWarn() bool                   { return true }
func (l *logger) IsError() bool                  { return true }
func (l *logger) ImpliedArgs() []any             { return l.args }
func (l *logger) Name() string                   { return "raft" }
func (l *logger) Named(name string) hclog.Logger { return l.ResetNamed(l.prefix + name) }
func (l *logger) SetLevel(hclog.Level)           {}
func (l *logger) GetLevel() hclog.Level          { return hclog.Debug }

func (l *logger) With(args ...any) hclog.Logger {
	c := *l
	c.args = append(append([]any(nil), l.args...), args...)
	return &c
}

func (l *logger) ResetNamed(name string) hclog.Logger {
	c := *l
	c.prefix = name + ": "
	return &c
}

func (l *logger) StandardLogger(*hclog.StandardLoggerOptions) *log.Logger {
	return slog.NewLogLogger(l.out.Handler(), slog.LevelDebug)
}

func (l *logger) StandardWriter(o *hclog.StandardLoggerOptions) io.Writer {
	return l.StandardLogger(o).Writer()
}
