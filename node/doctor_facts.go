package node

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"relay/cluster"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
	"relay/node/config"
	"relay/node/directory"
	"relay/node/doctor"
	"relay/node/operator/records"
	"relay/queue/replyclass"
	"relay/smtp/printable"
)

// Bounds of what an examination reads.
const (
	queueLook    = 10_000 // entries of the queue
	accountsLook = 5_000  // for the metrics
)

func (e *examiner) clusterFacts(ctx context.Context, f *doctor.Facts) {
	n := e.n
	members, rotation, err := e.members(ctx)
	f.Members, f.Rotation = doctor.Of(members, err), doctor.Of(rotation, err)
	clock := n.cluster.Clock()
	f.Clock = doctor.Is(doctor.Clock{Agreement: clock.Agreement, Jumps: clock.Jumps, Up: time.Since(n.started)})
	f.Diverged = doctor.Is(n.cluster.Diverged())
	u, err := n.cluster.Upgrade()
	f.Upgrade = doctor.Of(doctor.Upgrade{Words: u.String(), Held: u.Held && u.Next > u.Version, Down: u.Missing}, err)
	var from string
	err = n.cluster.View(func(v spool.View) error {
		s, err := v.Settings()
		from = records.FromCheckWord(s.GetFromCheck())
		return err
	})
	f.FromCheck = doctor.Of(from, err)
}

// members are the nodes as this one sees them, and why a change of the CA does
// not go on.
func (e *examiner) members(ctx context.Context) (m doctor.Members, rotation string, err error) {
	seen, err := e.n.operator.Overview(ctx)
	if err != nil {
		return m, "", err
	}
	drained := map[string]int64{}
	err = e.n.cluster.View(func(v spool.View) error {
		all, err := v.Members()
		for _, one := range all {
			drained[one.Id] = one.DrainMs
		}
		return err
	})
	m = doctor.Members{Leader: seen.Raft.Leader, Voters: seen.Voters, UpVoters: seen.UpVoters}
	for i := range seen.Nodes {
		one := doctorMember(&seen.Raft.Members[i], &seen.Nodes[i])
		one.Full = seen.Full[one.ID]
		if at := drained[one.ID]; at != 0 {
			one.DrainedAt = time.UnixMilli(at)
		}
		m.Nodes = append(m.Nodes, one)
	}
	return m, strings.Join(seen.Held, "; "), err
}

func doctorMember(m *cluster.MemberStatus, n *admin.Node) doctor.Member {
	return doctor.Member{
		ID: n.ID, State: n.State, Live: m.Live, NotReady: m.Ready, Lag: m.Lag, Version: n.Version,
		DiskFree: n.DiskFree, DiskTotal: n.DiskTotal,
		Silent: seconds(n.SilentSeconds), Offset: seconds(n.ClockOffsetSeconds),
	}
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// machineFacts are of the disk and the process.
func (e *examiner) machineFacts(f *doctor.Facts, now sample) {
	s := e.n.storage
	free, total := s.free.Load(), s.total.Load()
	mark := max(s.minFree, total/100*s.percent)
	f.Disk = doctor.Is(doctor.Disk{Free: free, Total: total, Mark: mark, Full: s.full.Load()})
	if total == 0 {
		f.Disk = doctor.Not[doctor.Disk]("the free space could not be measured")
	}
	f.Filling = doctor.Is(doctor.Filling{})
	if then, ok := e.since(now, sampleKeep); ok {
		over := now.at.Sub(then.at)
		f.Filling = doctor.Is(doctor.Filling{Rate: (float64(now.used) - float64(then.used)) / over.Seconds(), Over: over})
	}
	then, ok := e.since(now, growthOver)
	if !ok || now.writes < then.writes+100 {
		then = sample{at: e.n.started}
	}
	syncs := doctor.Syncs{Count: now.writes - min(now.writes, then.writes), Over: now.at.Sub(then.at)}
	if syncs.Count > 0 {
		syncs.Mean = (now.writeTime - then.writeTime) / time.Duration(syncs.Count)
	}
	f.Syncs = doctor.Is(syncs)
	var limit syscall.Rlimit
	err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit)
	f.OpenFiles = doctor.Of(limit.Cur, err)
	f.TimeZone = doctor.Is(badZone(os.Getenv("TZ")))
}

