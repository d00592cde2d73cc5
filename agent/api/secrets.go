package api

import "github.com/docker/docker/api/types/swarm"

// There are no secrets and configs yet: lists are empty, nothing is found, and creating one is refused.

// GetSecrets implements swarm.Backend.
func (b *Backend) GetSecrets(opts swarm.SecretListOptions) ([]swarm.Secret, error) {
	if _, err := b.manager(); err != nil {
		return nil, err
	}
	return []swarm.Secret{}, opts.Filters.Validate(keySet("names", "name", "id", "label"))
}

// CreateSecret implements swarm.Backend.
func (b *Backend) CreateSecret(swarm.SecretSpec) (string, error) {
	return "", b.managerOr(notSupported("secrets are not supported yet"))
}

// RemoveSecret implements swarm.Backend.
func (b *Backend) RemoveSecret(id string) error {
	return b.managerOr(notFound("secret %s not found", id))
}

// GetSecret implements swarm.Backend.
func (b *Backend) GetSecret(id string) (swarm.Secret, error) {
	return swarm.Secret{}, b.managerOr(notFound("secret %s not found", id))
}

// UpdateSecret implements swarm.Backend.
func (b *Backend) UpdateSecret(id string, _ uint64, _ swarm.SecretSpec) error {
	return b.managerOr(notFound("secret %s not found", id))
}

// GetConfigs implements swarm.Backend.
func (b *Backend) GetConfigs(opts swarm.ConfigListOptions) ([]swarm.Config, error) {
	if _, err := b.manager(); err != nil {
		return nil, err
	}
	return []swarm.Config{}, opts.Filters.Validate(keySet("name", "id", "label"))
}

// CreateConfig implements swarm.Backend.
func (b *Backend) CreateConfig(swarm.ConfigSpec) (string, error) {
	return "", b.managerOr(notSupported("configs are not supported yet"))
}

// RemoveConfig implements swarm.Backend.
func (b *Backend) RemoveConfig(id string) error {
	return b.managerOr(notFound("config %s not found", id))
}

// GetConfig implements swarm.Backend.
func (b *Backend) GetConfig(id string) (swarm.Config, error) {
	return swarm.Config{}, b.managerOr(notFound("config %s not found", id))
}

// UpdateConfig implements swarm.Backend.
func (b *Backend) UpdateConfig(id string, _ uint64, _ swarm.ConfigSpec) error {
	return b.managerOr(notFound("config %s not found", id))
}

// managerOr is why this node is no manager, or else err.
func (b *Backend) managerOr(err error) error {
	if _, merr := b.manager(); merr != nil {
		return merr
	}
	return err
}
