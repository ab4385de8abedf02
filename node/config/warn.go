package config

import (
	"fmt"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strings"
)

// warner adds to the warnings of a Config.
func (c *Config) warner(r *report) func(key, format string, args ...any) {
	return func(key, format string, args ...any) {
		p := Problem{Line: r.line(key), Key: key, Text: fmt.Sprintf(format, args...)}
		list, _, _ := strings.Cut(key, "[")
		if name, ok := r.env[list]; ok {
			p.Line, p.Text = 0, p.Text+" (set by "+name+")"
		}
		c.Unwise = append(c.Unwise, p)
	}
}

// warn finds what is no mistake, and hardly meant.
func (c *Config) warn(r *report) {
	c.Unwise = nil
	warn := c.warner(r)
	for i, n := range c.Relay.TrustedNetworks {
		if Everybody(n) {
			warn(fmt.Sprintf("relay.trusted_networks[%d]", i),
				"%s lets everybody on the internet send through this node (an open relay): "+
					"name only your own networks, such as 10.0.0.0/8", n)
		}
	}
	for i := range c.SMTP {
		warnOfProxies(warn, fmt.Sprintf("smtp[%d]", i), c.SMTP[i].ProxyProtocol)
		for j, n := range c.SMTP[i].XClient {
			if Everybody(n) {
				warn(fmt.Sprintf("smtp[%d].xclient[%d]", i, j), "%s lets everybody speak for any client and any login: "+
					"name only your front ends", n)
			}
		}
	}
	warnOfServers(warn, c.Delivery)
	for i := range c.POP3 {
		warnOfProxies(warn, fmt.Sprintf("pop3[%d]", i), c.POP3[i].ProxyProtocol)
	}
	for i := range c.POP2 {
		warnOfProxies(warn, fmt.Sprintf("pop2[%d]", i), c.POP2[i].ProxyProtocol)
	}
}

// warnOfServers: an address that no server has is mistyped, and no mail would go by DANE.
func warnOfServers(warn func(key, format string, args ...any), d Delivery) {
	for i, a := range d.TrustAD {
		same := func(server string) bool {
			s, err := netip.ParseAddr(server)
			if err != nil {
				port, _ := netip.ParseAddrPort(server)
				s = port.Addr()
			}
			return s.Unmap() == a.Unmap()
		}
		if len(d.DNSServers) > 0 && !slices.ContainsFunc(d.DNSServers, same) {
			warn(fmt.Sprintf("delivery.trust_ad[%d]", i), "%s is none of delivery.dns_servers, so it is never asked: "+
				"name it there, or leave it out here", a)
		}
	}
}

func warnOfProxies(warn func(key, format string, args ...any), listener string, proxies []netip.Prefix) {
	for i, n := range proxies {
		if Everybody(n) {
			warn(fmt.Sprintf("%s.proxy_protocol[%d]", listener, i), "%s lets everybody say which address it comes from, "+
				"a trusted one too: name only your load balancers", n)
		}
	}
}

// warnOfFiles finds what is hardly meant about files.
func (c *Config) warnOfFiles(r *report) {
	warn := c.warner(r)
	for i, f := range c.Folders {
		if !isDir(f.Dir) {
			warn(fmt.Sprintf("folder[%d].dir", i), "there is no directory %s, so %s can not log in: make it, or mount the "+
				"disk that belongs there", f.Dir, f.User)
		}
	}
	c.warnOfToken(warn)
}

// Everybody reports whether a network is so large that strangers are in it.
func Everybody(n netip.Prefix) bool {
	return n.Addr().Is4() && n.Bits() < 8 || n.Addr().Is6() && n.Bits() < 16
}

// Unknown lists the variables of an environment, as os.Environ returns it, that
// begin with RELAY_ and override no key, with what may be meant. Those of
// relayctl, and those that Kubernetes makes of a service's name, are known.
func Unknown(environ []string) (all []string) {
	known := map[string]bool{"RELAY_ADDR": true, "RELAY_TOKEN": true, "RELAY_TOKEN_FILE": true, "RELAY_CA": true}
	var keys []string
	eachVariable("", reflect.TypeFor[Config](), func(name string) { known[name], keys = true, append(keys, name) })
	kubernetes := regexp.MustCompile(`^RELAY_(.*_)?(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`)
	for _, one := range environ {
		name, _, _ := strings.Cut(one, "=")
		if !strings.HasPrefix(name, "RELAY_") || known[name] || kubernetes.MatchString(name) ||
			strings.HasPrefix(name, "RELAY_E2E") {
			continue
		}
		text := name + " overrides nothing: keys of listeners have no variable, others are RELAY_TABLE_KEY, such as " +
			"RELAY_NODE_ID"
		last := name[strings.LastIndexByte(name, '_')+1:]
		if i := slices.IndexFunc(keys, func(k string) bool {
			return strings.HasSuffix(k, strings.TrimPrefix(name, "RELAY"))
		}); i >= 0 {
			text = name + " overrides nothing; perhaps " + keys[i] + " is meant"
		} else if i := slices.IndexFunc(keys,
			func(k string) bool { return last != "" && strings.HasSuffix(k, "_"+last) }); i >= 0 && len(last) > 4 {
			text = name + " overrides nothing; perhaps " + keys[i] + " is meant"
		}
		all = append(all, text)
	}
	slices.Sort(all)
	return all
}

// eachVariable visits the names of all variables that override a key.
func eachVariable(path string, t reflect.Type, visit func(string)) {
	for name, i := range fields(t) {
		key, field := dotted(path, name), t.Field(i).Type
		if field.Kind() == reflect.Struct && !isText(reflect.New(field).Elem()) {
			eachVariable(key, field, visit)
			continue
		}
		visit(Variable(key))
	}
}
