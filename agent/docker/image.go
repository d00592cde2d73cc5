package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	dockerimage "github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"
)

// SandboxRepository is the name of the sandbox image; its tag is the hash of the executable in it.
const SandboxRepository = "meshswarm/sandbox"

const loadTimeout = 5 * time.Minute

// sandboxImage is the image made of the node's own executable.
type sandboxImage struct {
	path string

	mu     sync.Mutex // held while the image is loaded: one load at a time is enough
	ref    string
	digest string // of the layer's tar, which is the diff ID
	size   int64
	loaded bool // the engine has it, as far as is known
}

// ensureSandboxImage loads the sandbox image when the engine does not have it, and returns its reference. What it had once
// it is taken to have still; who finds out otherwise calls lost.
func (e *Executor) ensureSandboxImage(ctx context.Context) (string, error) {
	s := &e.image
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ref == "" {
		if err := s.hash(); err != nil {
			return "", fmt.Errorf("read own executable for the sandbox image: %w", err)
		}
	}
	if s.loaded {
		return s.ref, nil
	}
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	_, err := e.api.ImageInspect(ctx, s.ref)
	if err == nil {
		s.loaded = true
		return s.ref, nil
	}
	if !cerrdefs.IsNotFound(err) {
		return "", wrap("look for the sandbox image", err)
	}
	if err := s.load(ctx, e.api); err != nil {
		return "", wrap("load the sandbox image", err)
	}
	e.log.Info("sandbox image loaded", "image", s.ref)
	s.loaded = true
	return s.ref, nil
}

// lost notes that the engine does not have the sandbox image any more.
func (s *sandboxImage) lost() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loaded = false
}

// hash reads the executable once and finds out what the image will be called.
func (s *sandboxImage) hash() error {
	binary, layer := sha256.New(), sha256.New()
	size, err := s.writeLayer(layer, binary)
	if err != nil {
		return err
	}
	s.size, s.digest = size, hex.EncodeToString(layer.Sum(nil))
	s.ref = SandboxRepository + ":" + hex.EncodeToString(binary.Sum(nil))[:16]
	return nil
}

// writeLayer writes the image's only layer, a tar with the executable, and returns its size. What is in the file goes to
// tee as well.
func (s *sandboxImage) writeLayer(w, tee io.Writer) (int64, error) {
	f, err := os.Open(s.path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	count := &counter{w: w}
	t := tar.NewWriter(count)
	if err := t.WriteHeader(&tar.Header{Name: "meshswarm", Mode: 0o755, Size: st.Size()}); err != nil {
		return 0, err
	}
	if _, err := io.Copy(io.MultiWriter(t, tee), f); err != nil {
		return 0, err
	}
	err = t.Close()
	return count.n, err
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// load streams the image to the engine in the format of "docker save" (OCI image spec v1 config inside).
func (s *sandboxImage) load(ctx context.Context, api *client.Client) error {
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.CloseWithError(s.write(w))
	}()
	resp, err := api.ImageLoad(ctx, r, client.ImageLoadWithQuiet(true))
	r.CloseWithError(errors.New("the engine stopped reading"))
	<-done
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return readProgress(resp.Body)
}

func (s *sandboxImage) write(w io.Writer) error {
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "created": "1970-01-01T00:00:00Z",
		"config": map[string]any{"Entrypoint": []string{"/meshswarm", "sandbox"}, "Labels": map[string]string{"meshswarm.image": "sandbox"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + s.digest}},
	})
	if err != nil {
		return err
	}
	sum := sha256.Sum256(config)
	name := hex.EncodeToString(sum[:]) + ".json"
	manifest, err := json.Marshal([]map[string]any{{"Config": name, "RepoTags": []string{s.ref}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return err
	}
	t := tar.NewWriter(w)
	for _, file := range []struct {
		name string
		data []byte
	}{{name, config}, {"manifest.json", manifest}} {
		if err := t.WriteHeader(&tar.Header{Name: file.name, Mode: 0o644, Size: int64(len(file.data))}); err != nil {
			return err
		}
		if _, err := io.Copy(t, bytes.NewReader(file.data)); err != nil {
			return err
		}
	}
	if err := t.WriteHeader(&tar.Header{Name: "layer.tar", Mode: 0o644, Size: s.size}); err != nil {
		return err
	}
	if _, err := s.writeLayer(t, io.Discard); err != nil {
		return err
	}
	return t.Close()
}

// hasImage tells whether the engine has an image.
func (e *Executor) hasImage(ctx context.Context, ref string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := e.api.ImageInspect(ctx, ref)
	if cerrdefs.IsNotFound(err) {
		return false, nil
	}
	return err == nil, wrap("look for image "+ref, err)
}

// fetchImage pulls an image.
func (e *Executor) fetchImage(ctx context.Context, ref string) error {
	opts := dockerimage.PullOptions{}
	if e.cfg.RegistryAuth != nil {
		opts.RegistryAuth = e.cfg.RegistryAuth(ref)
	}
	e.log.Info("pulling image", "image", ref)
	err := e.pull(ctx, ref, opts)
	if err == nil {
		e.pulls.WithLabelValues("ok").Inc()
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	e.pulls.WithLabelValues("failed").Inc()
	return wrap(fmt.Sprintf("image %s: not on this node and cannot be pulled", ref), err)
}

func (e *Executor) pull(ctx context.Context, ref string, opts dockerimage.PullOptions) error {
	body, err := e.api.ImagePull(ctx, ref, opts)
	if err != nil {
		return err
	}
	defer body.Close()
	return readProgress(body)
}

// readProgress reads a stream of progress messages to its end and returns the error in it.
func readProgress(r io.Reader) error {
	for d := json.NewDecoder(r); ; {
		var m struct {
			Error string `json:"error"`
		}
		switch err := d.Decode(&m); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("read the engine's progress: %w", err)
		case m.Error != "":
			return errors.New(m.Error)
		}
	}
}