// badZone says why a value of TZ names no zone; empty: it does.
func badZone(tz string) string {
	name := strings.TrimPrefix(tz, ":")
	if name == "" || strings.HasPrefix(name, "/") {
		return ""
	}
	if _, err := time.LoadLocation(name); err != nil {
		return fmt.Sprintf("TZ is %q: %v", printable.Text(tz, 64), err)
	}
	return ""
}

// mailFacts are of the replica.
func (e *examiner) mailFacts(f *doctor.Facts, now sample, all bool) {
	growth := doctor.Growth{Before: now.recipients, Now: now.recipients}
	if then, ok := e.since(now, growthOver); ok {
		growth.Before, growth.Over = then.recipients, now.at.Sub(then.at)
	}
	f.Growth = doctor.Is(growth)
	f.Replies = doctor.Is(e.replies(now))
	logins := []doctor.Login{}
	for _, r := range e.n.outbound.RefusedLogins() {
		logins = append(logins, doctor.Login{Route: r.Route, User: r.User, Host: r.Host, Reply: r.Reply,
			At: f.Now.Add(-time.Since(r.At))})
	}
	f.Logins = doctor.Is(logins)
	err := e.n.cluster.View(func(v spool.View) error {
		history, err := e.history(v, now)
		f.History = doctor.Of(history, err)
		q, err := queueFacts(v)
		f.Queue = doctor.Of(q, err)
		locks, err := lockFacts(v)
		f.Locks = doctor.Of(locks, err)
		f.Mailboxes = nearQuota(v, all)
		lacking, err := noPostmaster(v)
		f.Postmasters = doctor.Of(lacking, err)
		return nil
	})
	if err != nil { // each of the facts says so as well
		f.Queue = doctor.Not[doctor.Queue](err.Error())
	}
}

// replies are the failures within the last hour that the relay itself, or its mail, is the cause of.
func (e *examiner) replies(now sample) doctor.Replies {
	then, ok := e.since(now, growthOver)
	if !ok {
		then = sample{at: e.n.started}
	}
	r := doctor.Replies{Over: now.at.Sub(then.at)}
	for _, class := range []replyclass.Class{replyclass.Blocklist, replyclass.Auth} {
		r.Classes = append(r.Classes, doctor.ReplyClass{
			Name: class.String(), Count: now.failures[class] - then.failures[class], Advice: class.Advice(),
		})
	}
	return r
}

func (e *examiner) history(v spool.View, now sample) (doctor.History, error) {
	l, err := v.HistoryLength()
	h := doctor.History{Bytes: now.history, Bound: l.Bound, Keep: l.Keep, Span: l.Span}
	if then, ok := e.since(now, sampleKeep); ok {
		h.Over = now.at.Sub(then.at)
		h.Rate = max(0, float64(now.history)-float64(then.history)) / h.Over.Seconds()
	}
	return h, err
}

