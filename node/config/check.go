package config

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"relay/smtp/sasl"
)

// derive fills in what follows from other keys.
func (c *Config) derive() {
	if c.Node.Hostname == "" {
		c.Node.Hostname, _ = os.Hostname()
	}
	if c.Verify.AuthservID == "" {
		c.Verify.AuthservID = c.Node.Hostname
	}
	for i := range c.DNSBL {
		c.DNSBL[i].Zone = strings.TrimSuffix(c.DNSBL[i].Zone, ".")
		c.DNSBL[i].Name = cmp.Or(c.DNSBL[i].Name, c.DNSBL[i].Zone)
	}
	if c.Delivery.Helo == "" {
		c.Delivery.Helo = c.Node.Hostname
	}
	if c.Cluster.Advertise == "" && !wildcard(c.Cluster.Listen) {
		c.Cluster.Advertise = c.Cluster.Listen
	}
	if c.Admin.URL == "" && c.Admin.Listen != "" && !wildcard(c.Admin.Listen) {
		scheme := "http://"
		if c.Admin.TLS == TLSImplicit {
			scheme = "https://"
		}
		c.Admin.URL = scheme + c.Admin.Listen
	}
}

// check reports every value that can not work.
func (c *Config) check(r *report) {
	c.checkNode(r)
	c.checkCluster(r)
	c.checkListeners(r)
	c.checkAdmin(r)
	if c.Admin.HealthListen != "" {
		checkListen(r, "admin.health_listen", c.Admin.HealthListen)
	}
	c.checkTLS(r)
	c.checkACME(r)
	c.checkMilters(r)
	c.checkNumbers(r)
	c.checkDelivery(r)
	c.checkVerify(r)
	oneOf(r, "log.level", c.Log.Level, "debug", "info", "warn", "error")
	oneOf(r, "log.format", c.Log.Format, "json", "console")
	c.checkTaken(r)
	c.warn(r)
}

func (c *Config) checkNode(r *report) {
	switch {
	case c.Node.ID == "":
		r.add("node.id", `must be set: a short name of this node that never changes, such as "n1"`)
	case !validID(c.Node.ID):
		r.add("node.id", "%q is not 1 to 63 of a-z, 0-9, dot, dash and underscore, beginning with a letter or digit",
			c.Node.ID)
	}
	if !validHost(c.Node.Hostname) {
		r.add("node.hostname", `%q is not a host name such as "mx1.example.com"`, c.Node.Hostname)
	}
	if !filepath.IsAbs(c.Node.DataDir) {
		r.add("node.data_dir", "%q must be a path from the root", c.Node.DataDir)
	}
}

func (c *Config) checkCluster(r *report) {
	checkListen(r, "cluster.listen", c.Cluster.Listen)
	switch {
	case c.Cluster.Advertise != "":
		checkPeer(r, "cluster.advertise", c.Cluster.Advertise)
	case wildcard(c.Cluster.Listen):
		r.add("cluster.advertise", `must be set, because cluster.listen does not name one address: how other nodes reach this one, such as "10.0.0.1:7170"`)
	}
	between(r, "cluster.latency", c.Cluster.Latency, 0, Duration(time.Second))
	for i, join := range c.Cluster.Join {
		checkPeer(r, fmt.Sprintf("cluster.join[%d]", i), join)
	}
	seen := map[string]bool{}
	for i, peer := range c.Cluster.Peers {
		key := fmt.Sprintf("cluster.peers[%d]", i)
		id, addr, ok := strings.Cut(peer, "=")
		switch {
		case !ok || !validID(id):
			r.add(key, `%q is not ID=HOST:PORT such as "n2=10.0.0.2:7170"`, peer)
			continue
		case seen[id]:
			r.add(key, "%s is there already", id)
		}
		seen[id] = true
		checkPeer(r, key, addr)
	}
	if len(c.Cluster.Join) > 0 && c.Cluster.JoinTokenFile == "" {
		r.add("cluster.join_token_file", "must be set, because cluster.join is: 'relayctl node token' makes a token")
	}
}

