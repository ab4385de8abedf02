package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"runtime/debug"
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/net/netutil"
	"golang.org/x/sync/errgroup"

	"relay/cluster"
	"relay/cluster/spool"
	"relay/node/admin"
	"relay/node/config"
	"relay/node/events"
	"relay/node/limits"
	"relay/node/login"
	"relay/node/operator"
	"relay/node/outbound"
	"relay/pop3"
	"relay/queue/remote"
	"relay/queue/remote/mtasts"
	"relay/queue/remote/tlsrpt"
	"relay/queue/remote/webguard"
	"relay/smtp"
	"relay/smtp/printable"
	"relay/smtp/sasl"
)

// listen opens all client ports.
func (n *Node) listen() error {
	for i := range n.conf.SMTP {
		l := &n.conf.SMTP[i]
		service := "smtp"
		if l.Role == config.RoleSubmission {
			service = "submission"
			if l.TLS == config.TLSImplicit {
				service = "submissions"
			}
		}
		if err := n.listenOn(service, l.Listen, l.ProxyProtocol); err != nil {
			return fmt.Errorf("[[smtp]] listener: %w", err)
		}
	}
	for i := range n.conf.POP3 {
		l := &n.conf.POP3[i]
		service := "pop3"
		if l.TLS == config.TLSImplicit {
			service = "pop3s"
		}
		if err := n.listenOn(service, l.Listen, l.ProxyProtocol); err != nil {
			return fmt.Errorf("[[pop3]] listener: %w", err)
		}
	}
	for i := range n.conf.POP2 {
		l := &n.conf.POP2[i]
		if err := n.listenOn("pop2", l.Listen, l.ProxyProtocol); err != nil {
			return fmt.Errorf("[[pop2]] listener: %w", err)
		}
	}
	if err := n.listenACME(); err != nil {
		return fmt.Errorf("[acme] listener: %w", err)
	}
	if err := n.listenOn("admin", n.conf.Admin.Listen, nil); err != nil {
		return fmt.Errorf("[admin] listener: %w", err)
	}
	if addr := n.conf.Admin.HealthListen; addr != "" {
		if err := n.listenOn("health", addr, nil); err != nil {
			return fmt.Errorf("[admin] health_listen: %w", err)
		}
	}
	return nil
}

// listenTCP opens a port, and names the cure where the user may not.
func listenTCP(address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	return l, bindCure(err)
}

func bindCure(err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%w: another program has the port, and 'ss -ltnp' names it: stop it, such as a mail server that "+
			"was there before, or change the address", err)
	case !errors.Is(err, syscall.EACCES):
		return err
	}
	return fmt.Errorf("%w: a port below 1024 needs a right: "+
		"AmbientCapabilities=CAP_NET_BIND_SERVICE in the systemd unit, "+
		"'setcap cap_net_bind_service=+ep' on relayd, or 'sysctl net.ipv4.ip_unprivileged_port_start=0'", err)
}

func (n *Node) listenOn(service, address string, proxies []netip.Prefix) error {
	l, err := listenTCP(address)
	if err != nil {
		return err
	}
	if len(proxies) > 0 {
		l = proxied(l, proxies, func(balancer net.Addr, err error) {
			protocol, role := "pop3", ""
			switch service {
			case "smtp":
				protocol, role = "smtp", string(config.RoleMX)
			case "submission", "submissions":
				protocol, role = "smtp", string(config.RoleSubmission)
			}
			n.refused.proxy(protocol, role, balancer, err)
		})
	}
	n.listeners = append(n.listeners, &listener{service: service, Listener: l})
	return nil
}

// listenACME opens the ports where a CA asks.
func (n *Node) listenACME() (err error) {
	c := n.conf.ACME
	if len(c.Hosts) == 0 {
		return nil
	}
	if c.TLSListen != "" {
		if n.acmeTLS, err = listenChallenge(c.TLSListen); err != nil {
			return err
		}
	}
	if c.HTTPListen != "" {
		n.acmeHTTP, err = listenChallenge(c.HTTPListen)
	}
	return err
}

