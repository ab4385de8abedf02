package doctor

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var (
	now   = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	outer = netip.MustParseAddr("198.51.100.7")
)

// well are the facts of a relay where nothing is wrong.
func well() *Facts {
	node := func(id string) Member {
		return Member{ID: id, State: Alive, Live: true, Version: "1.0", Lag: 3, Offset: time.Second,
			DiskFree: 40 << 30, DiskTotal: 100 << 30}
	}
	return &Facts{
		Node: "n1", Hostname: "mx1.relay.net", Now: now,
		Members:  Is(Members{Leader: "n1", Voters: 3, UpVoters: 3, Nodes: []Member{node("n1"), node("n2"), node("n3")}}),
		Clock:    Is(Clock{Agreement: true, Up: time.Hour}),
		Diverged: Is(""), Upgrade: Is(Upgrade{}), Rotation: Is(""), FromCheck: Is("refuse"),
		Disk:    Is(Disk{Free: 40 << 30, Total: 100 << 30, Mark: 3 << 30}),
		Syncs:   Is(Syncs{Count: 1000, Mean: 2 * time.Millisecond, Over: time.Hour}),
		Filling: Is(Filling{Rate: 100, Over: 2 * time.Hour}), OpenFiles: Is[uint64](65536), TimeZone: Is(""),
		History: Is(History{Bytes: 1 << 20, Bound: 1 << 30, Keep: 3 * day, Rate: 100, Over: 2 * time.Hour}),
		Queue: Is(Queue{Recipients: 2, Oldest: now.Add(-time.Hour), OldestID: "01A", Held: 1, OldestHeld: now.Add(-day),
			Refusing: []Destination{{Domain: "new.net", Waiting: 1, Attempts: 1, Oldest: now.Add(-time.Minute)}}}),
		Growth:    Is(Growth{Before: 5000, Now: 5100, Over: time.Hour}),
		Replies:   Is(Replies{Over: time.Hour, Classes: []ReplyClass{{"blocklist", 9, "x"}, {"auth", 0, "y"}}}),
		Locks:     Is([]Lock{{User: "a@relay.net", Since: now.Add(-time.Minute)}}),
		Mailboxes: Is([]Mailbox(nil)), Logins: Is([]Login(nil)), Postmasters: Is([]string(nil)),
		Outward: Is([]Reach{{Host: "mx.far.net"}, {Host: "mx.off.net", Error: "refused"}}),
		Certificates: Is([]Certificate{
			{OfNode, "node n1", now.Add(80 * day), false}, {OfCA, "CA", now.Add(3000 * day), false},
			{OfFile, "tls.crt", now.Add(60 * day), false}, {OfACME, "mx1.relay.net", now.Add(60 * day), false},
		}),
		Access: Is(Access{Admin: "127.0.0.1:7180", AdminLocal: true, AdminToken: true, Public: []string{"0.0.0.0:25"},
			AuthservID:   "relay.net",
			LocalDomains: []string{"relay.net"}}),
		DNS:   Is(DNS{Validates: true, ByMX: true}),
		Names: Is(Names{Is([]netip.Addr{outer}), []Reverse{{outer, Is([]string{"mx1.relay.net"})}}}),
		Domains: Is([]Domain{{
			Name: "relay.net", MX: Is([]MX{{"mx1.relay.net", true}}), SPF: Is(SPF{Record: "v=spf1 mx -all", Passed: 1}),
			DKIM: Is([]Key{{Name: "s._domainkey.relay.net", Published: true}}), DMARC: Is("v=DMARC1; p=none"),
		}}),
	}
}

// set changes the value of a fact.
func set[T any](f *Fact[T], change func(*T)) {
	change(&f.value)
}

