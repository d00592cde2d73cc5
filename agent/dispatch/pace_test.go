package dispatch

import (
	"testing"
	"time"
)

// A few at once after a quiet time, then one per gap; what costs more takes longer.
func TestPace(t *testing.T) {
	p := pace{gap: 10 * time.Millisecond, burst: 3}
	now := time.Now()
	for i, want := range []time.Duration{0, 0, 0, 10, 20} {
		if got := p.wait(now); got != want*time.Millisecond {
			t.Errorf("%d at once: wait %s, want %d ms", i, got, want)
		}
		p.took(now, 0)
	}
	now = now.Add(40 * time.Millisecond)
	if got := p.wait(now); got != 0 {
		t.Errorf("after some time: wait %s", got)
	}
	p.took(now, 100*time.Millisecond)
	if got := p.wait(now); got != 90*time.Millisecond {
		t.Errorf("after a costly one: wait %s", got)
	}
	if got := p.wait(now.Add(time.Hour)); got != 0 {
		t.Errorf("after a quiet time: wait %s", got)
	}
}
