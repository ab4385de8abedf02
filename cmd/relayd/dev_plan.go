package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"relay/node/config"
)

// Every trial cluster has these values.
const (
	devToken    = "dev"
	devDomain   = "example.test"
	devPassword = "secret"
	defaultBase = 12000
)

// plan says where everything of a trial cluster is. It is kept in its directory:
// addresses are part of a cluster's membership and can not change from one run
// to the next.
type plan struct {
	Dir      string `json:"-"`
	Listen   string `json:"-"`
	Nodes    int    `json:"nodes"`
	BasePort int    `json:"base_port"`
	// NextHop is where the route led that was made last. Empty: the directory
	// (domain, accounts, alias, route) was not filled yet.
	NextHop string `json:"next_hop,omitempty"`
}

// loadPlan finds the plan of an earlier run, or makes one. Flags that were given
// and say something else than the earlier run are an error.
func loadPlan(o devOptions, changed func(string) bool) (*plan, error) {
	p := &plan{Dir: o.dir, Listen: o.listen, Nodes: o.nodes, BasePort: o.basePort}
	data, err := os.ReadFile(p.path("dev.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, p); err != nil {
		return nil, fmt.Errorf("%s is damaged: %w; remove the directory to begin anew", p.path("dev.json"), err)
	}
	if changed("nodes") && p.Nodes != o.nodes {
		return nil, fmt.Errorf("%s holds a cluster of %s; leave --nodes out or choose another directory", p.Dir,
			count(p.Nodes, "node"))
	}
	if changed("base-port") && p.BasePort != o.basePort {
		return nil, fmt.Errorf("%s holds a cluster with base port %d; leave --base-port out or choose another directory",
			p.Dir, p.BasePort)
	}
	return p, nil
}

func (p *plan) save() error {
	data, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return writeFile(p.path("dev.json"), append(data, '\n'), 0o644)
}

func (p *plan) path(name ...string) string {
	return filepath.Join(append([]string{p.Dir}, name...)...)
}

// A service is one port of a node, by its distance from the node's base.
type service int

// The services.
const (
	portPOP3        service = 10
	portSMTP        service = 25
	portSubmissions service = 65
	portCluster     service = 70
	portAdmin       service = 80
	portSubmission  service = 87
	portPOP3S       service = 95
	portSink        service = 25 // of node 0
)

func services() []service {
	return []service{portSMTP, portSubmission, portSubmissions, portPOP3, portPOP3S, portAdmin, portCluster}
}

func (p *plan) port(node int, s service) int { return p.BasePort + 100*node + int(s) }

func (p *plan) addr(node int, s service) string {
	return net.JoinHostPort(p.Listen, strconv.Itoa(p.port(node, s)))
}

func (p *plan) sink() string             { return p.addr(0, portSink) }
func (p *plan) id(node int) string       { return "n" + strconv.Itoa(node) }
func (p *plan) nodeDir(node int) string  { return p.path(p.id(node)) }
func (p *plan) config(node int) string   { return p.path(p.id(node), "relay.toml") }
func (p *plan) adminURL(node int) string { return "http://" + p.addr(node, portAdmin) }
func (p *plan) hostname(node int) string { return p.id(node) + "." + devDomain }

// writeConfig writes the configuration of a node where there is none yet: an
// edited one stays, so that settings can be tried. It must stay on loopback.
func (p *plan) writeConfig(node int) error {
	path := p.config(node)
	if exists(path) {
		return onlyLoopback(path)
	}
	data, err := p.nodeConfig(node).Marshal()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	head := fmt.Sprintf("# Node %d of a trial cluster. Edit it, and kill the node: it comes back with the new "+
		"settings.\n\n", node)
	return writeFile(path, append([]byte(head), data...), 0o644)
}

func (p *plan) nodeConfig(node int) *config.Config {
	c := config.New()
	c.Node = config.Node{ID: p.id(node), Hostname: p.hostname(node), DataDir: p.nodeDir(node)}
	c.Cluster = config.Cluster{Listen: p.addr(node, portCluster), Advertise: p.addr(node, portCluster)}
	for _, host := range p.hosts() {
		at := func(s service) string { return net.JoinHostPort(host, strconv.Itoa(p.port(node, s))) }
		smtp := func(s service, role config.Role, mode config.TLSMode) config.SMTP {
			l := config.NewSMTP()
			l.Listen, l.Role, l.TLS = at(s), role, mode
			return l
		}
		pop3 := func(s service, mode config.TLSMode) config.POP3 {
			l := config.NewPOP3()
			l.Listen, l.TLS = at(s), mode
			return l
		}
		c.SMTP = append(c.SMTP, smtp(portSMTP, config.RoleMX, config.TLSStart),
			smtp(portSubmission, config.RoleSubmission, config.TLSStart),
			smtp(portSubmissions, config.RoleSubmission, config.TLSImplicit))
		c.POP3 = append(c.POP3, pop3(portPOP3, config.TLSStart), pop3(portPOP3S, config.TLSImplicit))
	}
	c.Admin.Listen, c.Admin.TokenFile, c.Admin.URL = p.addr(node, portAdmin), p.path("admin.token"), p.adminURL(node)
	c.TLS.Cert, c.TLS.Key = p.path("tls.crt"), p.path("tls.key")
	c.Delivery.LoopbackHops = true                                // a name server for trials can lead nowhere else
	c.Storage.MinFree, c.Storage.MinFreePercent = 64*config.MB, 0 // a full laptop is no reason to refuse a trial
	c.Log.Format = "console"
	return c
}

// hosts are the addresses that mail ports listen on: the one chosen, and ::1
// beside 127.0.0.1 where the machine has it.
func (p *plan) hosts() []string {
	if p.Listen != "127.0.0.1" {
		return []string{p.Listen}
	}
	l, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		return []string{p.Listen}
	}
	_ = l.Close()
	return []string{p.Listen, "::1"}
}

// onlyLoopback refuses a configuration that listens on any other address.
func onlyLoopback(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	c, problems := config.Parse(data, func(string) (string, bool) { return "", false })
	if len(problems) > 0 {
		return &config.Invalid{Path: path, Problems: problems}
	}
	listens := []string{c.Cluster.Listen, c.Admin.Listen}
	for _, l := range c.SMTP {
		listens = append(listens, l.Listen)
	}
	for _, l := range c.POP3 {
		listens = append(listens, l.Listen)
	}
	for _, l := range listens {
		if host, _, err := net.SplitHostPort(l); err != nil || !isLoopback(host) {
			return fmt.Errorf("%s listens on %s; a trial cluster has known passwords and must stay on loopback", path, l)
		}
	}
	return nil
}

// checkPorts finds ports that are taken before a node stumbles over them.
func (p *plan) checkPorts() error {
	for node := 1; node <= p.Nodes; node++ {
		for _, s := range services() {
			l, err := net.Listen("tcp", p.addr(node, s))
			if err != nil {
				return fmt.Errorf("port %d can not be used (%w); is another 'relayd dev' running? --base-port chooses others",
					p.port(node, s), err)
			}
			_ = l.Close()
		}
	}
	return nil
}
