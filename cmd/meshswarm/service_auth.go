package main

import (
	"fmt"

	"github.com/distribution/reference"
	"github.com/docker/cli/cli/config"
	"github.com/docker/docker/api/types/registry"
)

// dockerHub is the key under which the docker command keeps Docker Hub's login.
const dockerHub = "https://index.docker.io/v1/"

// registryAuth reads the login for an image's registry from the docker command's configuration.
func registryAuth(image string) (string, error) {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return "", fmt.Errorf("read image name %q: %w", image, err)
	}
	key := reference.Domain(named)
	if key == "docker.io" {
		key = dockerHub
	}
	file, err := config.Load(config.Dir())
	if err != nil {
		return "", fmt.Errorf("read registry logins: %w", err)
	}
	auth, err := file.GetAuthConfig(key)
	if err != nil {
		return "", fmt.Errorf("read registry login of %s: %w", key, err)
	}
	return registry.EncodeAuthConfig(registry.AuthConfig(auth))
}