// ill is one way in which each condition fires.
func ill() map[string][]struct {
	severity Severity
	change   func(f *Facts)
	says     string // part of summary, evidence or next
} {
	type cases = []struct {
		severity Severity
		change   func(f *Facts)
		says     string
	}
	node := func(change func(n *Member)) func(f *Facts) {
		return func(f *Facts) { set(&f.Members, func(m *Members) { change(&m.Nodes[1]) }) }
	}
	domain := func(change func(d *Domain)) func(f *Facts) {
		return func(f *Facts) { set(&f.Domains, func(all *[]Domain) { change(&(*all)[0]) }) }
	}
	ends := func(i int, in time.Duration) func(f *Facts) {
		return func(f *Facts) { set(&f.Certificates, func(all *[]Certificate) { (*all)[i].Ends = now.Add(in) }) }
	}
	access := func(change func(a *Access)) func(f *Facts) {
		return func(f *Facts) { set(&f.Access, change) }
	}
	queue := func(change func(q *Queue)) func(f *Facts) { return func(f *Facts) { set(&f.Queue, change) } }
	return map[string]cases{
		"quorum": {
			{Error, func(f *Facts) { set(&f.Members, func(m *Members) { m.Leader = "" }) }, "no node leads"},
			{Error, func(f *Facts) {
				set(&f.Members, func(m *Members) { m.UpVoters = 1; m.Nodes[2].State = Dead })
			}, "1 of 3 voting nodes answers, and 2 are needed"},
		},
		"redundancy": {
			{Warning, func(f *Facts) { set(&f.Members, func(m *Members) { m.UpVoters = 2 }) },
				"start the nodes that are down"},
			{Warning, func(f *Facts) { set(&f.Members, func(m *Members) { m.Voters, m.UpVoters = 1, 1 }) },
				"relayctl node token"},
			{Warning, func(f *Facts) { set(&f.Members, func(m *Members) { m.Voters, m.UpVoters = 2, 2 }) },
				"relayctl node token"},
		},
		"node-silent": {
			{Warning, node(func(n *Member) { n.State, n.Silent = Silent, 2*time.Second }), "node n2 has not answered for 2s"},
		},
		"node-dead": {
			{Error, node(func(n *Member) { n.State, n.Silent = Dead, time.Hour }), "relayctl node rm n2 --dry-run"},
		},
		"node-unready": {
			{Warning, node(func(n *Member) { n.NotReady = "it is starting" }), "it is starting"},
			{Warning, node(func(n *Member) { n.Live = false }), "no session"},
		},
		"node-lagging": {
			{Warning, node(func(n *Member) { n.Lag = 5000 }), "5000 entries"},
			{Unknown, node(func(n *Member) { n.Silent = time.Second }), "does not answer"},
		},
		"node-clock": {{Warning, node(func(n *Member) { n.Offset = -time.Minute }), "1m behind"}},
		"time-agreement": {
			{Warning, func(f *Facts) { set(&f.Clock, func(c *Clock) { c.Agreement = false }) }, "majority"},
			{Unknown, func(f *Facts) { f.Clock = Is(Clock{Up: time.Second}) }, "has run for 1s"},
		},
		"divergence": {{Error, func(f *Facts) { f.Diverged = Is("at index 7") }, "join it anew"}},
		"node-drained": {
			{Warning, node(func(n *Member) { n.State, n.DrainedAt = Drained, now.Add(-2*time.Hour) }),
				"relayctl node undrain n2"},
		},
		"version-mix": {{Warning, node(func(n *Member) { n.Version = "1.1" }), "1.1: n2"}},
		"upgrade-held": {
			{Warning, func(f *Facts) { f.Upgrade = Is(Upgrade{Words: "held by olga", Held: true}) },
				"cluster upgrade --release"},
			{Warning, func(f *Facts) { f.Upgrade = Is(Upgrade{Words: "not raised", Down: []string{"n3"}}) }, "start n3"},
		},
		"ca-rotation": {{Warning, func(f *Facts) { f.Rotation = Is("it waits for n3") }, "waits for n3"}},
		"disk-room": {
			{Error, func(f *Facts) { set(&f.Disk, func(d *Disk) { d.Full = true }) }, "n1 refuses new mail"},
			{Warning, func(f *Facts) { set(&f.Disk, func(d *Disk) { d.Free = 5 << 30 }) }, "(5%)"},
			{Error, node(func(n *Member) { n.Full = true }), "n2 refuses"},
			{Warning, node(func(n *Member) { n.DiskFree = 1 << 30 }), "(1%)"},
			{Unknown, node(func(n *Member) { n.DiskTotal = 0 }), "n2 has not said"},
		},
		"disk-sync": {
			{Warning, func(f *Facts) { set(&f.Syncs, func(s *Syncs) { s.Mean = 60 * time.Millisecond }) }, "60ms"},
			{Error, func(f *Facts) { set(&f.Syncs, func(s *Syncs) { s.Mean = time.Second }) }, "1s"},
			{Unknown, func(f *Facts) { set(&f.Syncs, func(s *Syncs) { s.Count = 3 }) }, "3 writes"},
		},
		"disk-fills": {
			{Warning, func(f *Facts) {
				set(&f.Filling, func(r *Filling) { r.Rate = 37 * float64(1<<30) / (10 * day).Seconds() })
			}, "in 10d"},
			{Error, func(f *Facts) { set(&f.Filling, func(r *Filling) { r.Rate = 1 << 20 }) }, "in 10h"},
			{Unknown, func(f *Facts) { set(&f.Filling, func(r *Filling) { r.Over = time.Minute }) }, "measured for 1m"},
		},
		"history-bound": {
			{Warning, func(f *Facts) { set(&f.History, func(h *History) { h.Bytes, h.Span = 1<<30, 14*time.Minute }) },
				"1.0 GB of 1.0 GB are used: it lasts 14m, not"},
			{Warning, func(f *Facts) { set(&f.History, func(h *History) { h.Rate = 1 << 20 }) }, "it lasts 17m"},
			{Unknown, func(f *Facts) { set(&f.History, func(h *History) { h.Bytes, h.Over = 600<<20, time.Minute }) },
				"measured for"},
		},
		"certificate-node": {
			{Warning, ends(0, 20*day), "20d"},
			{Error, ends(0, day), "24h0m"},
			{Error, ends(0, -day), "ended"},
		},
		"certificate-ca":   {{Warning, ends(1, 50*day), "rotate-ca"}, {Error, ends(1, 10*day), "10d"}},
		"certificate-tls":  {{Warning, ends(2, 10*day), "tls.crt"}, {Error, ends(2, -time.Minute), "ended 1m ago"}},
		"certificate-acme": {{Warning, ends(3, 6*day), "mx1.relay.net"}, {Error, ends(3, day), "leader's log"}},
		"certificate-self-made": {
			{Warning, func(f *Facts) { set(&f.Certificates, func(all *[]Certificate) { (*all)[2].SelfMade = true }) },
				"0.0.0.0:25"},
		},
		"queue-old": {
			{Warning, queue(func(q *Queue) { q.Oldest = now.Add(-30 * time.Hour) }), "relayctl queue show 01A"},
		},
		"queue-grows": {
			{Warning, func(f *Facts) { f.Growth = Is(Growth{Before: 100, Now: 2000, Over: time.Hour}) },
				"2000 recipients now, 100 were there 1h0m ago"},
			{Unknown, func(f *Facts) { f.Growth = Is(Growth{Before: 2000, Now: 2000}) }, "0s ago"},
		},
		"queue-unowned": {{Warning, queue(func(q *Queue) { q.Unowned = 7 }), "7 recipients"}},
		"queue-held": {
			{Warning, queue(func(q *Queue) { q.OldestHeld, q.HeldID = now.Add(-4*day), "01H" }), "relayctl queue show 01H"},
			{Unknown, queue(func(q *Queue) { q.OldestHeld = time.Time{} }), "too long"},
		},
		"destination-refuses": {
			{Warning, queue(func(q *Queue) {
				q.Refusing = []Destination{{"far.net", 4, 9, now.Add(-5 * time.Hour), "421 busy"}}
			}), "far.net: 4 recipients for 5h0m, 9 attempts: 421 busy"},
			{Unknown, queue(func(q *Queue) { q.Partial = true }), "too long"},
		},
		"delivery-replies": {{Warning, func(f *Facts) {
			f.Replies = Is(Replies{Over: time.Hour, Classes: []ReplyClass{{"blocklist", 10, "ask for removal"}}})
		}, "10 failed attempts of class blocklist within 1h0m: ask for removal"}},
		"route-login": {{Error, func(f *Facts) {
			f.Logins = Is([]Login{{Route: "*", User: "u", Host: "hop.net", Reply: "535 no", At: now.Add(-time.Minute)}})
		}, "route *: hop.net refused u 1m ago: 535 no"}},
		"mailbox-lock": {{Warning, func(f *Facts) {
			f.Locks = Is([]Lock{{User: "a@relay.net", Node: "n2", Remote: "192.0.2.1:4", Since: now.Add(-2 * time.Hour)}})
		}, "relayctl mailbox unlock a@relay.net"}},
		"mailbox-quota": {
			{Warning, func(f *Facts) { f.Mailboxes = Is([]Mailbox{{User: "a@relay.net", Bytes: 95, Quota: 100}}) },
				"nearly full: 95 B of 100 B"},
			{Warning, func(f *Facts) { f.Mailboxes = Is([]Mailbox{{User: "a@relay.net", Messages: 9, Limit: 9}}) },
				"9 of 9 messages"},
		},
		"postmaster": {
			{Warning, func(f *Facts) { f.Postmasters = Is([]string{"relay.net"}) }, "relayctl alias set postmaster@relay.net"},
		},
		"outward": {{Warning, func(f *Facts) { f.Outward = Is([]Reach{{"mx.far.net", "timed out"}}) }, "timed out"}},
		"open-relay": {
			{Error, access(func(a *Access) { a.Everybody = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")} }), "0.0.0.0/0"},
		},
		"proxy-anyone": {
			{Error, access(func(a *Access) { a.AnyProxy = []string{"[[smtp]] number 1"} }), "number 1"},
		},
		"admin-open": {
			{Error, access(func(a *Access) { a.AdminLocal = false }), "in clear"},
			{Error, access(func(a *Access) { a.AdminLocal, a.AdminToken, a.AdminTLS = false, false, true }), "no token"},
		},
		"admin-anonymous": {
			{Warning, access(func(a *Access) { a.Anonymous = true }), "anonymous_loopback"},
			{Warning, access(func(a *Access) { a.Anonymous, a.AdminToken = true, false }), "openssl rand"},
		},
		"plain-logins": {{Warning, access(func(a *Access) { a.PlainLogins = []string{"0.0.0.0:110"} }), "0.0.0.0:110"}},
		"from-check":   {{Warning, func(f *Facts) { f.FromCheck = Is("off") }, "--from-check refuse"}},
		"authserv-id":  {{Warning, access(func(a *Access) { a.AuthservID = "mail.other.org" }), "mail.other.org"}},
		"open-files": {
			{Warning, func(f *Facts) { f.OpenFiles = Is[uint64](2048) }, "2048"},
			{Error, func(f *Facts) { f.OpenFiles = Is[uint64](256) }, "256"},
		},
		"hostname": {
			{Warning, func(f *Facts) { f.Hostname = "localhost" }, "localhost"},
			{Warning, func(f *Facts) { f.Hostname = "mx1" }, "without a domain"},
			{Warning, func(f *Facts) { f.Hostname = "mx1.lan" }, "means nothing outside"},
		},
		"time-zone": {{Warning, func(f *Facts) { f.TimeZone = Is("TZ is Mars") }, "Mars"}},
		"dns": {
			{Error, func(f *Facts) { f.DNS = Is(DNS{Failure: "timed out", ByMX: true}) }, "timed out"},
			{Warning, func(f *Facts) { f.DNS = Is(DNS{Failure: "timed out"}) }, "routes"},
		},
		"dns-validates": {
			{Unknown, func(f *Facts) { f.DNS = Is(DNS{Failure: "timed out"}) }, "does not answer"},
			{Warning, func(f *Facts) { f.DNS = Is(DNS{Validates: true, DANE: []string{"a", "b", "c", "d", "e"}}) },
				"the mail of c waits"},
			{Warning, func(f *Facts) { f.DNS = Is(DNS{Believed: true, DANE: []string{"a.example"}}) },
				"the mail of a.example waits"},
		},
		"hostname-resolves": {
			{Warning, func(f *Facts) { f.Names = Is(Names{Addresses: Is([]netip.Addr(nil))}) }, "no address"},
			{Unknown, func(f *Facts) { f.Hostname, f.Names = "mx.relay.test", Is(Names{Addresses: Is([]netip.Addr(nil))}) },
				"RFC 6761"},
			{Unknown, func(f *Facts) { f.Names = Is(Names{Addresses: Not[[]netip.Addr]("timed out")}) }, "timed out"},
		},
		"reverse-name": {
			{Warning, func(f *Facts) { set(&f.Names, func(n *Names) { n.Reverse[0].Names = Is([]string{"a.isp.net"}) }) },
				"is a.isp.net, and not mx1.relay.net"},
			{Warning, func(f *Facts) { set(&f.Names, func(n *Names) { n.Reverse[0].Names = Is([]string(nil)) }) },
				"no reverse name"},
		},
		"domain-mx": {
			{Warning, domain(func(d *Domain) { d.MX = Is([]MX(nil)) }), "has no MX"},
			{Warning, domain(func(d *Domain) { d.MX = Is([]MX{{"mx.other.org", false}}) }), "mx.other.org"},
			{Unknown, domain(func(d *Domain) { d.MX = Not[[]MX]("timed out") }), "timed out"},
			{Unknown, func(f *Facts) { f.More = 7 }, "7 local domains more"},
		},
		"domain-spf": {
			{Warning, domain(func(d *Domain) { d.SPF = Is(SPF{}) }), "no SPF record"},
			{Warning, domain(func(d *Domain) {
				d.SPF = Is(SPF{Record: "v=spf1 -all", Refused: map[string]string{"198.51.100.7": "fail"}})
			}), "fail for 198.51.100.7"},
			{Unknown, domain(func(d *Domain) { d.SPF = Is(SPF{Record: "v=spf1 -all"}) }), "no address of the nodes"},
		},
		"domain-dkim": {
			{Warning, domain(func(d *Domain) { d.DKIM = Is([]Key(nil)) }), "relayctl dkim add relay.net"},
			{Warning, domain(func(d *Domain) { d.DKIM = Is([]Key{{Name: "s._domainkey.relay.net"}}) }), "is not there"},
			{Error, domain(func(d *Domain) { d.DKIM = Is([]Key{{Name: "s._domainkey.relay.net", Other: true}}) }),
				"another key"},
		},
		"dkim-waiting": {{Warning, domain(func(d *Domain) {
			d.DKIM = Is([]Key{{Name: "s._domainkey.relay.net", Published: true},
				{Name: "t._domainkey.relay.net", Waiting: true, Retired: true}})
		}), "t._domainkey.relay.net"}},
		"domain-dmarc": {{Warning, domain(func(d *Domain) { d.DMARC = Is("") }), "has none"}},
	}
}

// Each condition fires where something is wrong and nowhere else, says what and
// what to do, and leaves the others alone that have nothing to do with it.
func TestConditions(t *testing.T) {
	for _, one := range Judge(well()) {
		require.Equal(t, OK, one.Severity, "%v", one)
		require.Empty(t, one.Next)
		require.NotEmpty(t, one.Summary)
	}
	cases := ill()
	var names []string
	for _, c := range conditions() {
		names = append(names, c.name)
		for _, one := range cases[c.name] {
			f := well()
			one.change(f)
			found := c.find(f)
			text := strings.Join(append(found.Evidence, found.Summary, found.Next), "\n")
			require.Equal(t, one.severity, found.Severity, "%s: %s", c.name, text)
			require.Contains(t, text, one.says, c.name)
			require.Equal(t, found.Severity.Wrong(), found.Next != "", "%s: %s", c.name, text)
		}
	}
	require.ElementsMatch(t, names, slices.Collect(maps.Keys(cases)))
	require.GreaterOrEqual(t, len(names), 30)
}

// A missing fact is never taken for well.
func TestNothingIsKnown(t *testing.T) {
	for _, one := range Judge(&Facts{Hostname: "mx1.relay.net", Now: now}) {
		if one.Condition != "hostname" {
			require.Equal(t, Unknown, one.Severity, one.Condition)
			require.NotEmpty(t, one.Evidence, one.Condition)
		}
	}
}

// A name that is kept for tests is judged where DNS has it.
func TestInventedNames(t *testing.T) {
	f := well()
	f.Domains = Is([]Domain{{
		Name: "relay.test", MX: Is([]MX{{"mx.other.org", false}}), SPF: Is(SPF{}), DKIM: Is([]Key(nil)), DMARC: Is(""),
	}})
	by := map[string]Severity{}
	for _, one := range Judge(f) {
		by[one.Condition] = one.Severity
	}
	require.Equal(t, Warning, by["domain-mx"])
	require.Equal(t, Unknown, by["domain-spf"])
	require.Equal(t, Unknown, by["domain-dmarc"])
}

func TestWords(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KB", 1536: "1.5 KB", 40 << 30: "40 GB", 1 << 50: "1024 TB",
	} {
		require.Equal(t, want, octets(n))
	}
	for d, want := range map[time.Duration]string{
		0: "0s", 60 * time.Millisecond: "60ms", 90 * time.Second: "1m",
		26 * time.Hour: "26h0m", 80 * time.Hour: "3d",
	} {
		require.Equal(t, want, span(d))
	}
	require.Equal(t, "1 node", counted(1, "node"))
	require.Equal(t, "a, b", list([]string{"a", "b"}))
	require.Contains(t, list(slices.Repeat([]string{"a"}, 12)), "and 2 more")
}
