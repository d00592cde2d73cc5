package images

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseDepends(t *testing.T) {
	tree := `nginx
  Depends: libc6
 |Depends: debconf
  PreDepends: <awk>
libc6
  Depends: libgcc-s1
debconf
<awk>
libgcc-s1
libc6
perl:any
`
	if diff := cmp.Diff([]string{"nginx", "libc6", "libgcc-s1"}, parseDepends(tree)); diff != "" {
		t.Error(diff)
	}
}

func TestResolve(t *testing.T) {
	full := t.TempDir()
	if err := addFile(full, "/usr/lib/real.so.1", "x"); err != nil {
		t.Fatal(err)
	}
	for link, target := range map[string]string{
		"relative": "real.so.1", "absolute": "/usr/lib/real.so.1", "merged": "/lib/real.so.1", "loop": "loop", "broken": "gone",
	} {
		if err := os.Symlink(target, filepath.Join(full, "usr/lib", link)); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{"/usr/lib/real.so.1", "/lib/real.so.1", "/usr/lib/relative", "/usr/lib/absolute", "/usr/lib/merged", "/lib/merged"} {
		got, err := resolve(full, path)
		if want := filepath.Join(full, "usr/lib/real.so.1"); err != nil || got != want {
			t.Errorf("resolve %s: %s, %v", path, got, err)
		}
	}
	for _, path := range []string{"/usr/lib/loop", "/usr/lib/broken", "/nowhere"} {
		if got, err := resolve(full, path); err == nil {
			t.Errorf("resolve %s: %s", path, got)
		}
	}
}

// TestTarIsReproducible: the digest of an image must not depend on when or by whom it was made.
func TestTarIsReproducible(t *testing.T) {
	digest := func() (string, []string) {
		root := t.TempDir()
		for path, text := range map[string]string{"/etc/passwd": passwd, "/tmp/": "", "/bin/x": "x"} {
			if err := addFile(root, path, text); err != nil {
				t.Fatal(err)
			}
		}
		path := filepath.Join(t.TempDir(), "t")
		if err := writeTar(root, path); err != nil {
			t.Fatal(err)
		}
		d, err := fileDigest(path)
		if err != nil {
			t.Fatal(err)
		}
		return d, entries(t, path)
	}
	first, names := digest()
	if second, _ := digest(); first != second {
		t.Errorf("%s and %s", first, second)
	}
	if want := []string{"bin/", "bin/x", "etc/", "etc/passwd", "tmp/"}; !slices.Equal(names, want) {
		t.Errorf("tar holds %v, not %v", names, want)
	}
}

func entries(t *testing.T, path string) []string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var names []string
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
	}
}
