package nodetest

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"relay/cluster"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node"
	"relay/node/admin"
	"relay/node/config"
	"relay/node/login"
)

// Options describe a Cluster.
type Options struct {
	Nodes     int                           // default 3
	Tuning    cluster.Tuning                // default Lasting
	Configure func(i int, c *config.Config) // changes a node's configuration
	Verbose   bool                          // the nodes' logs go to the test's
	Log       *zap.Logger                   // or here
	Notice    time.Duration                 // that Stop gives
	Grace     time.Duration                 // for what is under way at a Stop; default half a second
}

// Quick is a tuning for tests in which nodes die: a second where production has two to five.
func Quick() cluster.Tuning {
	return cluster.Tuning{
		Heartbeat: 500 * time.Millisecond, Election: 500 * time.Millisecond, LeaderLease: 400 * time.Millisecond,
		CommitTimeout: 5 * time.Millisecond, Lease: 1600 * time.Millisecond, Margin: 400 * time.Millisecond,
		Renew: 250 * time.Millisecond, Tick: 50 * time.Millisecond, Promote: 100 * time.Millisecond,
		GrowTo: -1, MemTable: 16 << 20, BlockCache: 16 << 20,
	}
}

// Lasting is Quick for tests in which no node dies: a session does not lapse because other
// tests keep the machine busy.
func Lasting() cluster.Tuning {
	t := Quick()
	t.Heartbeat, t.Election, t.LeaderLease = 1500*time.Millisecond, 1500*time.Millisecond, 1200*time.Millisecond
	t.Lease, t.Margin = 8*time.Second, 2*time.Second
	return t
}

// Steady is Lasting for tests in which a change of the leader on a busy machine is a failure,
// too: the times of production, but for what a start waits for.
func Steady() cluster.Tuning {
	return cluster.Tuning{
		CommitTimeout: 5 * time.Millisecond, Tick: 50 * time.Millisecond, Promote: 100 * time.Millisecond,
		GrowTo: -1, MemTable: 16 << 20, BlockCache: 16 << 20,
	}
}

// Cluster is a cluster of relays in this process. Domain example.test is local,
// with alice and bob, password secret; all remote mail goes to Sink.
type Cluster struct {
	t     testing.TB
	o     Options
	DNS   *DNS
	Sink  *Sink
	Nodes []*Member
	links *links
}

// Member is one node of a Cluster. Its ports stay the same over restarts.
type Member struct {
	ID    string
	SMTP  string
	POP3  string
	Admin string
	Dir   string

	c    *Cluster
	conf *config.Config
	skew atomic.Int64 // of its wall clock
	goes atomic.Bool  // it is taken out: that it cannot go on is no failure

	mu   sync.Mutex
	node *node.Node
	stop context.CancelFunc
	done chan struct{}
	err  error
	api  *admin.Client
}

// New starts a cluster and waits until every node is ready. Everything ends
// with the test.
func New(t testing.TB, o Options) *Cluster {
	t.Helper()
	if o.Nodes == 0 {
		o.Nodes = 3
	}
	if o.Tuning == (cluster.Tuning{}) {
		o.Tuning = Lasting()
	}
	base := t.TempDir()
	c := &Cluster{t: t, o: o, DNS: NewDNS(t), Sink: NewSink(t, "127.0.0.1:0"), links: newLinks()}
	t.Cleanup(c.stopAll)
	for i := range o.Nodes {
		m := c.member(i, filepath.Join(base, fmt.Sprintf("n%d", i+1)))
		c.Nodes = append(c.Nodes, m)
		if i == 0 {
			m.init()
		} else {
			m.join(c.Nodes[0])
		}
		m.Start()
		m.WaitReady()
	}
	c.populate()
	c.WaitHealthy()
	return c
}

// member makes the configuration of one node on ports that are free now.
func (c *Cluster) member(i int, dir string) *Member {
	require.NoError(c.t, os.MkdirAll(dir, 0o700))
	m := &Member{ID: fmt.Sprintf("n%d", i+1), Dir: dir, c: c}
	conf := config.New()
	conf.Node = config.Node{ID: m.ID, Hostname: m.ID + ".example.test", DataDir: filepath.Join(dir, "data")}
	conf.Cluster.Listen = freeAddr(c.t)
	conf.Cluster.Advertise = conf.Cluster.Listen
	c.links.name(conf.Cluster.Listen, m.ID)
	mx, pop := config.NewSMTP(), config.NewPOP3()
	mx.Listen, pop.Listen = freeAddr(c.t), freeAddr(c.t)
	conf.SMTP, conf.POP3 = []config.SMTP{mx}, []config.POP3{pop}
	conf.Admin.Listen = freeAddr(c.t)
	conf.Admin.Token = "test"
	conf.TLS.Cert, conf.TLS.Key = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	writeCertificate(c.t, conf.TLS.Cert, conf.TLS.Key)
	conf.Delivery.DNSServers, conf.Delivery.LoopbackHops = []string{c.DNS.Addr}, true
	conf.Storage.MinFree, conf.Storage.MinFreePercent = 1, 0
	if c.o.Configure != nil {
		c.o.Configure(i, conf)
	}
	m.conf, m.SMTP, m.POP3, m.Admin = conf, mx.Listen, pop.Listen, "http://"+conf.Admin.Listen
	return m
}