func (c *Config) checkListeners(r *report) {
	for i, l := range c.SMTP {
		key := fmt.Sprintf("smtp[%d]", i)
		checkListen(r, key+".listen", l.Listen)
		oneOf(r, key+".role", string(l.Role), string(RoleMX), string(RoleSubmission))
		c.checkListenerTLS(r, key+".tls", l.TLS)
		if l.GreetPause < 0 || l.GreetPause > Duration(maxGreetPause) {
			r.add(key+".greet_pause", "%v is not between 0s and %v", l.GreetPause, maxGreetPause)
		}
		checkMechanisms(r, key, l.SASLMechanisms)
	}
	for i, l := range c.POP3 {
		key := fmt.Sprintf("pop3[%d]", i)
		checkListen(r, key+".listen", l.Listen)
		c.checkListenerTLS(r, key+".tls", l.TLS)
		for j, name := range l.Without {
			oneOf(r, fmt.Sprintf("%s.without[%d]", key, j), name, POP3Extensions()...)
		}
		checkMechanisms(r, key, l.SASLMechanisms)
	}
	for i, l := range c.POP2 {
		checkListen(r, fmt.Sprintf("pop2[%d].listen", i), l.Listen)
	}
	c.checkFolders(r)
}

func checkMechanisms(r *report, key string, names []string) {
	for i, name := range names {
		upper, _ := sasl.Parse(name)
		oneOf(r, fmt.Sprintf("%s.sasl_mechanisms[%d]", key, i), upper, sasl.Names()...)
	}
}

func (c *Config) checkFolders(r *report) {
	seen := map[string]bool{}
	for i, f := range c.Folders {
		key := fmt.Sprintf("folder[%d]", i)
		local, domain, ok := strings.Cut(f.User, "@")
		switch {
		case !ok || local == "" || domain == "" || strings.ToLower(f.User) != f.User:
			r.add(key+".user", `%q is not a whole address in lower case such as "news@example.com"`, f.User)
		case seen[f.User]:
			r.add(key+".user", "%s has a folder already", f.User)
		}
		seen[f.User] = true
		if !filepath.IsAbs(f.Dir) {
			r.add(key+".dir", `%q is not an absolute path such as "/srv/mail/news"`, f.Dir)
		}
	}
}

// maxGreetPause: old clients hang up when they hear nothing for 15 seconds.
const maxGreetPause = 10 * time.Second

func (c *Config) checkListenerTLS(r *report, key string, mode TLSMode) {
	if oneOf(r, key, string(mode), string(TLSNone), string(TLSStart), string(TLSImplicit)) &&
		mode != TLSNone && !c.certified() {
		r.add(key, `%q needs a certificate: set tls.cert and tls.key, or set "none" here`, mode)
	}
}

func (c *Config) checkAdmin(r *report) {
	checkListen(r, "admin.listen", c.Admin.Listen)
	valid := oneOf(r, "admin.tls", string(c.Admin.TLS), string(TLSNone), string(TLSImplicit))
	if valid && c.Admin.TLS == TLSImplicit && !c.certified() {
		r.add("admin.tls", `"implicit" needs a certificate: set tls.cert and tls.key`)
	}
	if c.Admin.Token != "" && c.Admin.TokenFile != "" {
		r.add("admin.token", "is set beside admin.token_file; keep one")
	}
	if u, err := url.Parse(c.Admin.URL); c.Admin.URL != "" &&
		(err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
		r.add("admin.url", `%q is not a URL such as "https://10.0.0.1:7180"`, c.Admin.URL)
	}
	if loopback(c.Admin.Listen) {
		return
	}
	if valid && c.Admin.TLS != TLSImplicit {
		r.add("admin.tls", `must be "implicit", because admin.listen is not a loopback address`)
	}
	if c.Admin.Token == "" && c.Admin.TokenFile == "" {
		r.add("admin.token_file", "must be set, because admin.listen is not a loopback address")
	}
	if c.Admin.Token != "" {
		checkTokens(r, "admin.token", "its value", c.Admin.Token)
	}
}

// certified reports whether there is, or will be, a certificate.
func (c *Config) certified() bool { return c.TLS.Cert != "" || len(c.ACME.Hosts) > 0 }

