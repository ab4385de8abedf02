package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"relay/cluster"
	"relay/cluster/disk"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/config"
	"relay/node/events"
	"relay/node/inbound"
	"relay/node/limits"
	"relay/node/login"
	"relay/node/maildrop"
	"relay/node/operator"
	"relay/node/operator/records"
	"relay/node/outbound"
	"relay/node/replica"
	"relay/node/statelog"
	"relay/node/tlscert"
	"relay/node/tlsreport"
	"relay/pop3"
	"relay/queue"
	"relay/queue/remote"
	"relay/queue/remote/mtasts"
	"relay/smtp"
)

// Options are what the main program gives to a node beside its configuration.
type Options struct {
	Log     *zap.Logger
	Version string
	// Fatal hears that this node can't go on: its disk failed, or an entry of
	// the log can't be applied. The caller must end the process.
	Fatal  func(error)
	Tuning cluster.Tuning
	// Moved is cluster.Options.Moved.
	Moved bool
	// Dial opens the connections between members; nil: the system's. Tests cut
	// links here.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	// Wall and Boot are the clocks that the replica goes by, as in cluster.Options;
	// nil: the system's. Tests set clocks wrong here.
	Wall func() time.Time
	Boot func() time.Duration
	// HashPassword makes the stored form of a new password; nil: login.HashPassword. Tests
	// hash cheaply here.
	HashPassword func(secret string) (string, error)
	// Grace is how long transactions and deliveries under way may take to end
	// at a stop; 0: 15 s and 5 s.
	Grace time.Duration
	// Notice is asked at a stop for how long new clients are still served, where
	// another node serves, too: the node is not ready, but refuses nobody. Nil: not
	// at all.
	Notice func() time.Duration
}

// Node is one relay. New opens it, Run serves.
type Node struct {
	conf      *config.Config
	options   Options
	log       *zap.Logger
	started   time.Time
	listeners []*listener
	cluster   *cluster.Cluster
	storage   *storage
	certs     *tlscert.Certificates
	acme      *tlscert.ACMEManager
	acmeTLS   net.Listener // for challenges; nil: none
	acmeHTTP  net.Listener
	relayers  *tlscert.Relayers
	token     atomic.Pointer[string]
	badTokens atomic.Int64
	inbound   *inbound.Service
	drops     *maildrop.Service
	meters    *smtp.Meters // of all SMTP listeners
	throttle  *login.Throttle
	confirm   *replica.Confirmer
	refused   *refusalLog
	scram     *login.ScramUse
	outbound  *outbound.Spool
	queue     *queue.Manager
	agent     *remote.Agent
	limits    *limits.Service
	senderDNS *remote.DNS
	policies  *mtasts.Finder      // MTA-STS policies; closed with the agent
	reporter  *tlsreport.Reporter // nil: no reports on TLS
	operator  *operator.Operator
	examiner  *examiner
	admin     *http.Server
	health    *http.Server
	metrics   *metrics
	timings   *timings
	drain     *drain
	events    *events.Hub
	wired     atomic.Bool   // all parts are there: changed may use them
	stir      chan struct{} // sessions or settings changed: refresh
	crash     chan struct{} // closed by Crash
	crashed   sync.Once
}

// listener is one open port and who serves it.
type listener struct {
	service string // smtp, submission, submissions, pop3, pop3s, pop2, admin, health
	role    string // of an SMTP listener
	net.Listener
	smtp *smtp.Server
	pop3 *pop3.Server
}

