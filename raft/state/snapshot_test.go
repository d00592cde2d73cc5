package state

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func sampleStore(t testing.TB) *Store {
	t.Helper()
	s := New()
	n := network("net1", "frontend")
	mustApply(t, s, create(n), create(service("s1", "web")), create(&Revision{ServiceID: "s1", SpecVersion: 1}),
		create(task("t1", "net1", "10.0.16.5/24")), create(&Node{ID: "n1"}), create(&Cluster{ID: "c1"}))
	_ = apply(t, s, create(n)) // refused: the index moves all the same
	return s
}

func TestSnapshotRestore(t *testing.T) {
	s := sampleStore(t)
	data := dump(t, s)
	r := New()
	mustApply(t, r, create(&Node{ID: "old"}))
	if err := r.Restore(iotest.OneByteReader(strings.NewReader(data))); err != nil {
		t.Fatal(err)
	}
	if got := dump(t, r); got != data || r.Index() != s.Index() {
		t.Errorf("restored:\n%s\nwant:\n%s", got, data)
	}
	checkClaims(t, r)
	if err := apply(t, r, create(task("t2", "net1", "10.0.16.5/24"))); !errors.Is(err, ErrTaken) {
		t.Errorf("claims are not restored: %v", err)
	}
}

func TestRestoreRefuses(t *testing.T) {
	data := dump(t, sampleStore(t))
	lines := strings.SplitAfter(data, "\n")
	errRead := errors.New("disk broke")
	for name, tt := range map[string]struct {
		r    io.Reader
		want error
	}{
		"empty":             {strings.NewReader(""), ErrDamaged},
		"cut in a line":     {strings.NewReader(data[:len(data)/2]), ErrDamaged},
		"without the foot":  {strings.NewReader(strings.Join(lines[:len(lines)-2], "")), ErrDamaged},
		"an object less":    {strings.NewReader(strings.Join(append(append([]string{}, lines[:2]...), lines[3:]...), "")), ErrDamaged},
		"an object twice":   {strings.NewReader(strings.Join(append(append([]string{}, lines[:2]...), lines[1:]...), "")), ErrDamaged},
		"a byte changed":    {strings.NewReader(strings.Replace(data, "frontend", "frontenD", 1)), ErrDamaged},
		"more after it":     {strings.NewReader(data + "x"), ErrDamaged},
		"newer version":     {strings.NewReader(strings.Replace(data, `"Version":1`, `"Version":2`, 1)), ErrDamaged},
		"another format":    {strings.NewReader(`{"Format":"x","Version":1}` + "\n"), ErrDamaged},
		"endless line":      {io.LimitReader(zeros{}, 1<<30), ErrDamaged},
		"reader that fails": {io.MultiReader(strings.NewReader(lines[0]), iotest.ErrReader(errRead)), errRead},
	} {
		t.Run(name, func(t *testing.T) {
			s := New()
			mustApply(t, s, create(&Node{ID: "old"}))
			_, w := s.ViewAndWatch()
			defer w.Close()
			before := dump(t, s)
			if err := s.Restore(tt.r); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if dump(t, s) != before || w.at == nil {
				t.Error("a failed restore changed something")
			}
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '0'
	}
	return len(p), nil
}

func TestSnapshotReportsWriteErrors(t *testing.T) {
	r, w := io.Pipe()
	_ = r.Close()
	if err := sampleStore(t).View().Snapshot(w); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("got %v", err)
	}
}

func FuzzRestore(f *testing.F) {
	data := dump(f, sampleStore(f))
	f.Add([]byte(data))
	f.Add([]byte(dump(f, New())))
	f.Add([]byte(data[:len(data)-10]))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := New()
		if err := s.Restore(bytes.NewReader(data)); err != nil {
			if s.Index() != 0 || len(s.View().Tasks()) != 0 {
				t.Fatal("a failed restore changed something")
			}
			return
		}
		checkClaims(t, s)
		if err := New().Restore(strings.NewReader(dump(t, s))); err != nil {
			t.Fatalf("own snapshot refused: %v", err)
		}
	})
}