func (c *Config) checkACME(r *report) {
	a := c.ACME
	if len(a.Hosts) == 0 {
		return
	}
	for i, h := range a.Hosts {
		if !validHost(h) || !strings.Contains(h, ".") {
			r.add(fmt.Sprintf("acme.hosts[%d]", i), "%q is not a whole host name", h)
		}
	}
	if u, err := url.Parse(a.Directory); err != nil || u.Host == "" || u.Scheme != "https" {
		r.add("acme.directory", "%q is not an https URL", a.Directory)
	}
	if a.TLSListen == "" && a.HTTPListen == "" {
		r.add("acme.tls_listen", "must be set, or acme.http_listen: the CA asks there who the host belongs to")
	}
	if a.TLSListen != "" {
		checkListen(r, "acme.tls_listen", a.TLSListen)
	}
	if a.HTTPListen != "" {
		checkListen(r, "acme.http_listen", a.HTTPListen)
	}
}

func (c *Config) checkTLS(r *report) {
	if c.TLS.Cert != "" && c.TLS.Key == "" {
		r.add("tls.key", "must be set, because tls.cert is")
	}
	if c.TLS.Key != "" && c.TLS.Cert == "" {
		r.add("tls.cert", "must be set, because tls.key is")
	}
	if len(c.TLS.Certificates) > 0 && c.TLS.Cert == "" {
		r.add("tls.cert", "must be set, because tls.certificates is: it is for clients that ask for no name")
	}
	for i, print := range c.Relay.ClientCertificates {
		if b, err := hex.DecodeString(strings.ReplaceAll(print, ":", "")); err != nil || len(b) != 32 {
			r.add(fmt.Sprintf("relay.client_certificates[%d]", i), "%q is not a SHA-256 fingerprint of 64 hex digits", print)
		}
	}
	oneOf(r, "tls.min_version", c.TLS.MinVersion, "1.2", "1.3")
}

func (c *Config) checkMilters(r *report) {
	for i, m := range c.Milter {
		key := fmt.Sprintf("milter[%d]", i)
		kind, rest, _ := strings.Cut(m.Address, ":")
		if host, port, err := net.SplitHostPort(rest); kind == "inet" && err == nil && host != "" {
			checkPort(r, key+".address", port, 1)
		} else if kind != "unix" || !filepath.IsAbs(rest) {
			r.add(key+".address", `%q is neither "inet:HOST:PORT" nor "unix:/PATH"`, m.Address)
		}
		oneOf(r, key+".on_failure", string(m.OnFailure), string(FailAccept), string(FailTempfail))
		between(r, key+".timeout", m.Timeout, Duration(100*time.Millisecond), Duration(12*time.Second))
		for j, role := range m.Roles {
			oneOf(r, fmt.Sprintf("%s.roles[%d]", key, j), string(role), string(RoleMX), string(RoleSubmission))
		}
	}
}

func (c *Config) checkNumbers(r *report) {
	between(r, "relay.max_message_size", c.Relay.MaxMessageSize, 64*KB, 2*GB)
	between(r, "relay.max_hops", c.Relay.MaxHops, 5, 1000)
	// RFC 5321 section 4.5.3.1.8: at least 100 recipients.
	between(r, "limits.recipients", c.Limits.Recipients, 100, 100000)
	between(r, "limits.errors", c.Limits.Errors, 1, 1000)
	between(r, "limits.login_failures", c.Limits.LoginFailures, 1, 1000)
	least(r, "limits.command_timeout", c.Limits.CommandTimeout, "1s")
	least(r, "limits.data_timeout", c.Limits.DataTimeout, "1s")
	// RFC 1939 section 3: at least 10 minutes; a client that sleeps polls less often.
	least(r, "limits.pop3_idle", c.Limits.POP3Idle, "10m")
	least(r, "limits.pop3_sleep_idle", c.Limits.POP3SleepIdle, "10m")
	between(r, "storage.min_free_percent", c.Storage.MinFreePercent, 0, 90)
	between(r, "storage.max_messages", c.Storage.MaxMessages, 0, 2_000_000_000)
	between(r, "storage.max_bytes", c.Storage.MaxBytes, 0, 1<<60)
	if c.Storage.Cache != AutoCache {
		between(r, "storage.cache", Size(c.Storage.Cache), 1*MB, 1*TB)
	}
}

