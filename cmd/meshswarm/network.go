package main

import (
	"errors"
	"fmt"
	"net/netip"
	"sort"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/cli/cli/command/formatter"
	"github.com/docker/cli/opts"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/client"
	"github.com/fvbommel/sortorder"
	"github.com/urfave/cli/v2"
)

const networkTable = "table {{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}"

func (p *program) networkCommand() *cli.Command {
	return &cli.Command{
		Name: "network", Usage: "Manage networks",
		Subcommands: []*cli.Command{p.networkCreate(), p.networkInspect(), p.networkList(), p.networkRemove()},
	}
}

// networkOptions are the values of the flags of network create.
type networkOptions struct {
	driver, ipamDriver            string
	internal, attachable, ingress bool
	ipv4, ipv6                    bool
	labels                        opts.ListOpts
	driverOpts, ipamOpts, aux     opts.MapOpts
	subnets, ranges, gateways     opts.ListOpts
}

func (p *program) networkCreate() *cli.Command {
	plain := func() opts.ListOpts { return opts.NewListOpts(nil) }
	o := networkOptions{
		driver: "overlay", ipamDriver: "default", ipv4: true,
		labels: opts.NewListOpts(opts.ValidateLabel), driverOpts: *opts.NewMapOpts(nil, nil), ipamOpts: *opts.NewMapOpts(nil, nil),
		aux: *opts.NewMapOpts(nil, nil), subnets: plain(), ranges: plain(), gateways: plain(),
	}
	return &cli.Command{
		Name: "create", Usage: "Create a network", ArgsUsage: "NETWORK",
		Flags: []cli.Flag{
			flagBool(&o.attachable, "attachable", "Enable manual container attachment"),
			flagVar(&o.aux, "aux-address", "Auxiliary IPv4 or IPv6 addresses used by Network driver"),
			flagString(&o.driver, "driver,d", "Driver to manage the Network"),
			flagList(&o.gateways, "gateway", "IPv4 or IPv6 Gateway for the master subnet"),
			flagBool(&o.ingress, "ingress", "Create swarm routing-mesh network"),
			flagBool(&o.internal, "internal", "Restrict external access to the network"),
			flagList(&o.ranges, "ip-range", "Allocate container ip from a sub-range"),
			flagString(&o.ipamDriver, "ipam-driver", "IP Address Management Driver"),
			flagVar(&o.ipamOpts, "ipam-opt", "Set IPAM driver specific options"),
			flagBool(&o.ipv4, "ipv4", "Enable or disable IPv4 address assignment"),
			flagBool(&o.ipv6, "ipv6", "Enable or disable IPv6 address assignment"),
			flagList(&o.labels, "label", "Set metadata on a network"),
			flagVar(&o.driverOpts, "opt,o", "Set driver specific options"),
			flagList(&o.subnets, "subnet", "Subnet in CIDR format that represents a network segment"),
		},
		Action: func(c *cli.Context) error {
			if err := exactArgs(c, 1); err != nil {
				return err
			}
			request, err := o.request(c.IsSet)
			if err != nil {
				return err
			}
			node, err := p.client()
			if err != nil {
				return err
			}
			made, err := node.NetworkCreate(c.Context, c.Args().First(), request)
			if err != nil {
				return err
			}
			if made.Warning != "" {
				fmt.Fprintln(p.err, made.Warning)
			}
			fmt.Fprintln(p.out, made.ID)
			return nil
		},
	}
}

func (o *networkOptions) request(set func(string) bool) (network.CreateOptions, error) {
	configs, err := ipamConfigs(words(o.subnets), words(o.ranges), words(o.gateways), o.aux.GetAll())
	if err != nil {
		return network.CreateOptions{}, err
	}
	request := network.CreateOptions{
		Driver: o.driver, Options: o.driverOpts.GetAll(),
		IPAM:     &network.IPAM{Driver: o.ipamDriver, Config: configs, Options: o.ipamOpts.GetAll()},
		Internal: o.internal, Attachable: o.attachable, Ingress: o.ingress,
		Labels: opts.ConvertKVStringsToMap(o.labels.GetSlice()),
	}
	if set("ipv4") {
		request.EnableIPv4 = &o.ipv4
	}
	if set("ipv6") {
		request.EnableIPv6 = &o.ipv6
	}
	return request, nil
}

// words are a flag's values, each of which may be several with commas between.
func words(list opts.ListOpts) []string {
	var out []string
	for _, v := range list.GetSlice() {
		out = append(out, strings.Split(v, ",")...)
	}
	return out
}