// New builds a node from its parts and opens its ports and its store; nothing
// is served before Run. The order is that of cheap failures first: a port that
// is taken is told before a store is opened.
func New(c *config.Config, o Options) (*Node, error) {
	n := &Node{
		conf: c, options: o, log: o.Log, started: time.Now(),
		stir: make(chan struct{}, 1), crash: make(chan struct{}), events: events.NewHub(),
	}
	if n.log == nil {
		n.log = zap.NewNop()
	}
	if n.options.Fatal == nil {
		n.options.Fatal = func(err error) { panic(err) }
	}
	if n.options.HashPassword == nil {
		n.options.HashPassword = login.HashPassword
	}
	if err := n.open(); err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

func (n *Node) open() error {
	if !cluster.Initialised(n.conf.Node.DataDir) {
		return fmt.Errorf("%s holds no node: run 'relayd init' for a new cluster or 'relayd join' for a running one",
			n.conf.Node.DataDir)
	}
	if err := n.loadSecrets(); err != nil {
		return err
	}
	var err error
	if n.relayers, err = tlscert.NewRelayers(n.conf.Relay); err != nil {
		return err
	}
	if err := n.listen(); err != nil {
		return err
	}
	limits := n.conf.Storage
	n.storage = &storage{
		dir: n.conf.Node.DataDir, minFree: uint64(limits.MinFree), percent: uint64(limits.MinFreePercent),
		messages: uint64(limits.MaxMessages), bytes: uint64(limits.MaxBytes), log: n.log, measure: statfs,
	}
	n.storage.look()
	if err := n.openCluster(); err != nil {
		return err
	}
	if err := n.build(); err != nil {
		return err
	}
	n.wired.Store(true)
	return n.serveWith()
}

// loadSecrets reads the certificate and the admin token; Reload does it again.
func (n *Node) loadSecrets() error {
	if t := n.conf.TLS; n.certs == nil && (t.Cert != "" || len(n.conf.ACME.Hosts) > 0) {
		certs, err := tlscert.NewCertificates(t, n.log)
		if err != nil {
			return err
		}
		n.certs = certs
	} else if n.certs != nil {
		if err := n.certs.Load(); err != nil {
			return err
		}
	}
	return n.loadToken()
}

// loadToken reads the admin token. A file that is gone, or has no token in it
// any more, is an error; so the API never opens by itself.
func (n *Node) loadToken() error {
	token, path := n.conf.Admin.Token, n.conf.TokenPath()
	if path != "" {
		b, err := os.ReadFile(path)
		former := n.token.Load()
		optional := n.conf.Admin.TokenFile == "" && (former == nil || *former == "")
		if optional && errors.Is(err, fs.ErrNotExist) {
			n.token.Store(new(string))
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the token of the admin API: %w", err)
		}
		if token = strings.TrimSpace(string(b)); token == "" {
			return fmt.Errorf("read the token of the admin API: %s is empty", path)
		}
	}
	n.token.Store(&token)
	return nil
}

// anonymous reports whether clients of this machine need no token.
func (n *Node) anonymous() bool {
	if a := n.conf.Admin.AnonymousLoopback; a != nil {
		return *a
	}
	return *n.token.Load() == ""
}

// openCluster opens the replica. Entries that it applies from here on reach changed,
// which waits for nothing.
func (n *Node) openCluster() error {
	url := n.conf.Admin.URL
	if url == "" {
		url = "http://" + n.Addr("admin").String()
	}
	var err error
	n.cluster, err = cluster.Open(cluster.Options{
		Dir: n.conf.Node.DataDir, ID: n.conf.Node.ID, Listen: n.conf.Cluster.Listen, Advertise: n.conf.Cluster.Advertise,
		Member: &pb.Member{Admin: url, Version: n.options.Version, Hostname: n.conf.Node.Hostname},
		Peers:  n.conf.Cluster.PeerAddresses(),
		Log:    n.log, OnChanges: n.changed, OnRemoved: n.removed, Fatal: n.options.Fatal, Dial: n.options.Dial,
		Tuning: tuningOf(n.conf, n.options.Tuning), Moved: n.options.Moved,
		Wall: n.options.Wall, Boot: n.options.Boot, Load: n.machine,
	})
	return err
}

// machine is the state machine of a store, which those who watch events hear.
func (n *Node) machine(r spool.Reader) (disk.Machine, error) {
	m, err := spool.Load(r)
	m.Watch(n.events.Watched())
	return m, err
}

// tuningOf is the tuning of the options, with what the configuration says.
func tuningOf(conf *config.Config, t cluster.Tuning) cluster.Tuning {
	if d := conf.Cluster.Latency.D(); d != 0 {
		t.Latency = d
	}
	t.ShareMemory(int64(conf.Storage.Cache))
	return t
}

// build makes the parts that turn events into commands.
func (n *Node) build() error {
	id, hostname := n.conf.Node.ID, n.conf.Node.Hostname
	n.drain = newDrain(n.cluster, id, n.refuseClients, n.log)
	known := login.NewFamiliar()
	known.Others = n.anyKnows
	n.cluster.Handle(login.AskFamiliar, func(_ context.Context, _ string, req []byte) ([]byte, error) {
		if known.Has(req) {
			return []byte{1}, nil
		}
		return []byte{0}, nil
	})
	n.throttle = login.NewThrottle(n.conf.Limits.LoginFailures, n.cluster, id, n.trusted, known, n.log)
	n.confirm = replica.NewConfirmer(n.cluster, n.log)
	logins, err := login.NewService(n.cluster, n.confirm, n.options.HashPassword)
	if err != nil {
		return err
	}
	n.refused = newRefusalLog(n.log)
	n.timings = newTimings()
	n.scram = login.NewScramUse(n.cluster)
	if n.acme, err = tlscert.NewACMEManager(n.conf.ACME, n.cluster, n.cluster.Leads, n.log.Named("acme")); err != nil {
		return err
	}
	if n.acme != nil {
		n.certs.ACME = n.acme
	}
	n.drops = maildrop.New(maildrop.Config{
		Replica: n.cluster, SessionLost: n.cluster.SessionLost, Node: id, Logins: logins, Throttle: n.throttle, Log: n.log,
		Folders: n.conf.Folders, Answers: n.cluster.Answers, Refusing: n.drain.refusal,
		Took: func(begin time.Time) { since(n.timings.login, begin) },
	})
	if err := n.buildQueue(id, hostname); err != nil {
		return err
	}
	if err := n.buildInbound(id, hostname, logins); err != nil {
		return err
	}
	n.buildOperator()
	return n.buildServers()
}

// buildInbound makes the SMTP side, with a resolver of its own.
func (n *Node) buildInbound(id, hostname string, logins *login.Service) error {
	dns, err := remote.NewDNS(n.conf.Delivery.DNSServers)
	if err != nil {
		return fmt.Errorf("[delivery] dns_servers: %w", err)
	}
	n.senderDNS = dns
	n.inbound, err = inbound.New(inbound.Config{
		Replica: n.cluster, Node: id, Hostname: hostname, Version: n.options.Version, MaxHops: n.conf.Relay.MaxHops,
		Logins: logins, Throttle: n.throttle, Confirm: n.confirm, Relayers: n.relayers, Room: room{n.storage, n.cluster},
		Ready: n.cluster.AwaitReady, Ask: n.cluster.Ask, Own: n.agent.OwnAddresses, Filters: n.conf.Milter,
		Verify: n.conf.Verify, DNSBL: n.conf.DNSBL, Exempt: within(n.conf.Verify.DNSBLExempt), Resolver: senderDNS{dns},
		Rules: n.outbound.RulesAtHand, Log: n.log, Callout: remote.NewCallouts(n.agent.Ask).Check,
		Listing:   n.outbound.Listing,
		Committed: func(begin time.Time) { since(n.timings.commit, begin) },
		Accepted:  func(end time.Time) { since(n.timings.accept, end) },
	})
	if err != nil {
		return err
	}
	n.cluster.Handle(inbound.MethodReceipt, func(_ context.Context, _ string, req []byte) ([]byte, error) {
		return n.inbound.AnswerReceipt(req), nil
	})
	return nil
}

func (n *Node) buildQueue(id, hostname string) error {
	d := n.conf.Delivery
	n.outbound = outbound.New(n.cluster, id, hostname, queue.RetryPolicy{
		First: time.Duration(d.RetryFirst), Max: time.Duration(d.RetryMax), Lifetime: time.Duration(d.Expire),
	}, n.log)
	n.limits = n.newLimits(id)
	var err error
	if n.agent, n.policies, err = newAgent(d, hostname, n.outbound, n.cluster, n.limits, n.tally(hostname),
		n.log); err != nil {
		return err
	}
	n.queue = queue.New(queue.Config{
		Spool: n.outbound, Agent: &timedAgent{outbound.NewMailboxAgent(n.agent, n.confirm), n.timings.delivery}, Log: n.log,
		Hostname: hostname, Route: n.outbound.Hop,
		Now: n.cluster.Now, Ageing: n.cluster.Ageing,
		Limits: queue.Limits{Workers: d.Concurrency, PerDestination: d.PerDestination, Grace: n.options.Grace},
	})
	return nil
}

// changed hears of each commit, on the apply goroutine.
func (n *Node) changed(c spool.Changes) {
	if !n.wired.Load() {
		return // still opening; refresh reads it all
	}
	n.outbound.Feed(n.queue, c)
	n.drops.Changed(c)
	n.events.Feed(c)
	if c.Directory || c.Restored {
		n.scram.Changed()
	}
	if c.Clock && n.acme != nil {
		n.acme.Forget() // what is planned for a time that may be far away now
	}
	if c.Sessions || c.Directory || c.Rules || c.Restored || c.Clock {
		n.stirUp()
	}
}

// removed hears what a Sweep of this node, as the leader, took out of mailboxes.
func (n *Node) removed(all []*pb.Removed) { statelog.LogSwept(n.log, all) }

func (n *Node) stirUp() {
	select {
	case n.stir <- struct{}{}:
	default:
	}
}

// refresher reads sessions, routes, rules and settings again when they changed, and rules when one ends.
func (n *Node) refresher(ctx context.Context) error {
	ends := time.NewTimer(time.Hour)
	defer ends.Stop()
	for {
		if err := errors.Join(n.drain.look(), n.outbound.Refresh(n.queue), n.refreshLimits()); err != nil {
			n.log.Error("cannot read sessions and routes", zap.Error(err))
		}
		ends.Reset(n.outbound.RefreshIn())
		select {
		case <-ends.C:
		case <-ctx.Done():
			return nil
		case <-n.stir:
		}
	}
}

// Ready returns nil where this node may take traffic, else why not. A node that
// goes out of service is not ready at once, and serves on until its notice ends.
func (n *Node) Ready() error {
	if err := n.drain.ready(); err != nil {
		return err
	}
	return n.cluster.Ready()
}

// takes returns nil while a message can be taken in.
func (n *Node) takes() error {
	if err := n.drain.serving(); err != nil {
		return err
	}
	return n.cluster.Ready()
}

// Addr returns where a service listens: smtp, submission, submissions, pop3,
// pop3s, pop2, admin or health; nil where it does not.
func (n *Node) Addr(service string) net.Addr {
	for _, l := range n.listeners {
		if l.service == service {
			return l.Addr()
		}
	}
	return nil
}

// Cluster gives tests and the main program access to the replica.
func (n *Node) Cluster() *cluster.Cluster { return n.cluster }

// Reload reads certificates and the admin token again (SIGHUP).
func (n *Node) Reload() error { return n.loadSecrets() }

// stopGrace is how long transactions under way may take to end at a stop.
const stopGrace = 15 * time.Second

// Run serves until ctx ends, then stops in the reverse order of the start: no
// new clients, transactions end, deliveries end, the admin port closes, and
// last the replica moves leadership away and closes. It returns when all
// goroutines have ended; an error means that something failed by itself.
func (n *Node) Run(ctx context.Context) error {
	var stages []func() // stop functions, in order of start
	var wg sync.WaitGroup
	failed := make(chan error, 16)
	start := func(name string, run func(context.Context) error) {
		stage, cancel := context.WithCancel(context.WithoutCancel(ctx))
		done := make(chan struct{})
		wg.Add(1)
		go func() {
			defer wg.Done()
			defer close(done)
			if err := run(stage); err != nil && stage.Err() == nil {
				failed <- fmt.Errorf("%s: %w", name, err)
			}
		}()
		stages = append(stages, func() { cancel(); <-done })
	}
	start("cluster", n.cluster.Run)
	start("admin", n.serveAdmin)
	start("storage", func(ctx context.Context) error { return n.storage.watch(ctx, n.cluster.SetShort) })
	if err := n.drain.begin(); err != nil {
		n.log.Error("cannot read whether this node is being drained", zap.Error(err))
	}
	start("refresh", n.refresher)
	start("ruled", n.outbound.LogRuled)
	start("drain", n.drain.run)
	start("limits", func(ctx context.Context) error { return n.limits.Run(ctx, n.queue, n.agent) })
	start("queue", n.deliver)
	start("handover", func(ctx context.Context) error { return n.outbound.HandOver(ctx, n.queue) })
	start("policies", outbound.RenewPolicies(n.policies, n.cluster.Leads))
	if n.reporter != nil {
		start("tls-reports", n.reporter.Run)
	}
	start("maildrops", n.drops.Watch)
	start("locks", n.drops.Keep)
	start("throttle", n.throttle.Run)
	start("greylist", n.inbound.Run)
	start("refusals", n.refused.run)
	start("doctor", n.examiner.run)
	start("dkim", records.NewDKIMWaits(n.operator, n.cluster.Leads, n.senderDNS.TXT, n.log).Run)
	if n.acme != nil {
		start("acme", n.serveACME)
	}
	start("clients", n.serveClients)

	err := n.awaitStop(ctx, failed)
	for i := len(stages) - 1; i >= 0; i-- {
		stages[i]()
	}
	wg.Wait()
	n.close()
	return err
}

// awaitStop returns when the stages are to end: ctx has ended and the notice is
// over, a part has failed, or the node crashes.
func (n *Node) awaitStop(ctx context.Context, failed <-chan error) error {
	var err error
	over := make(chan struct{})
	noticed, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	giveNotice := func() {
		defer close(over)
		var notice time.Duration
		if n.options.Notice != nil {
			notice = n.options.Notice()
		}
		n.drain.stop(noticed, notice)
	}
	stop := ctx.Done()
	for {
		select {
		case <-stop:
			stop = nil
			go giveNotice()
			continue
		case <-over:
			return nil
		case err = <-failed:
		case <-n.crash:
			err = n.cluster.Crash(nil)
		}
		cancel()
		if stop == nil {
			<-over
		} else {
			n.drain.stop(noticed, 0)
		}
		return err
	}
}

// Crash ends a running node as kill -9 would, as far as that is possible inside
// a process: raft and the store are dropped first and flush nothing, then the
// rest goes down. For tests; Run returns.
func (n *Node) Crash() { n.crashed.Do(func() { close(n.crash) }) }

// serveClients serves SMTP and POP3; at the end it lets transactions finish.
func (n *Node) serveClients(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	for _, l := range n.listeners {
		switch {
		case l.smtp != nil:
			g.Go(func() error { return l.smtp.Serve(serving, l) })
		case l.pop3 != nil:
			g.Go(func() error {
				if l.service == "pop2" {
					return l.pop3.ServePOP2(serving, l)
				}
				return l.pop3.Serve(serving, l)
			})
		}
	}
	g.Go(func() error {
		<-gctx.Done()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), cmp.Or(n.options.Grace, stopGrace))
		defer cancel()
		n.refuseClients(true, true)
		n.sendAway(grace)
		n.shutdownClients(grace)
		stop()
		return nil
	})
	return g.Wait()
}

