package images

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// debian is an image made of Debian packages: the named programs, what they need, and more files.
type debian struct {
	packages []string
	programs []string
	// keep are further paths out of the packages, files or folders.
	keep []string
	// add are files written on top, by path; folders end with a slash.
	add map[string]string
}

// skipped are packages that a package depends on for its installation only.
var skipped = []string{
	"adduser", "debconf", "cdebconf", "dpkg", "init-system-helpers", "iproute2", "lsb-base", "passwd", "perl", "perl-base",
	"procps", "sysvinit-utils", "tar", "libperl5", "nginx-core", "nginx-extras", "nginx-light", "logrotate",
}

const passwd = "root:x:0:0:root:/:/sbin/nologin\nwww-data:x:33:33:www-data:/var/www:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n"
const groups = "root:x:0:\nwww-data:x:33:\nadm:x:4:\nnogroup:x:65534:\n"

func makeNginx(ctx context.Context, b *Builder, tarPath string) error {
	return b.makeDebian(ctx, "nginx", tarPath, debian{
		packages: []string{"nginx"}, programs: []string{"/usr/sbin/nginx"}, keep: []string{"/etc/nginx/mime.types"},
		add: map[string]string{
			"/var/log/nginx/": "", "/var/lib/nginx/": "", "/run/": "", "/tmp/": "",
			"/etc/nginx/nginx.conf": nginxConf,
		},
	})
}

// nginxConf says who answers, and passes /web/ on to a service named web, found by Docker's DNS.
const nginxConf = `daemon off;
user www-data;
worker_processes 1;
error_log /dev/stderr warn;
pid /run/nginx.pid;
events { worker_connections 1024; }
http {
  include /etc/nginx/mime.types;
  access_log /dev/stdout;
  resolver 127.0.0.11 valid=1s;
  server {
    listen 80;
    location / { default_type text/plain; return 200 "nginx on $hostname, you are $remote_addr\n"; }
    location /web/ { set $service "http://web:8080/"; proxy_pass $service; }
  }
}
`

func makeRedis(ctx context.Context, b *Builder, tarPath string) error {
	return b.makeDebian(ctx, "redis", tarPath, debian{
		packages: []string{"redis-server"}, programs: []string{"/usr/bin/redis-server", "/usr/bin/redis-cli"},
		add: map[string]string{"/data/": "", "/tmp/": ""},
	})
}

func (b *Builder) makeDebian(ctx context.Context, name, tarPath string, d debian) error {
	work := filepath.Join(b.Dir, name)
	if err := os.RemoveAll(work); err != nil {
		return err
	}
	debs, full, root := filepath.Join(work, "debs"), filepath.Join(work, "full"), filepath.Join(work, "root")
	for _, dir := range []string{debs, full, root} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := unpack(ctx, debs, full, d.packages); err != nil {
		return err
	}
	for _, program := range d.programs {
		if err := copyProgram(full, root, program); err != nil {
			return fmt.Errorf("%s: %w", program, err)
		}
	}
	for _, path := range d.keep {
		if err := copyFile(full, root, path); err != nil {
			return err
		}
	}
	add := map[string]string{"/etc/passwd": passwd, "/etc/group": groups}
	for path, text := range d.add {
		add[path] = text
	}
	for path, text := range add {
		if err := addFile(root, path, text); err != nil {
			return err
		}
	}
	if err := writeTar(root, tarPath); err != nil {
		return err
	}
	return os.RemoveAll(work)
}

// unpack downloads packages with all they depend on and unpacks them into one folder.
func unpack(ctx context.Context, debs, full string, packages []string) error {
	names, err := closure(ctx, packages)
	if err != nil {
		return err
	}
	download := exec.CommandContext(ctx, "apt-get", append([]string{"download", "-q"}, names...)...)
	download.Dir = debs
	if out, err := download.CombinedOutput(); err != nil {
		return fmt.Errorf("%s\napt-get download: %w: %s", lastLines(out), err, aptHint)
	}
	files, err := filepath.Glob(filepath.Join(debs, "*.deb"))
	if err != nil {
		return err
	}
	for _, f := range files {
		if out, err := exec.CommandContext(ctx, "dpkg-deb", "-x", f, full).CombinedOutput(); err != nil {
			return fmt.Errorf("dpkg-deb -x %s: %w\n%s", f, err, out)
		}
	}
	return nil
}

