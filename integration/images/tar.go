package images

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// writeTar packs a folder as an image's root: all belongs to root, /tmp and /data to everybody, and no time stands in
// it, so that the same files make the same tar.
func writeTar(root, path string) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := tar.NewWriter(f)
	err = filepath.WalkDir(root, func(at string, d fs.DirEntry, err error) error {
		if err != nil || at == root {
			return err
		}
		name, err := filepath.Rel(root, at)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		header, err := tar.FileInfoHeader(info, "")
		if err != nil {
			return err
		}
		header.Name, header.ModTime = name, time.Unix(0, 0)
		header.Uid, header.Gid, header.Uname, header.Gname = 0, 0, "", ""
		if d.IsDir() {
			header.Name += "/"
			header.Mode = 0o755
			if name == "tmp" || name == "data" {
				header.Mode = 0o1777
			}
		}
		if err := w.WriteHeader(header); err != nil {
			return err
		}
		if !d.Type().IsRegular() {
			return nil
		}
		return copyInto(w, at)
	})
	return errors.Join(err, w.Close())
}

func copyInto(w io.Writer, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}

func makeWeb(ctx context.Context, b *Builder, tarPath string) error {
	return b.makeStatic(ctx, "web", "./examples/web", tarPath)
}

func makeProbe(ctx context.Context, b *Builder, tarPath string) error {
	return b.makeStatic(ctx, "probe", "./integration/probe", tarPath)
}

// makeStatic builds a program without cgo and puts nothing but it into an image, as /name.
func (b *Builder) makeStatic(ctx context.Context, name, source, tarPath string) error {
	root := filepath.Join(b.Dir, name)
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	program, err := filepath.Abs(filepath.Join(root, name))
	if err != nil {
		return err
	}
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w -buildid=", "-o", program, source)
	build.Dir = b.Source
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", source, err, out)
	}
	for path, text := range map[string]string{"/etc/passwd": passwd, "/etc/group": groups, "/tmp/": ""} {
		if err := addFile(root, path, text); err != nil {
			return err
		}
	}
	return writeTar(root, tarPath)
}