func (m *Member) log() *zap.Logger {
	if m.c.o.Log != nil {
		return m.c.o.Log.Named(m.ID)
	}
	if m.c.o.Verbose || os.Getenv("RELAY_TEST_LOG") != "" {
		return zaptest.NewLogger(m.c.t).Named(m.ID)
	}
	return zap.NewNop()
}

func (m *Member) init() {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	require.NoError(m.c.t, cluster.Init(ctx, cluster.InitOptions{
		ID: m.ID, Name: "test", Dir: m.conf.Node.DataDir, Advertise: m.conf.Cluster.Advertise, Log: m.log(),
	}))
}

// join makes the node a member through another one.
func (m *Member) join(via *Member) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	var token string
	var err error
	poll(time.Minute, func() bool { // until there is a majority on a busy machine
		token, err = via.Node().Cluster().Token(ctx, 1, time.Hour, nil)
		return err == nil
	})
	require.NoError(m.c.t, err)
	require.NoError(m.c.t, cluster.Join(ctx, cluster.JoinOptions{
		ID: m.ID, Dir: m.conf.Node.DataDir, Advertise: m.conf.Cluster.Advertise, Token: token,
		Addr: via.conf.Cluster.Advertise, Log: m.log(),
	}))
}

// Start opens and runs the node. It returns before the node is ready.
func (m *Member) Start() {
	m.c.t.Helper()
	n, err := node.New(m.conf, node.Options{
		Log: m.log(), Version: "test", Tuning: m.c.o.Tuning, Grace: cmp.Or(m.c.o.Grace, 500*time.Millisecond),
		Notice: func() time.Duration { return m.c.o.Notice }, Dial: m.c.links.dial(m.ID), Wall: m.wall,
		Fatal: m.fatal, HashPassword: login.Argon{Time: 1, Memory: 8}.Hash,
	})
	require.NoError(m.c.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	m.mu.Lock()
	m.node, m.stop, m.done = n, cancel, done
	m.mu.Unlock()
	go func() {
		defer close(done)
		err := n.Run(ctx)
		m.mu.Lock()
		m.err = err
		m.mu.Unlock()
	}()
}

// fatal ends a node that cannot go on.
func (m *Member) fatal(err error) {
	if !m.goes.Load() {
		m.c.t.Errorf("%s can not go on: %v", m.ID, err)
	}
	go m.Kill()
}

// Skew makes the node's wall clock wrong by a difference, at once and over
// restarts.
func (m *Member) Skew(d time.Duration) { m.skew.Store(int64(d)) }

func (m *Member) wall() time.Time { return time.Now().Add(time.Duration(m.skew.Load())) }

// Node returns the running node, or nil.
func (m *Member) Node() *node.Node {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.node
}

// Stop ends the node in good order.
func (m *Member) Stop() { m.end(func(*node.Node) { m.stop() }) }

// Kill ends the node as kill -9 would.
func (m *Member) Kill() { m.end((*node.Node).Crash) }

func (m *Member) end(first func(*node.Node)) {
	m.mu.Lock()
	n, done := m.node, m.done
	m.node = nil
	m.mu.Unlock()
	if n == nil {
		return
	}
	first(n)
	<-done
}

// Wipe deletes the data of a node that is down, and makes it join again
// through another one under its old id. Start follows.
func (m *Member) Wipe(via *Member) {
	require.NoError(m.c.t, os.RemoveAll(m.conf.Node.DataDir))
	m.join(via)
}

// WaitReady returns once the node may take traffic.
func (m *Member) WaitReady() {
	m.c.t.Helper()
	var err error
	if !poll(time.Minute, func() bool {
		n := m.Node()
		if n == nil {
			return false
		}
		err = n.Ready()
		return err == nil
	}) {
		require.NoError(m.c.t, err, "%s is not ready", m.ID)
	}
}

// WaitHealthy returns once all nodes are up, caught up, and vote.
func (c *Cluster) WaitHealthy() {
	c.t.Helper()
	var last *admin.Status
	healthy := func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		s, err := c.Up()[0].Client().Status(ctx)
		if err == nil {
			last = s
		}
		return err == nil && s.Healthy && voters(s) == len(c.Nodes)
	}
	if !poll(time.Minute, healthy) {
		require.NotNil(c.t, last, "no node answers")
		require.Empty(c.t, last.Problems)
		require.Len(c.t, last.Nodes, len(c.Nodes))
	}
}

