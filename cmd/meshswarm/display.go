package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/moby/term"
)

// display shows named lines that change: in place on a terminal, as new lines elsewhere, or not at all.
type display interface {
	// set gives a line its text. Lines keep the order of their first set. The line "" shows its text alone.
	set(name, text string)
	// flush shows what was set since the last flush.
	flush()
	// close shows the last state.
	close()
}

func newDisplay(out io.Writer, quiet bool) display {
	if quiet {
		return silent{}
	}
	if f := file(out); f != nil && term.IsTerminal(f.Fd()) {
		return &liveDisplay{lines: newLines(), out: out, size: func() (int, int) {
			size, err := term.GetWinsize(f.Fd())
			if err != nil || size.Width == 0 || size.Height == 0 {
				return 80, 24
			}
			return int(size.Width), int(size.Height)
		}}
	}
	return &plainDisplay{lines: newLines(), out: out}
}

type silent struct{}

func (silent) set(string, string) {}
func (silent) flush()             {}
func (silent) close()             {}

// lines remembers texts by name, in order.
type lines struct {
	order   []string
	text    map[string]string
	changed []string
}

func newLines() lines { return lines{text: map[string]string{}} }

func (l *lines) set(name, text string) {
	old, known := l.text[name]
	if known && old == text {
		return
	}
	if !known {
		l.order = append(l.order, name)
	}
	l.text[name] = text
	if !slices.Contains(l.changed, name) {
		l.changed = append(l.changed, name)
	}
}

// labelled is a line; one without a name is its text alone.
func labelled(name, text string) string {
	if name == "" {
		return text
	}
	return name + ": " + text
}

// plainDisplay prints a line whenever its text changed.
type plainDisplay struct {
	lines
	out io.Writer
}

func (d *plainDisplay) flush() {
	for _, name := range d.changed {
		if text := d.text[name]; text != "" {
			fmt.Fprintln(d.out, labelled(name, strings.TrimRight(text, " ")))
		}
	}
	d.changed = nil
}

func (d *plainDisplay) close() { d.flush() }

// liveDisplay redraws the block of lines where it stands.
type liveDisplay struct {
	lines
	out   io.Writer
	size  func() (width, height int)
	drawn int
}

func (d *liveDisplay) flush() {
	if len(d.changed) == 0 {
		return
	}
	d.changed = nil
	width, height := d.size()
	var frame strings.Builder
	if d.drawn > 0 {
		fmt.Fprintf(&frame, "\x1b[%dA", d.drawn)
	}
	shown := d.order
	if len(shown) >= height {
		shown = shown[:height-1]
	}
	for _, name := range shown {
		fmt.Fprintf(&frame, "\r%s\x1b[K\n", ellipsis(labelled(name, d.text[name]), width-1))
	}
	d.drawn = len(shown)
	io.WriteString(d.out, frame.String())
}

func (d *liveDisplay) close() { d.flush() }
