package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"
)

// The images that Ensure makes.
const (
	Nginx = "meshswarm-example/nginx:1"
	Redis = "meshswarm-example/redis:1"
	Web   = "meshswarm-example/web:1"
	Probe = "meshswarm-example/probe:1"
)

// recipeLabel holds the digest of what an image was made from.
const recipeLabel = "meshswarm.example.digest"

// recipe is how one image is made.
type recipe struct {
	name string
	// file is the name of its tar in the build folder.
	file string
	// make writes the image's root as a tar.
	make func(ctx context.Context, b *Builder, tarPath string) error
	// changes are the Dockerfile instructions of "docker import --change".
	changes []string
	// fresh: made anew every time, because what it is made from is in the repository and changes.
	fresh bool
}

var recipes = []recipe{
	{name: Nginx, file: "nginx.tar", make: makeNginx, changes: []string{
		`ENTRYPOINT ["/usr/sbin/nginx"]`, `EXPOSE 80`,
	}},
	{name: Redis, file: "redis.tar", make: makeRedis, changes: []string{
		`ENTRYPOINT ["/usr/bin/redis-server","--protected-mode","no","--save","","--dir","/data"]`, `EXPOSE 6379`, `WORKDIR /data`,
		`HEALTHCHECK --interval=1s --timeout=2s --retries=5 CMD ["/usr/bin/redis-cli","ping"]`,
	}},
	{name: Probe, file: "probe.tar", make: makeProbe, fresh: true, changes: []string{`CMD ["/probe","serve"]`}},
	{name: Web, file: "web.tar", make: makeWeb, fresh: true, changes: []string{
		`ENTRYPOINT ["/web"]`, `EXPOSE 8080`, `HEALTHCHECK --interval=1s --timeout=3s --retries=5 CMD ["/web","health"]`,
	}},
}

// Builder makes images.
type Builder struct {
	// Dir is the build folder: downloads and finished tar files. Safe to delete.
	Dir string
	// Source is the repository's root.
	Source string
	// Out is told what is being done.
	Out io.Writer
}

// Ensure makes the engine of c have all images.
func (b *Builder) Ensure(ctx context.Context, c client.ImageAPIClient) error {
	for _, r := range recipes {
		if err := b.ensure(ctx, c, r); err != nil {
			return fmt.Errorf("make image %s: %w", r.name, err)
		}
	}
	return nil
}

func (b *Builder) ensure(ctx context.Context, c client.ImageAPIClient, r recipe) error {
	path := filepath.Join(b.Dir, r.file)
	if _, err := os.Stat(path); err != nil || r.fresh {
		if err := os.MkdirAll(b.Dir, 0o755); err != nil {
			return err
		}
		fmt.Fprintf(b.Out, "making %s\n", r.name)
		if err := r.make(ctx, b, path+".new"); err != nil {
			return err
		}
		if err := os.Rename(path+".new", path); err != nil {
			return err
		}
	}
	digest, err := fileDigest(path, r.changes...)
	if err != nil {
		return err
	}
	have, err := c.ImageInspect(ctx, r.name)
	if err == nil && have.Config != nil && have.Config.Labels[recipeLabel] == digest {
		return nil
	}
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	fmt.Fprintf(b.Out, "loading %s into the engine\n", r.name)
	return load(ctx, c, r, path, digest)
}

func load(ctx context.Context, c client.ImageAPIClient, r recipe, path, digest string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	changes := append([]string{fmt.Sprintf("LABEL %s=%s", recipeLabel, digest)}, r.changes...)
	answer, err := c.ImageImport(ctx, image.ImportSource{Source: f, SourceName: "-"}, r.name, image.ImportOptions{Changes: changes})
	if err != nil {
		return err
	}
	defer answer.Close()
	// The engine has the image when its answer has ended.
	if _, err := io.Copy(io.Discard, answer); err != nil {
		return err
	}
	if _, err := c.ImageInspect(ctx, r.name); err != nil {
		return fmt.Errorf("the engine took the image but does not have it: %w", err)
	}
	return nil
}

// fileDigest is the digest of a file and of what it is loaded with.
func fileDigest(path string, with ...string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	for _, w := range with {
		fmt.Fprintf(h, "\n%s", w)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
