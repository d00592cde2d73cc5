package api

import (
	"encoding/base64"
	"encoding/json"
	"fmt"

	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/registry"
	"github.com/docker/docker/api/types/swarm"
)

// What the swarm of this version does not do is refused by name, so that nobody believes that it happened. A feature that
// arrives takes its line away here.

const notYet = " is not supported yet"

// unsupportedService names the first thing in a spec that nothing would act on.
func unsupportedService(s *swarm.ServiceSpec) error {
	for _, f := range []func(*swarm.ServiceSpec) string{
		unsupportedRuntime, unsupportedContainer, unsupportedEndpoint,
	} {
		if what := f(s); what != "" {
			return notSupported("service %s: %s", s.Name, what+notYet)
		}
	}
	return nil
}

func unsupportedRuntime(s *swarm.ServiceSpec) string {
	switch {
	case s.TaskTemplate.PluginSpec != nil || s.TaskTemplate.Runtime == swarm.RuntimePlugin:
		return "running plugins as a service"
	case s.TaskTemplate.NetworkAttachmentSpec != nil || s.TaskTemplate.Runtime == swarm.RuntimeNetworkAttachment:
		return "a network attachment as a service"
	}
	return ""
}

func unsupportedContainer(s *swarm.ServiceSpec) string {
	c := s.TaskTemplate.ContainerSpec
	switch {
	case c == nil:
		return ""
	case len(c.Secrets) > 0:
		return "using secrets (--secret)"
	case len(c.Configs) > 0:
		return "using configs (--config)"
	case c.Privileges != nil && c.Privileges.CredentialSpec != nil:
		return "a credential spec (--credential-spec)"
	case !c.Isolation.IsDefault():
		return fmt.Sprintf("isolation %q, which is for Windows containers,", c.Isolation)
	}
	for _, m := range c.Mounts {
		switch m.Type {
		case mount.TypeCluster:
			return "a cluster volume (type=cluster)"
		case mount.TypeNamedPipe:
			return "a Windows named pipe (type=npipe)"
		}
	}
	return ""
}

func unsupportedEndpoint(s *swarm.ServiceSpec) string {
	if s.EndpointSpec != nil {
		for _, p := range s.EndpointSpec.Ports {
			if p.Protocol == swarm.PortConfigProtocolSCTP {
				return "publishing an SCTP port"
			}
			if !ingress(p) && p.PublishedPort == 0 {
				return fmt.Sprintf("publishing port %d in host mode without naming the published port (published=PORT)", p.TargetPort)
			}
		}
	}
	for _, n := range s.TaskTemplate.Networks {
		if len(n.DriverOpts) > 0 {
			return "driver options of a network attachment"
		}
	}
	return ""
}

// unsupportedAuth refuses credentials: nodes would pull without them.
func unsupportedAuth(encoded string) error {
	if encoded == "" {
		return nil
	}
	raw, err := base64.URLEncoding.DecodeString(encoded)
	if err != nil {
		return invalid("invalid %s header: %w", registry.AuthHeader, err)
	}
	var a registry.AuthConfig
	if err := json.Unmarshal(raw, &a); err != nil {
		return invalid("invalid %s header: %w", registry.AuthHeader, err)
	}
	if a.Username != "" || a.Password != "" || a.Auth != "" || a.IdentityToken != "" || a.RegistryToken != "" {
		return notSupported("passing registry credentials to the nodes (--with-registry-auth) is not supported yet: log in on the nodes' engines, or load the image there")
	}
	return nil
}
