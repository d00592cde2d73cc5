package state

import (
	"bytes"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"net/netip"
)

// dump is the snapshot of a store.
func dump(t testing.TB, s *Store) string {
	t.Helper()
	var buf bytes.Buffer
	if err := s.View().Snapshot(&buf); err != nil {
		t.Fatal(err)
	}
	return buf.String()
}

// body is a snapshot without its head and foot, which tell the index.
func body(snapshot string) string {
	lines := strings.Split(strings.TrimSpace(snapshot), "\n")
	return strings.Join(lines[1:len(lines)-1], "\n")
}

func sampleBatch() Batch {
	n := network("net1", "frontend")
	return Batch{Time: t0, Ops: []Op{
		create(service("s1", "web")),
		create(&Revision{ServiceID: "s1", SpecVersion: 1}),
		create(task("t1", "net1", "10.0.16.5/24", "fd00::5/64")),
		{Action: Update, Object: n, Expected: 7, SpecChange: true},
		{Action: Delete, Object: &Revision{ServiceID: "s1", SpecVersion: 3}},
		{Action: Delete, Object: &Node{ID: "n1"}, Expected: 4},
		create(&Cluster{ID: "c1", MeshSubnet: netip.MustParsePrefix("100.127.0.0/16")}),
	}}
}

func TestEncodeDecode(t *testing.T) {
	b := sampleBatch()
	data, err := b.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeBatch(data)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(b, got, cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{}, netip.AddrPort{})); d != "" {
		t.Error(d)
	}
	again, err := got.Encode()
	if err != nil || !bytes.Equal(data, again) {
		t.Errorf("encoding differs: %s, %s, %v", data, again, err)
	}
	local := b
	local.Time = b.Time.In(time.FixedZone("x", 3600))
	if other, _ := local.Encode(); !bytes.Equal(data, other) {
		t.Error("the time zone shows")
	}
}

func TestEncodeRefuses(t *testing.T) {
	big := service("s", "web")
	big.Spec.Labels = map[string]string{"x": strings.Repeat("x", MaxBatch)}
	late := service("s", "web")
	late.CreatedAt = time.Unix(math.MaxInt32*1000, 0)
	for name, tt := range map[string]struct {
		op   Op
		want error
	}{
		"no object":    {Op{Action: Create}, ErrInvalid},
		"no action":    {Op{Object: big}, ErrInvalid},
		"too large":    {create(big), ErrTooLarge},
		"year 10000":   {create(late), nil},
		"huge delete ": {Op{Action: Delete, Object: big}, errNone},
	} {
		_, err := Batch{Ops: []Op{tt.op}}.Encode()
		if tt.want == errNone && err != nil || tt.want != errNone && (err == nil || !errors.Is(err, tt.want) && tt.want != nil) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

var errNone = errors.New("no error")

func TestDecodeRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		data string
		want error
	}{
		"empty":              {"", ErrInvalid},
		"newer version":      {"\x02{}", ErrInvalid},
		"no JSON":            {"\x01{", ErrInvalid},
		"unknown kind":       {`` + "\x01" + `{"Ops":[{"Action":"create","Kind":"ship","Object":{}}]}`, ErrInvalid},
		"unknown kind gone":  {"\x01" + `{"Ops":[{"Action":"delete","Kind":"ship","Key":"x"}]}`, ErrInvalid},
		"unknown action":     {"\x01" + `{"Ops":[{"Action":"eat","Kind":"task","Object":{}}]}`, ErrInvalid},
		"no content":         {"\x01" + `{"Ops":[{"Action":"create","Kind":"task"}]}`, ErrInvalid},
		"wrong content":      {"\x01" + `{"Ops":[{"Action":"create","Kind":"task","Object":[1]}]}`, ErrInvalid},
		"bad revision key":   {"\x01" + `{"Ops":[{"Action":"delete","Kind":"revision","Key":"x"}]}`, ErrInvalid},
		"bad cluster key":    {"\x01" + `{"Ops":[{"Action":"delete","Kind":"cluster","Key":"x"}]}`, ErrInvalid},
		"beyond the maximum": {"\x01" + strings.Repeat(" ", MaxBatch), ErrTooLarge},
	} {
		if _, err := DecodeBatch([]byte(tt.data)); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzDecodeBatch(f *testing.F) {
	data, err := sampleBatch().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte("\x01{}"))
	f.Add([]byte("\x01" + `{"Ops":[{"Action":"create","Kind":"task","Object":null}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := DecodeBatch(data)
		if err != nil {
			return
		}
		// What can be decoded can be applied, or is refused, without a panic, and is encoded the same ever after.
		one, err := b.Encode()
		if err != nil {
			return // e.g. it grew over the maximum
		}
		c, err := DecodeBatch(one)
		if err != nil {
			t.Fatalf("own encoding refused: %v", err)
		}
		two, err := c.Encode()
		if err != nil || !bytes.Equal(one, two) {
			t.Fatalf("encoding is not stable: %v\n%s\n%s", err, one, two)
		}
		s := New()
		_ = s.Apply(1, b)
		checkClaims(t, s)
	})
}