// ipamConfigs gives every range, gateway and auxiliary address to the subnet it lies in.
func ipamConfigs(subnets, ranges, gateways []string, aux map[string]string) ([]network.IPAMConfig, error) {
	configs := make([]network.IPAMConfig, 0, len(subnets))
	prefixes := make([]netip.Prefix, 0, len(subnets))
	for _, s := range subnets {
		prefix, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, fmt.Errorf("invalid subnet %s: write it as 10.1.0.0/24", s)
		}
		for i, other := range prefixes {
			if other.Overlaps(prefix) {
				return nil, fmt.Errorf("subnets %s and %s overlap", subnets[i], s)
			}
		}
		prefixes = append(prefixes, prefix)
		configs = append(configs, network.IPAMConfig{Subnet: s, AuxAddress: map[string]string{}})
	}
	owner := func(what, text string) (*network.IPAMConfig, error) {
		addr, err := netip.ParseAddr(strings.Split(text, "/")[0])
		if err != nil {
			return nil, fmt.Errorf("invalid %s %s: %w", what, text, err)
		}
		for i, prefix := range prefixes {
			if prefix.Contains(addr) {
				return &configs[i], nil
			}
		}
		return nil, fmt.Errorf("no matching subnet for %s %s", what, text)
	}
	one := func(what, text string, field func(*network.IPAMConfig) *string) error {
		config, err := owner(what, text)
		if err != nil {
			return err
		}
		if *field(config) != "" {
			return fmt.Errorf("cannot configure multiple %ss (%s, %s) on the same subnet (%s)", what, text, *field(config), config.Subnet)
		}
		*field(config) = text
		return nil
	}
	var failures []error
	for _, r := range ranges {
		failures = append(failures, one("range", r, func(c *network.IPAMConfig) *string { return &c.IPRange }))
	}
	for _, g := range gateways {
		failures = append(failures, one("gateway", g, func(c *network.IPAMConfig) *string { return &c.Gateway }))
	}
	for name, a := range aux {
		config, err := owner("aux-address", a)
		if err != nil {
			failures = append(failures, err)
			continue
		}
		config.AuxAddress[name] = a
	}
	return configs, errors.Join(failures...)
}

func (p *program) networkList() *cli.Command {
	var list listFlags
	return &cli.Command{
		Name: "ls", Aliases: []string{"list"}, Usage: "List networks",
		Flags: append(list.flags("Only display network IDs"), list.truncFlag()),
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			node, err := p.client()
			if err != nil {
				return err
			}
			networks, err := node.NetworkList(c.Context, network.ListOptions{Filters: list.filter.Value()})
			if err != nil {
				return err
			}
			sort.Slice(networks, func(i, j int) bool { return sortorder.NaturalLess(networks[i].Name, networks[j].Name) })
			header := &networkRow{HeaderContext: formatter.HeaderContext{Header: formatter.SubHeaderContext{
				"ID": "NETWORK ID", "Name": formatter.NameHeader, "Driver": formatter.DriverHeader, "Scope": formatter.ScopeHeader,
				"IPv4": "IPV4", "IPv6": "IPV6", "Internal": "INTERNAL", "Labels": formatter.LabelsHeader, "CreatedAt": formatter.CreatedAtHeader,
			}}}
			return write(list.context(p, networkTable), header, networks, func(n network.Summary) formatter.SubContext {
				return &networkRow{n: n, trunc: !list.noTrunc}
			})
		},
	}
}

// networkRow gives the columns of network ls; its methods are the fields of --format.
type networkRow struct {
	formatter.HeaderContext
	n     network.Summary
	trunc bool
}

// MarshalJSON implements json.Marshaler: an object of all columns.
func (r *networkRow) MarshalJSON() ([]byte, error) { return formatter.MarshalJSON(r) }

func (r *networkRow) ID() string {
	if r.trunc {
		return formatter.TruncateID(r.n.ID)
	}
	return r.n.ID
}

func (r *networkRow) Name() string             { return r.n.Name }
func (r *networkRow) Driver() string           { return r.n.Driver }
func (r *networkRow) Scope() string            { return r.n.Scope }
func (r *networkRow) IPv4() string             { return strconv.FormatBool(r.n.EnableIPv4) }
func (r *networkRow) IPv6() string             { return strconv.FormatBool(r.n.EnableIPv6) }
func (r *networkRow) Internal() string         { return strconv.FormatBool(r.n.Internal) }
func (r *networkRow) Label(name string) string { return r.n.Labels[name] }
func (r *networkRow) CreatedAt() string        { return r.n.Created.String() }

func (r *networkRow) Labels() string {
	pairs := make([]string, 0, len(r.n.Labels))
	for k, v := range r.n.Labels {
		pairs = append(pairs, k+"="+v)
	}
	sort.Strings(pairs)
	return strings.Join(pairs, ",")
}

func (p *program) networkInspect() *cli.Command {
	var format string
	var verbose bool
	return &cli.Command{
		Name: "inspect", Usage: "Display detailed information on one or more networks", ArgsUsage: "NETWORK [NETWORK...]",
		Flags: []cli.Flag{
			flagString(&format, "format,f", inspectUsage),
			flagBool(&verbose, "verbose,v", "Verbose output for diagnostics"),
		},
		Action: p.onNode(1, func(c *cli.Context, node *client.Client) error {
			return p.inspect(c.Args().Slice(), format, func(name string) (any, []byte, error) {
				return node.NetworkInspectWithRaw(c.Context, name, network.InspectOptions{Verbose: verbose})
			})
		}),
	}
}

func (p *program) networkRemove() *cli.Command {
	var force bool
	return &cli.Command{
		Name: "rm", Aliases: []string{"remove"}, Usage: "Remove one or more networks", ArgsUsage: "NETWORK [NETWORK...]",
		Flags: []cli.Flag{flagBool(&force, "force,f", "Do not error if the network does not exist")},
		Action: p.onNode(1, func(c *cli.Context, node *client.Client) error {
			return p.each(c.Args().Slice(), func(name string) error {
				err := node.NetworkRemove(c.Context, name)
				if force && errdefs.IsNotFound(err) {
					return nil
				}
				return err
			})
		}),
	}
}