// closure lists packages and what they depend on.
func closure(ctx context.Context, packages []string) ([]string, error) {
	if _, err := exec.LookPath("apt-cache"); err != nil {
		return nil, errors.New("the example images are made from Debian packages: this needs a Debian-like machine with apt")
	}
	args := append([]string{
		"depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks", "--no-replaces", "--no-enhances",
	}, packages...)
	out, err := exec.CommandContext(ctx, "apt-cache", args...).Output()
	if err != nil && os.Getuid() == 0 {
		// A new machine has no package lists yet.
		if out, err := exec.CommandContext(ctx, "apt-get", "update", "-q").CombinedOutput(); err != nil {
			return nil, fmt.Errorf("%s\napt-get update: %w: %s", lastLines(out), err, aptHint)
		}
		out, err = exec.CommandContext(ctx, "apt-cache", args...).Output()
	}
	if err != nil {
		return nil, fmt.Errorf("apt-cache depends %s: %w: %s", strings.Join(packages, " "), err, aptHint)
	}
	return parseDepends(string(out)), nil
}

// aptHint is what a person can do when apt does not deliver.
const aptHint = "the example images are made from Debian packages: check the network, and run `apt-get update` as root"

// lastLines is the end of what a program said: apt says a line per package, and the reason last.
func lastLines(out []byte) []byte {
	const most = 5
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	return bytes.Join(lines[max(0, len(lines)-most):], []byte("\n"))
}

// parseDepends takes the package names, which start in the first column, out of apt-cache's tree. Names in angle
// brackets are virtual packages.
func parseDepends(tree string) []string {
	var names []string
	for line := range strings.Lines(tree) {
		name := strings.TrimRight(line, "\n")
		plain, _, _ := strings.Cut(name, ":")
		if name == "" || strings.ContainsAny(name, " <|") || slices.Contains(skipped, plain) || slices.Contains(names, name) {
			continue
		}
		names = append(names, name)
	}
	return names
}

// libraryFolders are where Debian keeps shared libraries, below the architecture's folder.
func libraryFolders(full string) []string {
	var found []string
	for _, pattern := range []string{"lib/*-linux-gnu*", "usr/lib/*-linux-gnu*", "lib64", "lib"} {
		dirs, _ := filepath.Glob(filepath.Join(full, pattern))
		found = append(found, dirs...)
	}
	return found
}

// copyProgram copies a program with its loader and libraries, and theirs, to the places where they were.
func copyProgram(full, root, path string) error {
	if _, err := os.Lstat(filepath.Join(root, path)); err == nil {
		return nil
	}
	if err := copyFile(full, root, path); err != nil {
		return err
	}
	file, err := elf.Open(filepath.Join(root, path))
	if err != nil {
		return err
	}
	defer file.Close()
	needed, err := file.ImportedLibraries()
	if err != nil {
		return err
	}
	for _, p := range file.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		loader := make([]byte, p.Filesz)
		if _, err := p.ReadAt(loader, 0); err != nil {
			return err
		}
		if err := copyFile(full, root, strings.TrimRight(string(loader), "\x00")); err != nil {
			return err
		}
	}
	for _, library := range needed {
		at, err := findLibrary(full, library)
		if err != nil {
			return err
		}
		if err := copyProgram(full, root, at); err != nil {
			return err
		}
	}
	return nil
}

func findLibrary(full, name string) (string, error) {
	for _, dir := range libraryFolders(full) {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return "/" + strings.TrimPrefix(strings.TrimPrefix(dir, full), "/") + "/" + name, nil
		}
	}
	return "", fmt.Errorf("library %s is in none of the packages", name)
}

// copyFile copies what a path means, links followed within the tree, to the same path.
func copyFile(full, root, path string) error {
	from, err := resolve(full, path)
	if err != nil {
		return err
	}
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	to := filepath.Join(root, path)
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.WriteFile(to, content, info.Mode().Perm())
}

// resolve follows links as inside the image: absolute ones start at its root. Where only /usr/lib has a path that was
// asked for in /lib, it is taken from there (merged /usr).
func resolve(full, path string) (string, error) {
	for range 10 {
		at := filepath.Join(full, path)
		info, err := os.Lstat(at)
		if errors.Is(err, fs.ErrNotExist) && !strings.HasPrefix(path, "/usr/") {
			path = "/usr" + path
			continue
		}
		if err != nil {
			return "", err
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			return at, nil
		}
		target, err := os.Readlink(at)
		if err != nil {
			return "", err
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(path), target)
		}
		path = target
	}
	return "", fmt.Errorf("too many links at %s", path)
}

func addFile(root, path, text string) error {
	at := filepath.Join(root, path)
	if strings.HasSuffix(path, "/") {
		return os.MkdirAll(at, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return err
	}
	return os.WriteFile(at, []byte(text), 0o644)
}