// queueFacts reads the counters, and the oldest entries of the queue.
func queueFacts(v spool.View) (q doctor.Queue, err error) {
	owned, err := v.OwnedCounts()
	if err != nil {
		return q, err
	}
	q.Unowned = uint64(max(owned[0], 0))
	counts, err := v.Destinations()
	if err != nil {
		return q, err
	}
	waiting := map[string]*doctor.Destination{}
	for _, d := range counts {
		q.Recipients += uint64(max(d.Count, 0))
		switch d.State {
		case pb.State_HELD, pb.State_SUSPENDED:
			q.Held += uint64(max(d.Count, 0))
		default:
			if waiting[d.Domain] == nil {
				waiting[d.Domain] = &doctor.Destination{Domain: d.Domain}
			}
			waiting[d.Domain].Waiting += uint64(max(d.Count, 0))
		}
	}
	if q.Recipients == 0 {
		return q, nil
	}
	refused, err := readQueue(v, &q, waiting)
	for domain, n := range refused {
		if d := waiting[domain]; n == d.Waiting {
			q.Refusing = append(q.Refusing, *d)
		}
	}
	slices.SortFunc(q.Refusing, func(a, b doctor.Destination) int {
		return cmp.Or(cmp.Compare(b.Waiting, a.Waiting), cmp.Compare(a.Domain, b.Domain))
	})
	return q, err
}

// readQueue looks at the oldest entries, and counts those of each destination that
// were put off.
func readQueue(v spool.View, q *doctor.Queue, waiting map[string]*doctor.Destination) (map[string]uint64, error) {
	refused := map[string]uint64{}
	read := 0
	err := v.Queue(spool.ID{}, func(id spool.ID, _ uint32, r *pb.Recipient) bool {
		if read++; read > queueLook {
			q.Partial = true
			return false
		}
		at := time.UnixMilli(int64(id.Time()))
		if r.State == pb.State_HELD || r.State == pb.State_SUSPENDED {
			if q.OldestHeld.IsZero() {
				q.OldestHeld, q.HeldID = at, id.String()
			}
			return true
		}
		if q.Oldest.IsZero() {
			q.Oldest, q.OldestID = at, id.String()
		}
		domain := spool.DomainOf(r.Address)
		d := waiting[domain]
		if d == nil || r.State != pb.State_DEFERRED || r.Attempts == 0 {
			return true
		}
		if refused[domain]++; d.Oldest.IsZero() {
			d.Oldest = at
		}
		d.Attempts = max(d.Attempts, r.Attempts)
		if r.LastReply != "" {
			d.LastReply = printable.Text(r.LastReply, 200)
		}
		return true
	})
	return refused, err
}

func lockFacts(v spool.View) (all []doctor.Lock, err error) {
	locks, err := v.Locks()
	for user, l := range locks {
		for _, one := range append([]*pb.Lock{l}, l.Others...) {
			all = append(all, doctor.Lock{
				User: user, Node: one.Node, Remote: printable.Text(one.Remote, 64), Since: time.UnixMilli(one.SinceMs),
			})
		}
	}
	slices.SortFunc(all, func(a, b doctor.Lock) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.User, b.User))
	})
	return all, err
}

// nearQuota lists the mailboxes over nine tenths of a quota. Without all it gives
// up where there are many accounts.
func nearQuota(v spool.View, all bool) doctor.Fact[[]doctor.Mailbox] {
	var near []doctor.Mailbox
	var bad error
	accounts, many := 0, false
	err := v.EachAccount(func(a *pb.Account) bool {
		if accounts++; !all && accounts > accountsLook {
			many = true
			return false
		}
		if a.QuotaBytes == 0 && a.QuotaMessages == 0 {
			return true
		}
		box, _, err := v.Mailbox(a.Address)
		if bad = err; err != nil {
			return false
		}
		m := doctor.Mailbox{
			User: a.Address, Bytes: box.GetBytes(), Quota: a.QuotaBytes, Messages: box.GetMessages(), Limit: a.QuotaMessages,
		}
		if m.Quota > 0 && m.Bytes >= m.Quota/10*9 || m.Limit > 0 && m.Messages*10 >= m.Limit*9 {
			near = append(near, m)
		}
		return true
	})
	switch {
	case err != nil || bad != nil:
		return doctor.Not[[]doctor.Mailbox]("the accounts could not be read")
	case many:
		return doctor.Not[[]doctor.Mailbox]("there are too many accounts to look at each, each minute")
	}
	return doctor.Is(near)
}