func (c *Config) checkDelivery(r *report) {
	d := c.Delivery
	between(r, "delivery.concurrency", d.Concurrency, 1, 100000)
	between(r, "delivery.per_destination", d.PerDestination, 1, 100000)
	between(r, "delivery.messages_per_connection", d.MessagesPerConnection, 1, 100000)
	between(r, "delivery.port", d.Port, 1, 65535)
	between(r, "delivery.mta_sts_port", d.MTASTSPort, 0, 65535)
	between(r, "delivery.mx_session_limit", d.MXSessionLimit, 0, 100)
	least(r, "delivery.connect_timeout", d.ConnectTimeout, "100ms")
	oneOf(r, "delivery.tls", string(d.TLS), string(DeliveryTLSOff), string(DeliveryTLSOpportunistic),
		string(DeliveryTLSRequired))
	if !validHost(d.Helo) && validHost(c.Node.Hostname) {
		r.add("delivery.helo", "%q is not a host name", d.Helo)
	}
	for i, a := range d.TrustAD {
		if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() {
			r.add(fmt.Sprintf("delivery.trust_ad[%d]", i), "%s is not the address of a name server", a)
		}
	}
	for i, server := range d.DNSServers {
		if _, err := netip.ParseAddr(server); err == nil {
			continue
		}
		if _, err := netip.ParseAddrPort(server); err != nil {
			r.add(fmt.Sprintf("delivery.dns_servers[%d]", i), `%q is not an address such as "192.0.2.53" or "192.0.2.53:53"`, server)
		}
	}
}

func (c *Config) checkVerify(r *report) {
	if !validHost(c.Verify.AuthservID) && validHost(c.Node.Hostname) {
		r.add("verify.authserv_id", "%q is not a host name", c.Verify.AuthservID)
	}
	// A client is answered within 15 seconds of the end of its message.
	within(r, "verify.timeout", c.Verify.Timeout, "100ms", "10s")
	within(r, "verify.dnsbl_timeout", c.Verify.DNSBLTimeout, "100ms", "10s")
	for i, l := range c.DNSBL {
		key := fmt.Sprintf("dnsbl[%d]", i)
		if !validHost(l.Zone) || !strings.Contains(l.Zone, ".") {
			r.add(key+".zone", `%q is not a zone such as "zen.spamhaus.org"`, l.Zone)
		}
		if strings.ContainsFunc(l.Name, func(c rune) bool { return c < ' ' || c >= 0x7f }) || len(l.Name) > 100 {
			r.add(key+".name", "%q is not a name of at most 100 ASCII characters", l.Name)
		}
		oneOf(r, key+".action", string(l.Action), string(DNSBLRefuse), string(DNSBLTag), string(DNSBLExempt))
		for n, text := range l.Codes {
			if !validCodes(text) {
				r.add(fmt.Sprintf("%s.codes[%d]", key, n), `%q is neither an answer such as "127.0.0.2" nor a range such as "127.0.0.2-11"`, text)
			}
		}
	}
}

// validCodes takes 127.x.y.z, and ranges of which the end may be its last
// number alone.
func validCodes(s string) bool {
	from, to, isRange := strings.Cut(s, "-")
	first, err := netip.ParseAddr(strings.TrimSpace(from))
	if err != nil || !first.Is4() || first.As4()[0] != 127 {
		return false
	}
	if !isRange {
		return true
	}
	if to = strings.TrimSpace(to); !strings.Contains(to, ".") {
		to = from[:strings.LastIndexByte(from, '.')+1] + to
	}
	last, err := netip.ParseAddr(strings.TrimSpace(to))
	return err == nil && last.Is4() && last.As4()[0] == 127 && !last.Less(first)
}