// refuseClients has all servers refuse new clients and let the others end, or
// ends that.
func (n *Node) refuseClients(on, stopping bool) {
	quiet := quietDrain
	if stopping {
		quiet = quietStop
	}
	for _, l := range n.listeners {
		if l.smtp != nil {
			l.smtp.Refuse(on)
		}
		if l.pop3 != nil {
			l.pop3.Refuse(on, quiet)
		}
	}
}

// sendAway returns when the open sessions have ended, or ctx has. Until then new
// clients hear that they are refused.
func (n *Node) sendAway(ctx context.Context) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for n.served() > 0 {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// served counts the sessions of clients that were not refused.
func (n *Node) served() (open int) {
	for _, l := range n.listeners {
		if l.smtp != nil {
			open += int(l.smtp.Stats().Serving.Load())
		}
		if l.pop3 != nil {
			open += int(l.pop3.Stats().LoggedIn.Load())
		}
	}
	return open
}

func (n *Node) shutdownClients(ctx context.Context) {
	var wg sync.WaitGroup
	for _, l := range n.listeners {
		if l.smtp != nil {
			wg.Go(func() { _ = l.smtp.Shutdown(ctx) })
		}
		if l.pop3 != nil {
			wg.Go(func() { _ = l.pop3.Shutdown(ctx) })
		}
	}
	wg.Wait()
}

func (n *Node) serveAdmin(ctx context.Context) error {
	done := make(chan error, 2)
	for _, l := range n.listeners {
		switch l.service {
		case "admin":
			go func() { done <- n.admin.Serve(l) }()
		case "health":
			go func() { done <- n.health.Serve(l) }()
		}
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	n.events.Close() // an answer that never ends would hold up the stop
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	for _, s := range []*http.Server{n.health, n.admin} {
		if err := s.Shutdown(grace); err != nil {
			_ = s.Close()
		}
	}
	return nil
}

// close gives back what New opened; Run calls it at its end.
func (n *Node) close() {
	if n.senderDNS != nil {
		_ = n.senderDNS.Close()
	}
	for _, l := range n.listeners {
		_ = l.Close()
	}
	for _, l := range []net.Listener{n.acmeTLS, n.acmeHTTP} {
		if l != nil {
			_ = l.Close()
		}
	}
}

// trusted reports whether a client may relay and log in without TLS.
func (n *Node) trusted(a netip.Addr) bool {
	a = a.Unmap()
	for _, p := range n.conf.Relay.TrustedNetworks {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// deliver runs the queue manager and says goodbye to the next hops after it.
func (n *Node) deliver(ctx context.Context) error {
	err := n.queue.Run(ctx)
	return errors.Join(err, n.agent.Close())
}

// anyKnows asks the other nodes whether an account has logged in from a network.
func (n *Node) anyKnows(ctx context.Context, key []byte) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	for _, node := range replica.Others(n.cluster, n.conf.Node.ID) {
		if answer, err := n.cluster.Ask(ctx, node, login.AskFamiliar, key); err == nil && string(answer) == "\x01" {
			return true
		}
	}
	return false
}