// listenChallenge opens a port that anybody may connect to, and a CA alone gets anything from.
func listenChallenge(address string) (net.Listener, error) {
	l, err := listenTCP(address)
	if err != nil {
		return nil, err
	}
	return netutil.LimitListener(l, adminConnections), nil
}

// serveACME orders certificates where this node leads, and answers challenges.
func (n *Node) serveACME(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return n.acme.Run(ctx) })
	if n.acmeTLS != nil {
		g.Go(func() error { return n.acme.AnswerTLS(ctx, n.acmeTLS) })
	}
	if n.acmeHTTP != nil {
		g.Go(func() error { return n.acme.AnswerHTTP(ctx, n.acmeHTTP) })
	}
	return g.Wait()
}

func (n *Node) tlsConfig(mode config.TLSMode) *tls.Config {
	if n.certs == nil || mode == config.TLSNone {
		return nil
	}
	return n.certs.Config(n.conf.TLS.MinVersion, n.relayers != nil)
}

// adminConnections bounds those of the admin port, of the port for balancers, and of each port for a CA's
// challenges.
const adminConnections = 256

// serveWith wraps the admin port, and the port for balancers.
func (n *Node) serveWith() error {
	n.admin = &http.Server{
		Handler: n.adminHandler(), ErrorLog: zap.NewStdLog(n.log),
		ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 64 << 10,
		ConnState: newSpareConns(adminConnections).hook,
	}
	for _, l := range n.listeners {
		if l.service == "admin" || l.service == "health" {
			l.Listener = netutil.LimitListener(l.Listener, adminConnections)
		}
	}
	n.health = &http.Server{
		Handler: admin.NewHealth(n.Ready), ErrorLog: zap.NewStdLog(n.log), MaxHeaderBytes: 8 << 10,
		ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second, IdleTimeout: 30 * time.Second,
		ConnState: newSpareConns(adminConnections).hook,
	}
	if n.conf.Admin.TLS == config.TLSImplicit {
		for _, l := range n.listeners {
			if l.service == "admin" {
				l.Listener = tls.NewListener(l.Listener, n.tlsConfig(config.TLSImplicit))
			}
		}
	}
	return nil
}

func (n *Node) adminHandler() http.Handler {
	ports := n.operator.Ports()
	ports.Doctor = n.examiner
	ports.Events = &events.Service{Hub: n.events, View: n.cluster.View, Timeline: operator.Timeline}
	return admin.NewServer(admin.Options{
		Ports: ports, Ready: n.Ready, Barrier: n.cluster.Consistent,
		Token: func() string { return *n.token.Load() }, TokenFile: n.conf.TokenPath(), Anonymous: n.anonymous,
		TokenFailed: func() { n.badTokens.Add(1) },
		Metrics:     n.metrics.handler(), Profile: profiles(), Log: n.log, Version: n.options.Version,
	})
}

// profiles serves what `go tool pprof` asks for.
func profiles() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}