// noPostmaster lists the local domains whose postmaster nobody is.
func noPostmaster(v spool.View) (all []string, err error) {
	domains, err := v.Domains()
	for _, d := range domains {
		if targets, _, err := directory.Resolve(v, "postmaster@"+d.Name); err != nil || len(targets) == 0 {
			all = append(all, d.Name)
		}
	}
	return all, err
}

// accessFacts are of the configuration.
func (e *examiner) accessFacts(f *doctor.Facts) {
	c := e.n.conf
	a := doctor.Access{
		Admin: e.n.Addr("admin").String(), AdminTLS: c.Admin.TLS != config.TLSNone, AdminToken: *e.n.token.Load() != "",
		Anonymous: e.n.anonymous(), AuthservID: c.Verify.AuthservID,
	}
	a.AdminLocal = local127(a.Admin)
	for _, n := range c.Relay.TrustedNetworks {
		if config.Everybody(n) {
			a.Everybody = append(a.Everybody, n)
		}
	}
	for i, l := range c.SMTP {
		addListener(&a, l.Listen, l.TLS, len(l.ProxyProtocol) > 0 || l.Role == config.RoleMX)
		for key, nets := range map[string][]netip.Prefix{"proxy_protocol": l.ProxyProtocol, "xclient": l.XClient} {
			for _, n := range nets {
				if config.Everybody(n) {
					a.AnyProxy = append(a.AnyProxy, fmt.Sprintf("[[smtp]] number %d (%s): %s names %s", i+1, l.Listen, key, n))
				}
			}
		}
	}
	for _, l := range c.POP3 {
		addListener(&a, l.Listen, l.TLS, len(l.ProxyProtocol) > 0)
	}
	err := e.n.cluster.View(func(v spool.View) error {
		domains, err := v.Domains()
		for _, d := range domains {
			a.LocalDomains = append(a.LocalDomains, d.Name)
		}
		if err != nil {
			return err
		}
		members, err := v.Members()
		for _, m := range members {
			a.NodeHostnames = append(a.NodeHostnames, m.Hostname)
		}
		return err
	})
	f.Access = doctor.Of(a, err)
}

// addListener sorts a listener. One behind a proxy may leave TLS to that.
func addListener(a *doctor.Access, addr string, mode config.TLSMode, proxied bool) {
	switch {
	case local127(addr):
	case mode != config.TLSNone:
		a.Public = append(a.Public, addr)
	case !proxied:
		a.PlainLogins = append(a.PlainLogins, addr)
	}
}

// local127 reports whether only this machine reaches an address.
func local127(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil || host == "localhost" {
		return host == "localhost"
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// certificates are all that this node shows, and the cluster's CA.
func (e *examiner) certificates() doctor.Fact[[]doctor.Certificate] {
	n := e.n
	all := []doctor.Certificate{{Kind: doctor.OfNode, Name: "node " + n.conf.Node.ID, Ends: n.cluster.CertificateEnds()}}
	for _, c := range n.certs.InUse() {
		all = append(all, doctor.Certificate{Kind: doctor.OfFile, Name: c.Name, Ends: c.Leaf.NotAfter,
			SelfMade: bytes.Equal(c.Leaf.RawIssuer, c.Leaf.RawSubject)})
	}
	for _, c := range n.acme.InUse() {
		all = append(all, doctor.Certificate{Kind: doctor.OfACME, Name: c.Name, Ends: c.Leaf.NotAfter})
	}
	err := n.cluster.View(func(v spool.View) error {
		record, _, err := v.Cluster()
		block, _ := pem.Decode(record.GetCaCert())
		if err != nil || block == nil {
			return err
		}
		ca, err := x509.ParseCertificate(block.Bytes)
		if err == nil {
			all = append(all, doctor.Certificate{Kind: doctor.OfCA, Name: "CA of " + record.Name, Ends: ca.NotAfter})
		}
		return err
	})
	return doctor.Of(all, err)
}
