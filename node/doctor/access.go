package doctor

import "strings"

// Bounds of the conditions of the system.
const (
	filesWarn  = 4096
	filesError = 1024
)

func accessConditions() []condition {
	return []condition{
		{
			"open-relay", "only networks of your own are trusted",
			"strangers may send through this node (an open relay)",
			"name only your own networks in [relay] trusted_networks, and restart the node", judgeOpenRelay,
		},
		{
			"proxy-anyone", "nobody but named front ends may speak for clients",
			"everybody may claim to be any client",
			"name only your load balancers and front ends in these keys, and restart the node", judgeProxy,
		},
		{
			"admin-open", "the admin API is guarded",
			"the admin API can be reached from other machines without a guard",
			"have [admin] listen on 127.0.0.1, or give it tls = \"implicit\" and a token_file", judgeAdmin,
		},
		{
			"admin-anonymous", "the admin API wants a token of everybody",
			"every user of this machine may steer the cluster without a token",
			"take [admin] anonymous_loopback out of the configuration, where there is a token", judgeAnonymous,
		},
		{
			"plain-logins", "logins from afar can be over TLS",
			"a listener that others reach offers no TLS: passwords travel in clear, or are refused",
			"give the listener tls = \"starttls\" or \"implicit\", and restart the node", judgePlain,
		},
		{
			"from-check", "accounts send under their own addresses",
			"an account may write any address into From, and the cluster signs it",
			"relayctl settings set --from-check refuse", judgeFrom,
		},
		{
			"authserv-id", "the name in Authentication-Results is our own",
			"the name in Authentication-Results is of another domain, so that readers do not trust it",
			"set [verify] authserv_id to a name of your own, the same on all nodes", judgeAuthserv,
		},
	}
}

func judgeOpenRelay(f *Facts, v *verdict) {
	a, _ := need(v, f.Access)
	for _, n := range a.Everybody {
		v.add(Error, "%s is trusted", n)
	}
}

func judgeProxy(f *Facts, v *verdict) {
	a, _ := need(v, f.Access)
	for _, key := range a.AnyProxy {
		v.add(Error, "%s", key)
	}
}

func judgeAdmin(f *Facts, v *verdict) {
	a, ok := need(v, f.Access)
	switch {
	case !ok:
	case a.AdminLocal:
		v.note("it listens on %s, which only this machine reaches", a.Admin)
	case !a.AdminToken:
		v.add(Error, "it listens on %s and wants no token", a.Admin)
	case !a.AdminTLS:
		v.add(Error, "it listens on %s without TLS: the token travels in clear", a.Admin)
	}
}

func judgeAnonymous(f *Facts, v *verdict) {
	if a, ok := need(v, f.Access); ok && a.Anonymous {
		v.add(Warning, "clients of this machine need no token at %s", a.Admin)
		if !a.AdminToken {
			v.next("in the data directory: (umask 077; openssl rand -hex 16 > admin.token); then reload the node (SIGHUP)")
		}
	}
}

func judgePlain(f *Facts, v *verdict) {
	a, _ := need(v, f.Access)
	for _, l := range a.PlainLogins {
		v.add(Warning, "%s", l)
	}
}

func judgeFrom(f *Facts, v *verdict) {
	word, ok := need(v, f.FromCheck)
	switch {
	case ok && word == "off":
		v.add(Warning, "from_check is off")
	case ok && word != "":
		v.note("from_check is %s", word)
	}
}

func judgeAuthserv(f *Facts, v *verdict) {
	a, ok := need(v, f.Access)
	if !ok || a.AuthservID == "" {
		return
	}
	for _, own := range append(append([]string{f.Hostname}, a.NodeHostnames...), a.LocalDomains...) {
		if under(a.AuthservID, own) || under(own, a.AuthservID) && strings.Contains(a.AuthservID, ".") {
			v.note("%s", a.AuthservID)
			return
		}
	}
	v.add(Warning, "%s is neither a hostname of a node nor of a local domain", a.AuthservID)
}

// under reports whether a name is another one, or below it.
func under(name, above string) bool {
	return above != "" && strings.HasSuffix("."+strings.ToLower(name), "."+strings.ToLower(above))
}

func systemConditions() []condition {
	return []condition{
		{
			"open-files", "the process may open enough files",
			"the process may open few files: clients are turned away early",
			"LimitNOFILE=65536 in the unit, or 'ulimit -n 65536', then restart the node", judgeFiles,
		},
		{
			"hostname", "the hostname is fully qualified",
			"the hostname is none that others can use: they distrust its EHLO",
			"set [node] hostname to the full name of the machine in DNS, and restart the node", judgeHostname,
		},
		{
			"time-zone", "the time zone is known",
			"the time zone that the process was given is not known, so UTC stands in messages",
			"take TZ out of the node's environment, or install the zones (tzdata)", judgeZone,
		},
	}
}

func judgeFiles(f *Facts, v *verdict) {
	n, ok := need(v, f.OpenFiles)
	if !ok {
		return
	}
	severity := OK
	switch {
	case n < filesError:
		severity = Error
	case n < filesWarn:
		severity = Warning
	}
	v.add(severity, "the limit is %d", n)
}

func judgeHostname(f *Facts, v *verdict) {
	name := strings.ToLower(strings.TrimSuffix(f.Hostname, "."))
	for _, local := range []string{"localhost", "localdomain", "local", "lan", "home.arpa"} {
		if under(name, local) {
			v.add(Warning, "it is %s, a name that means nothing outside", f.Hostname)
			return
		}
	}
	if !strings.Contains(name, ".") {
		v.add(Warning, "it is %q, without a domain", f.Hostname)
		return
	}
	v.note("%s", f.Hostname)
}

func judgeZone(f *Facts, v *verdict) {
	if why, ok := need(v, f.TimeZone); ok && why != "" {
		v.add(Warning, "%s", why)
	}
}