// buildServers makes one protocol server for each listener, in the order in
// which listen opened them.
func (n *Node) buildServers() error {
	smtps, pop3s := n.conf.SMTP, n.conf.POP3
	n.meters = newMeters(n.conf.Limits)
	var err error
	for _, l := range n.listeners {
		switch {
		case l.service == "admin", l.service == "health":
		case l.service == "pop2":
			l.pop3, err = n.newPOP3(&config.POP3{TLS: config.TLSNone})
		case len(smtps) > 0:
			l.role = string(smtps[0].Role)
			l.smtp, err = n.newSMTP(&smtps[0])
			smtps = smtps[1:]
		default:
			l.pop3, err = n.newPOP3(&pop3s[0])
			pop3s = pop3s[1:]
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (n *Node) newSMTP(c *config.SMTP) (*smtp.Server, error) {
	lim := n.conf.Limits
	submission := c.Role == config.RoleSubmission
	return smtp.NewServer(smtp.ServerConfig{
		Hostname: n.conf.Node.Hostname,
		Backend:  n.inbound.Backend(c),
		TLS:      n.tlsConfig(c.TLS), ImplicitTLS: c.TLS == config.TLSImplicit, RequireAuth: submission,
		Trusted: n.trusted, XClient: within(c.XClient), DefaultDomain: n.defaultDomain,
		Mechanisms: n.mechanisms(c.SASLMechanisms), HideScram: n.hideScram(c.SASLMechanisms),
		ScramIterations: login.ScramIterations, MaxSize: int64(n.conf.Relay.MaxMessageSize), MaxRecipients: lim.Recipients,
		MaxErrors:     lim.Errors,
		Meters:        n.meters,
		Scarce:        newDescriptors().scarce,
		Now:           n.cluster.Now,
		GreetPause:    time.Duration(c.GreetPause),
		AuthDelay:     n.wrongPassword,
		LenientSyntax: c.LenientSyntax, LegacyVerbs: c.LegacyVerbs, Verify: c.VRFY, Expand: c.VRFY,
		CommandTimeout: time.Duration(lim.CommandTimeout), BlockTimeout: time.Duration(lim.DataTimeout),
		Refused: func(f *smtp.Refusal) { n.refused.smtp(string(c.Role), f) },
		Log:     protocolLog(n.log.Named("smtp")),
	})
}

// heldMost bounds what strangers' messages hold of the memory while they come in. The
// collector lets the heap grow to twice what lives, so the process may take as much
// again.
const heldMost = 128 << 20

// heldRoom is heldMost, or an eighth of the memory that the collector is to keep to.
func heldRoom(limit int64) int64 { return min(heldMost, limit/8) }

// newMeters counts for all SMTP listeners together.
func newMeters(l config.Limits) *smtp.Meters {
	return smtp.NewMeters(smtp.Limits{
		Connections: l.SMTPConnections, NetConnections: l.ConnectionsPerClient,
		Messages: l.TotalMessagesPerMinute, NetMessages: l.MessagesPerMinute,
		Recipients: l.TotalRecipientsPerMinute, NetRecipients: l.RecipientsPerMinute,
		Errors: l.TotalErrorsPerMinute, NetErrors: l.ErrorsPerMinute,
		Bytes: int64(l.TotalBytesPerMinute), NetBytes: int64(l.BytesPerMinute), Held: heldRoom(debug.SetMemoryLimit(-1)),
	})
}

func (n *Node) newPOP3(c *config.POP3) (*pop3.Server, error) {
	lim := n.conf.Limits
	with, without := extensions(c)
	return pop3.NewServer(pop3.ServerConfig{
		Hostname: n.conf.Node.Hostname, Backend: n.drops, TLS: n.tlsConfig(c.TLS), ImplicitTLS: c.TLS == config.TLSImplicit,
		Trusted: n.trusted, Scarce: newDescriptors().scarce, AutoLogout: time.Duration(lim.POP3Idle),
		SleepLogout: time.Duration(lim.POP3SleepIdle),
		Limits: pop3.Limits{
			Connections: lim.POP3Connections, PerHost: lim.ConnectionsPerClient,
			SleepingPerUser: lim.POP3SleepingPerUser, SleepingPerHost: lim.POP3SleepingPerClient, Exempt: n.trusted,
		},
		Mechanisms: n.mechanisms(c.SASLMechanisms), HideScram: n.hideScram(c.SASLMechanisms),
		With: with, Without: without, Policies: n.drops.Policies,
		Refused: n.refused.pop3, Ready: n.awaitFirstSession,
		Log: protocolLog(n.log.Named("pop3")),
	})
}

// awaitFirstSession waits, as long as ctx lasts, for the session without which no POP3
// login can be judged after a start, and returns why there is none.
func (n *Node) awaitFirstSession(ctx context.Context) error {
	t := time.NewTicker(sessionLook)
	defer t.Stop()
	for {
		err := n.cluster.Ready()
		if err == nil || n.cluster.Epoch() != 0 {
			return nil
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return err
		}
	}
}

// sessionLook is how often it is looked whether there is a session.
const sessionLook = 100 * time.Millisecond

// mechanisms are those of AUTH at a listener.
func (n *Node) mechanisms(listed []string) (names []string) {
	for _, name := range listed {
		name, _ = sasl.Parse(name) // config has checked them
		names = append(names, name)
	}
	return names
}

// hideScram hides SCRAM where nobody has listed the mechanisms.
func (n *Node) hideScram(listed []string) func() bool {
	if len(listed) > 0 {
		return nil
	}
	return n.scram.Hide
}

// extensions are what a listener offers beyond the usual, and what not.
func extensions(c *config.POP3) (with, without pop3.Extension) {
	if c.XLOG {
		with |= pop3.Xlog
	}
	if !c.UIDBeyondSnapshot {
		without |= pop3.LateUID
	}
	for _, name := range c.Without {
		e, _ := pop3.ParseExtension(name) // config has checked them
		without |= e
	}
	return with, without
}

// wrongPassword says how long to hold back the answer to a failed login. The next
// ones are held back before the password is looked at; one that only tries another
// mechanism is not counted, but answered slower and slower, too.
func (n *Node) wrongPassword(a netip.Addr, err error) time.Duration {
	switch {
	case n.trusted(a):
		return 0
	case errors.Is(err, login.ErrWrongAgain):
		// The throttle may have held this login back as well, and the client
		// wants its answer within 15 seconds.
		return min(n.meters.AuthDelay(a), 4*time.Second)
	}
	return 250 * time.Millisecond
}

// protocolLog writes a protocol server's log lines: those that an operator should hear of
// without having asked, and the rest for a reader who looks closely.
func protocolLog(log *zap.Logger) func(event string, kv ...any) {
	sugared := log.Sugar()
	return func(event string, kv ...any) {
		level := zap.DebugLevel
		if event == "error" || event == "accept failed" {
			level = zap.WarnLevel
		}
		if !log.Core().Enabled(level) {
			return
		}
		for i, v := range kv { // strangers have their words in it
			switch v := v.(type) {
			case string:
				kv[i] = printable.Text(v, 1024)
			case error:
				kv[i] = printable.Text(v.Error(), 1024)
			}
		}
		sugared.Logw(level, event, kv...)
	}
}

// within makes a test of membership; nil for no networks.
func within(nets []netip.Prefix) func(netip.Addr) bool {
	if len(nets) == 0 {
		return nil
	}
	return func(a netip.Addr) bool {
		a = a.Unmap()
		for _, p := range nets {
			if p.Contains(a) {
				return true
			}
		}
		return false
	}
}

// defaultDomain completes bare local parts of trusted and authenticated peers.
func (n *Node) defaultDomain() string {
	var domain string
	_ = n.cluster.View(func(v spool.View) error {
		s, err := v.Settings()
		domain = s.GetDefaultDomain()
		return err
	})
	return domain
}

// newAgent makes the delivery agent of the configuration.
func newAgent(d config.Delivery, hostname string, routes remote.Router, c *cluster.Cluster, shares *limits.Service,
	tally func(*tlsrpt.Session), log *zap.Logger) (*remote.Agent, *mtasts.Finder, error) {
	dns, err := remote.NewDNS(d.DNSServers)
	if err != nil {
		return nil, nil, fmt.Errorf("[delivery] dns_servers: %w", err)
	}
	roots, err := d.HTTPSRoots()
	if err != nil {
		return nil, nil, fmt.Errorf("[delivery] https_ca: %w", err)
	}
	dns.Believe(d.TrustAD)
	policy := remote.Opportunistic
	switch d.TLS {
	case config.DeliveryTLSOff:
		policy = remote.Off
	case config.DeliveryTLSRequired:
		policy = remote.Required
	}
	sessions := d.MXSessionLimit
	if sessions == 0 {
		sessions = -1 // no limit
	}
	web := webguard.Options{Roots: roots, Loopback: d.LoopbackHops}
	policies := outbound.NewPolicies(c, dns, web, d.MTASTSPort, log.Named("remote"))
	agent, err := remote.New(remote.Config{
		Hostname: hostname, Helo: d.Helo, Router: routes, Resolver: dns, Port: d.Port, TLS: policy, Policies: policies,
		Tally:          tally,
		ConnectTimeout: time.Duration(d.ConnectTimeout), Messages: d.MessagesPerConnection,
		Client: smtp.ClientOptions{Chunking: d.Chunking, Now: c.Now}, Sources: d.SourceAddresses,
		Log: log.Named("remote"), LoopbackHops: d.LoopbackHops, Sessions: sessions,
		Limits: shares.Gates, Sites: shares,
	})
	return agent, policies, err
}