func voters(s *admin.Status) (n int) {
	for _, node := range s.Nodes {
		if node.Role == admin.RoleLeader || node.Role == admin.RoleFollower {
			n++
		}
	}
	return n
}

// poll asks every few milliseconds until done is true or d is over.
func poll(d time.Duration, done func() bool) bool {
	deadline := time.NewTimer(d)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-deadline.C:
			return done()
		}
	}
	return true
}

// Eventually fails the test unless done becomes true within d.
func (c *Cluster) Eventually(d time.Duration, what string, done func() bool) {
	c.t.Helper()
	require.True(c.t, poll(d, done), what)
}

// Up lists the nodes that run.
func (c *Cluster) Up() []*Member {
	var up []*Member
	for _, m := range c.Nodes {
		if m.Node() != nil {
			up = append(up, m)
		}
	}
	return up
}

// Leader waits for a leader that runs and returns it.
func (c *Cluster) Leader() *Member {
	c.t.Helper()
	var found *Member
	c.Eventually(time.Minute, "no leader", func() bool {
		for _, m := range c.Up() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			s, err := m.Node().Cluster().Status(ctx)
			cancel()
			if err == nil && s.Leader == m.ID {
				found = m
				return true
			}
		}
		return false
	})
	return found
}

// Client is the admin API of one node.
func (m *Member) Client() *admin.Client {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.api == nil {
		c, err := admin.NewClient(admin.ClientOptions{Addrs: []string{m.Admin}, Token: "test"})
		require.NoError(m.c.t, err)
		m.api = c
	}
	return m.api
}

// populate makes the domain, the users and the route of a fresh cluster. It returns when
// every node knows them.
func (c *Cluster) populate() {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	api := c.Nodes[0].Client()
	by := admin.By{Why: "test"}
	do := func(change func() error) { // until there is a majority on a busy machine; it may be there already
		var err error
		poll(time.Minute, func() bool { err = change(); return err == nil || errors.Is(err, admin.ErrConflict) })
		require.True(c.t, err == nil || errors.Is(err, admin.ErrConflict), "%v", err)
	}
	do(func() error { return api.AddDomain(ctx, by, admin.Domain{Name: "example.test"}) })
	for _, user := range []string{"alice", "bob"} {
		do(func() error {
			return api.AddUser(ctx, by, admin.UserAdd{Address: user + "@example.test", Password: "secret"})
		})
	}
	do(func() error { return api.SetRoute(ctx, by, admin.Route{Domain: "*", Target: "smtp:" + c.Sink.Addr}) })
	first := c.Nodes[0].Node().Cluster()
	require.True(c.t, poll(time.Minute, func() bool { // else the audit log gets a line later on
		var made *pb.Cluster
		err := first.View(func(v spool.View) (err error) { made, _, err = v.Cluster(); return err })
		return err == nil && (!first.At(2) || len(made.GetSecret()) > 0)
	}), "the cluster has no secret")
	for _, m := range c.Nodes {
		require.True(c.t, poll(time.Minute, func() bool { return m.Node().Cluster().Consistent(ctx) == nil }),
			"%s does not catch up", m.ID)
	}
}

// Verify compares the state of all nodes that run at one index. A node that
// has just come back may take a moment to be reached by the others.
func (c *Cluster) Verify() {
	c.t.Helper()
	var v *admin.Verification
	var err error
	poll(time.Minute, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
		defer cancel()
		v, err = c.Up()[0].Client().Verify(ctx, admin.VerifyOptions{Bodies: true})
		return err == nil && (v.OK || !unreached(v))
	})
	require.NoError(c.t, err)
	require.Empty(c.t, v.Findings)
	require.True(c.t, v.OK)
}

// unreached reports whether all that is wrong is that a node did not answer.
func unreached(v *admin.Verification) bool {
	for _, n := range v.Nodes {
		if n.Error != "" {
			return true
		}
	}
	return false
}

func (c *Cluster) stopAll() {
	var wg sync.WaitGroup
	for _, m := range c.Nodes {
		wg.Go(m.Kill)
	}
	wg.Wait()
}

// writeCertificate makes a self-signed certificate for loopback.
func writeCertificate(t testing.TB, certFile, keyFile string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		IPAddresses: []net.IP{netip.MustParseAddr("127.0.0.1").AsSlice()},
		NotBefore:   time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	require.NoError(t, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600))
}