// checkTaken finds listeners that would get in each other's way.
func (c *Config) checkTaken(r *report) {
	type taken struct{ key, addr string }
	all := []taken{{"cluster.listen", c.Cluster.Listen}, {"admin.listen", c.Admin.Listen}}
	for i, l := range c.SMTP {
		all = append(all, taken{fmt.Sprintf("smtp[%d].listen", i), l.Listen})
	}
	for i, l := range c.POP3 {
		all = append(all, taken{fmt.Sprintf("pop3[%d].listen", i), l.Listen})
	}
	for i, l := range c.POP2 {
		all = append(all, taken{fmt.Sprintf("pop2[%d].listen", i), l.Listen})
	}
	if len(c.ACME.Hosts) > 0 {
		all = append(all, taken{"acme.tls_listen", c.ACME.TLSListen}, taken{"acme.http_listen", c.ACME.HTTPListen})
	}
	if c.Admin.HealthListen != "" {
		all = append(all, taken{"admin.health_listen", c.Admin.HealthListen})
	}
	for i, a := range all {
		for _, b := range all[:i] {
			if overlap(a.addr, b.addr) {
				r.add(a.key, "%s is taken by %s (%s)", a.addr, b.key, b.addr)
				break
			}
		}
	}
}

// overlap reports whether two listeners can not exist beside each other.
func overlap(a, b string) bool {
	hostA, portA, errA := net.SplitHostPort(a)
	hostB, portB, errB := net.SplitHostPort(b)
	if errA != nil || errB != nil || portA != portB || portA == "0" {
		return false
	}
	return hostA == hostB || wildcard(a) || wildcard(b)
}

func checkListen(r *report, key, addr string) {
	if addr == "" {
		r.add(key, `must be set: an address and port such as "0.0.0.0:25"`)
		return
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		r.add(key, `%q is not an address and port such as "0.0.0.0:25" or "[::]:25"`, addr)
		return
	}
	if _, err := netip.ParseAddr(host); host != "" && host != "localhost" && err != nil {
		r.add(key, `%q is not an IP address of this machine, such as "0.0.0.0", which is all of them`, host)
	}
	checkPort(r, key, port, 0)
}

// checkPeer checks an address that others connect to.
func checkPeer(r *report, key, addr string) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		r.add(key, `%q is not a host and port such as "10.0.0.1:7170"`, addr)
		return
	}
	switch {
	case wildcard(addr):
		r.add(key, `%q is not an address that others can connect to: give one of this machine, such as "10.0.0.1:7170"`, addr)
	case !validHost(host) && net.ParseIP(host) == nil:
		r.add(key, "%q is neither an IP address nor a host name", host)
	}
	checkPort(r, key, port, 0)
}

func checkPort(r *report, key, port string, least int) {
	if n, err := strconv.Atoi(port); err != nil || n < least || n > 65535 {
		r.add(key, "%q is not a port number", port)
	}
}

func oneOf(r *report, key, value string, choices ...string) bool {
	if slices.Contains(choices, value) {
		return true
	}
	text := fmt.Sprintf("%q is not one of %s", value, strings.Join(choices, ", "))
	if near := nearest(value, choices); near != "" {
		text += "; did you mean " + near + "?"
	}
	r.add(key, "%s", text)
	return false
}

func between[N int | Size | Duration](r *report, key string, n, least, most N) {
	if n < least || n > most {
		r.add(key, "%v is not between %v and %v", n, least, most)
	}
}

func least(r *report, key string, d Duration, bound string) {
	if limit, err := ParseDuration(bound); err == nil && d < limit {
		r.add(key, "%v is less than %v", d, limit)
	}
}

func within(r *report, key string, d Duration, low, high string) {
	least(r, key, d, low)
	if limit, err := ParseDuration(high); err == nil && d > limit {
		r.add(key, "%v is more than %v", d, limit)
	}
}

func validID(s string) bool {
	for i, c := range []byte(s) {
		plain := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !plain && (i == 0 || c != '.' && c != '-' && c != '_') {
			return false
		}
	}
	return len(s) <= 63
}

// validHost takes any name that may stand in EHLO: letters, digits, dashes
// and dots, no empty label.
func validHost(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for _, label := range strings.Split(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
	}
	return true
}

// wildcard reports whether an address stands for all of this machine's.
func wildcard(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "" || err == nil && ip.IsUnspecified()
}

// loopback reports whether an address is reached from this host only. A text that is
// not an address counts as loopback: it has been reported already.
func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil || host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err != nil && host != "" || err == nil && ip.Unmap().IsLoopback()
}
