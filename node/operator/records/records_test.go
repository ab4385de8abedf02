package records

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
	"relay/node/operator/edit"
	"relay/node/replica"
	"relay/node/replica/replicatest"
	"relay/queue/remote"
)

// world is the records of a node, with the local domain example.test and the user alice.
type world struct {
	*Records
	t   *testing.T
	rep *replicatest.Fake
}

var theBy = admin.By{Who: "olga", Why: "a test"}

func newWorld(t *testing.T) *world {
	rep := replicatest.New(t)
	hash := func(p string) (string, error) { return "$argon2id$hash-of-" + p, nil }
	now := func() time.Time { return rep.Clock }
	w := &world{Records: New(edit.New("n1", rep, zap.NewNop()), rep, now, hash), t: t, rep: rep}
	w.do(spool.KindPutDomain, &pb.PutDomain{Domain: &pb.Domain{Name: "example.test"}, Create: true})
	w.do(spool.KindPutAccount, &pb.PutAccount{
		Account: &pb.Account{Address: "alice@example.test", Password: "$argon2id$x"}, Create: true,
	})
	return w
}

// do applies a command that must succeed.
func (w *world) do(kind spool.Kind, h proto.Message, body ...[]byte) *pb.Result {
	w.t.Helper()
	res, err := replica.Propose(context.Background(), w.rep, kind, h, body...)
	require.NoError(w.t, err)
	require.Equal(w.t, pb.Code_OK, res.Code, res.Text)
	return res
}

// pass moves the clock.
func (w *world) pass(d time.Duration) { w.rep.Clock = w.rep.Clock.Add(d) }

func TestDomains(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	require.NoError(t, w.AddDomain(ctx, theBy, admin.Domain{Name: "Other.Test.", CatchAll: "Alice"}))
	all, err := w.Domains(ctx)
	require.NoError(t, err)
	require.Len(t, all, 2)
	require.Equal(t, admin.Domain{Name: "example.test", AuthPolicy: "tag", Created: admin.At(replicatest.Start),
		Users: 1}, all[0])
	require.Equal(t, admin.Domain{
		Name: "other.test", CatchAll: "alice@other.test", AuthPolicy: "tag", Created: admin.At(replicatest.Start),
	}, all[1])
	none, refuse, odd := "", "refuse", "never"
	require.NoError(t, w.SetDomain(ctx, theBy, "OTHER.test", admin.DomainSet{AuthPolicy: &refuse}))
	all, err = w.Domains(ctx)
	require.NoError(t, err)
	require.Equal(t, [2]string{"alice@other.test", "refuse"}, [2]string{all[1].CatchAll, all[1].AuthPolicy},
		"what is not named stays")
	require.NoError(t, w.SetDomain(ctx, theBy, "other.test", admin.DomainSet{CatchAll: &none}))
	all, err = w.Domains(ctx)
	require.NoError(t, err)
	require.Equal(t, [2]string{"", "refuse"}, [2]string{all[1].CatchAll, all[1].AuthPolicy})
	require.ErrorIs(t, w.SetDomain(ctx, theBy, "other.test", admin.DomainSet{AuthPolicy: &odd}), admin.ErrInvalid)
	stale := &pb.PutDomain{Domain: &pb.Domain{Name: "other.test"}, Update: true, ExpectChanged: 1}
	res, err := replica.Propose(ctx, w.rep, spool.KindPutDomain, stale)
	require.NoError(t, err)
	require.Equal(t, pb.Code_STALE, res.Code, "two operators at two nodes")
	require.ErrorIs(t, w.AddDomain(ctx, theBy, admin.Domain{Name: "other.test"}), admin.ErrConflict)
	for _, bad := range []string{"", "a b", "x@y", "-.", "[192.0.2.1]", "a..b"} {
		require.ErrorIs(t, w.AddDomain(ctx, theBy, admin.Domain{Name: bad}), admin.ErrInvalid, bad)
	}

	greylisting := func(seconds int64) *int64 {
		require.NoError(t, w.SetDomain(ctx, theBy, "example.test", admin.DomainSet{Greylist: &seconds}))
		all, err := w.Domains(ctx)
		require.NoError(t, err)
		return all[0].Greylist
	}
	require.EqualValues(t, 60, *greylisting(60))
	require.Zero(t, *greylisting(0))
	require.Nil(t, greylisting(-1))
	long := int64(1e9)
	require.ErrorIs(t, w.SetDomain(ctx, theBy, "example.test", admin.DomainSet{Greylist: &long}), admin.ErrInvalid)
	require.ErrorIs(t, w.SetDomain(ctx, theBy, "nowhere.test", admin.DomainSet{}), admin.ErrNotFound)
	require.ErrorIs(t, w.SetSettings(ctx, theBy, admin.Settings{GreylistExempt: []string{"here"}}), admin.ErrInvalid)
	require.NoError(t, w.SetSettings(ctx, theBy, admin.Settings{
		DefaultDomain: "example.test", Greylist: 60, GreylistTrust: 3, GreylistExempt: []string{"192.0.2.9/24", "::1"},
	}))
	settings, err := w.Settings(ctx)
	require.NoError(t, err)
	require.Equal(t, &admin.Settings{
		DefaultDomain: "example.test", Greylist: 60, GreylistTrust: 3, GreylistExempt: []string{"192.0.2.0/24", "::1/128"},
	}, settings)

	_, err = w.RemoveDomain(ctx, theBy, "example.test", admin.DropOptions{DryRun: true})
	require.ErrorIs(t, err, admin.ErrConflict)
	require.ErrorContains(t, err, "alice@example.test")
	_, err = w.RemoveDomain(ctx, theBy, "nowhere.test", admin.DropOptions{})
	require.ErrorIs(t, err, admin.ErrNotFound)
	require.NoError(t, w.SetAlias(ctx, theBy, admin.Alias{Address: "info@other.test", Targets: []string{"alice"}}))
	removed, err := w.RemoveDomain(ctx, theBy, "other.test", admin.DropOptions{DryRun: true})
	require.NoError(t, err)
	require.Contains(t, removed.Effects[1], "1 alias")
	_, err = w.RemoveDomain(ctx, theBy, "other.test", admin.DropOptions{})
	require.NoError(t, err)
	_, err = w.RemoveDomain(ctx, theBy, "other.test", admin.DropOptions{})
	require.ErrorIs(t, err, admin.ErrNotFound)
}

func TestUsers(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	require.NoError(t,
		w.AddUser(ctx, theBy, admin.UserAdd{Address: "Bob", Password: "secret", Name: "Bob B.", QuotaBytes: 9}))
	require.ErrorIs(t, w.AddUser(ctx, theBy, admin.UserAdd{Address: "bob@EXAMPLE.test", Password: "x"}), admin.ErrConflict)
	require.ErrorIs(t, w.AddUser(ctx, theBy, admin.UserAdd{Address: "bob@remote.test", Password: "x"}), admin.ErrInvalid)
	require.ErrorIs(t, w.AddUser(ctx, theBy, admin.UserAdd{Address: "carl"}), admin.ErrInvalid, "no password")
	require.ErrorIs(t, w.AddUser(ctx, theBy, admin.UserAdd{Address: "carl", Password: "a", PasswordHash: "$2b$x"}),
		admin.ErrInvalid)
	require.ErrorIs(t, w.AddUser(ctx, theBy, admin.UserAdd{Address: "carl", PasswordHash: "plain"}), admin.ErrInvalid)
	require.NoError(t, w.AddUser(ctx, theBy, admin.UserAdd{Address: "carl", PasswordHash: "$2b$10$abc"}))
	require.NoError(t,
		w.SetAlias(ctx, theBy, admin.Alias{Address: "team", Targets: []string{"bob", "BOB@example.test", "x@Remote.test"}}))

	u, err := w.User(ctx, "bob")
	require.NoError(t, err)
	require.Equal(t, &admin.User{
		Address: "bob@example.test", Name: "Bob B.", Created: admin.At(replicatest.Start), QuotaBytes: 9, Senders: []string{},
		Aliases: []string{"team@example.test"},
	}, u)
	aliases, err := w.Aliases(ctx)
	require.NoError(t, err)
	require.Equal(t, []admin.Alias{
		{Address: "team@example.test", Targets: []string{"bob@example.test", "x@remote.test"}},
	}, aliases)

	yes, senders, delay := true, []string{"Sales@example.test", "@Other.test", "*"}, int64(30)
	require.NoError(t, w.SetUser(ctx, theBy, "bob", admin.UserSet{Disabled: &yes, Senders: &senders, LoginDelay: &delay}))
	password := "new secret"
	require.NoError(t, w.SetUser(ctx, theBy, "bob", admin.UserSet{Password: &password}))
	u, err = w.User(ctx, "bob@example.test")
	require.NoError(t, err)
	require.True(t, u.Disabled)
	require.Equal(t, "Bob B.", u.Name)
	require.Equal(t, []string{"sales@example.test", "@other.test", "*"}, u.Senders)
	require.EqualValues(t, 30, u.LoginDelay)
	require.NoError(t, w.rep.View(func(v spool.View) error {
		a, _, err := v.Account("bob@example.test")
		require.Equal(t, "$argon2id$hash-of-new secret", a.Password)
		return err
	}))
	require.ErrorIs(t, w.SetUser(ctx, theBy, "nobody", admin.UserSet{Disabled: &yes}), admin.ErrNotFound)
	bad := "a\nb"
	err = w.SetUser(ctx, theBy, "bob", admin.UserSet{Password: &bad})
	require.ErrorIs(t, err, admin.ErrInvalid)
	require.NotContains(t, err.Error(), bad)

	all, err := w.Users(ctx, "example.test")
	require.NoError(t, err)
	require.Len(t, all, 3)
	all, err = w.Users(ctx, "other.test")
	require.NoError(t, err)
	require.Empty(t, all)
}

func TestRemoveUser(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	member := &pb.Member{Id: "n1", MaxCommand: spool.MaxVersion}
	epoch := w.do(spool.KindRegister, &pb.Register{Nonce: "x", Member: member}).Epoch
	id := replica.NewID(w.rep.Clock)
	w.do(spool.KindAccept, &pb.Accept{Inline: true, Epoch: epoch,
		Message: &pb.Message{Id: id[:], CreatedMs: w.rep.Clock.UnixMilli(), Sender: "s@remote.test"},
		Drops:   []*pb.Drop{{Mailbox: "alice@example.test", Recipient: "alice@example.test"}},
	}, []byte("Subject: x\r\n\r\ntext\r\n"))
	w.do(spool.KindLock, &pb.TakeLock{
		Mailbox: "alice@example.test", Node: "n1", Epoch: epoch, Session: "s1", Remote: "192.0.2.7:1",
	})
	r, err := w.RemoveUser(ctx, theBy, "alice", admin.DropOptions{DryRun: true})
	require.NoError(t, err)
	require.True(t, r.DryRun)
	require.EqualValues(t, 1, r.Messages)
	require.Len(t, r.Effects, 3)
	_, err = w.User(ctx, "alice")
	require.NoError(t, err, "a dry run removes nothing")
	r, err = w.RemoveUser(ctx, theBy, "alice", admin.DropOptions{})
	require.NoError(t, err)
	require.EqualValues(t, 1, r.Messages)
	_, err = w.User(ctx, "alice")
	require.ErrorIs(t, err, admin.ErrNotFound)
	_, err = w.RemoveUser(ctx, theBy, "alice", admin.DropOptions{})
	require.ErrorIs(t, err, admin.ErrNotFound)
}

func TestRoutesAndSettings(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	require.NoError(t, w.SetRoute(ctx, theBy, admin.Route{Domain: "*", Target: "smtp:relay.test:2525"}))
	require.NoError(t, w.SetRoute(ctx, theBy, admin.Route{Domain: "Remote.TEST", Target: " MX "}))
	all, err := w.Routes(ctx)
	require.NoError(t, err)
	require.Equal(t, []admin.Route{
		{Domain: "*", Target: "smtp:relay.test:2525"}, {Domain: "remote.test", Target: "mx"},
	}, all)
	require.ErrorIs(t, w.SetRoute(ctx, theBy, admin.Route{Domain: "*.remote.test", Target: "mx"}), admin.ErrInvalid)
	require.NoError(t, w.RemoveRoute(ctx, theBy, "*", admin.RouteSenders{}))
	require.ErrorIs(t, w.RemoveRoute(ctx, theBy, "*", admin.RouteSenders{}), admin.ErrNotFound)
	require.ErrorIs(t, w.RemoveAlias(ctx, theBy, "nobody"), admin.ErrNotFound)

	s, err := w.Settings(ctx)
	require.NoError(t, err)
	require.Equal(t, &admin.Settings{DefaultDomain: "example.test"}, s)
	want := admin.Settings{
		HistorySeconds: 60, HistoryBytes: 5, AuditSeconds: 86400, AuditBytes: 1000, ExpireSeconds: 70, RetryFirstSeconds: 8,
		RetryMaxSeconds: 9, DefaultDomain: "example.test",
	}
	require.NoError(t, w.SetSettings(ctx, theBy, want))
	s, err = w.Settings(ctx)
	require.NoError(t, err)
	require.Equal(t, &want, s)
	for _, bad := range []admin.Settings{
		{ExpireSeconds: -1}, {RetryFirstSeconds: 9, RetryMaxSeconds: 8}, {RetryFirstSeconds: 4*3600 + 1},
		{DefaultDomain: "nowhere.test"},
	} {
		require.ErrorIs(t, w.SetSettings(ctx, theBy, bad), admin.ErrInvalid)
	}
}

// The site's own rules of what replies mean are brought into one form, stay where they are not named, and go with an
// empty list.
func TestReplyRules(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	rules := []string{"blocklist  554 5.7.1 listed at\nexample.org", "rate slow ... down*"}
	require.NoError(t, w.SetSettings(ctx, theBy, admin.Settings{ReplyRules: rules}))
	kept := []string{"blocklist 554 5.7.1 listed at?example.org", "rate slow ... down*"}
	require.NoError(t, w.SetSettings(ctx, theBy, admin.Settings{ExpireSeconds: 3600}))
	s, err := w.Settings(ctx)
	require.NoError(t, err)
	require.Equal(t, &admin.Settings{ExpireSeconds: 3600, ReplyRules: kept}, s)
	for _, bad := range []string{"", "spam 550", "full", "full ab"} {
		err := w.SetSettings(ctx, theBy, admin.Settings{ReplyRules: []string{rules[0], bad}})
		require.ErrorIs(t, err, admin.ErrInvalid, bad)
		require.ErrorContains(t, err, "reply_rules: rule 2: ", bad)
	}
	require.NoError(t, w.SetSettings(ctx, theBy, admin.Settings{ReplyRules: []string{}}))
	s, err = w.Settings(ctx)
	require.NoError(t, err)
	require.Nil(t, s.ReplyRules)
}

// Limits and sites are checked, stay where they are not named, and go with an empty list.
func TestLimitsAndSites(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	limits, sites := []string{"site:big  rate=50/s", "domain:x.example connections=1"}, []string{"big mx.big.example"}
	require.NoError(t, w.SetSettings(ctx, theBy, admin.Settings{Limits: limits, Sites: sites}))
	require.NoError(t, w.SetSettings(ctx, theBy, admin.Settings{ExpireSeconds: 3600}))
	s, err := w.Settings(ctx)
	require.NoError(t, err)
	require.Equal(t, &admin.Settings{ExpireSeconds: 3600, Limits: []string{"site:big rate=50/s", limits[1]}, Sites: sites},
		s)
	err = w.SetSettings(ctx, theBy, admin.Settings{Limits: []string{limits[0], "site:big rate=1/s"}})
	require.ErrorIs(t, err, admin.ErrInvalid)
	require.ErrorContains(t, err, "limits: limit 2: site:big has one already")
	err = w.SetSettings(ctx, theBy, admin.Settings{Sites: []string{"big com"}})
	require.ErrorIs(t, err, admin.ErrInvalid)
	require.ErrorContains(t, err, "sites: site 1: ")
	require.NoError(t, w.SetSettings(ctx, theBy, admin.Settings{Limits: []string{}, Sites: []string{}}))
	s, err = w.Settings(ctx)
	require.NoError(t, err)
	require.Nil(t, s.Limits)
	require.Nil(t, s.Sites)
}

func TestRouteTargets(t *testing.T) {
	for text, want := range map[string]string{
		"mx": "mx", "DISCARD": "discard", "smtp:host": "smtp:host", "smtp:[host.test]": "smtp:host.test",
		"smtp:[host.test]:587": "smtp:host.test:587", "smtp:[2001:db8::1]:26": "smtp:[2001:db8::1]:26",
		"smtp:host.test:587": "smtp:host.test:587",
		"smtp:192.0.2.1":     "smtp:192.0.2.1", "smtp:[2001:db8::1]:25": "smtp:[2001:db8::1]:25",
		"smtp:[2001:db8::1]": "smtp:[2001:db8::1]",
		"lmtp:127.0.0.1:24":  "lmtp:127.0.0.1:24",
	} {
		got, err := RouteTarget(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got)
	}
	for _, bad := range []string{
		"", "mx:", "discard:x", "smtp:", "smtp:host:0",
		"smtp:[host", "smtp:[]", "smtp:[]:25", "smtp:[a]b", "smtp:host:99999", "smtp:a b", "smtp:2001:db8::1",
		"lmtp:host", "lmtp:/run/x",
		"http://hook.test", "https://hook.test/in?x=1", "https://", "https://u:p@hook.test/", "uucp:host",
		"smtp:host:25:26", "smtp:ho/st",
		"smtp:0]", "smtp:[0", "smtp:[::1", "smtp:::1]",
	} {
		_, err := RouteTarget(bad)
		require.ErrorIs(t, err, admin.ErrInvalid, bad)
	}
}

func FuzzRouteTarget(f *testing.F) {
	for _, seed := range []string{"mx", "smtp:a:25", "lmtp:[::1]:24", "HTTPS://x/", "smtp:[", "discard"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := RouteTarget(text)
		if err != nil {
			var p *admin.Error
			require.True(t, errors.As(err, &p))
			return
		}
		again, err := RouteTarget(got)
		require.NoError(t, err, got)
		require.Equal(t, got, again)
		_, err = remote.ParseTarget(got)
		require.NoError(t, err, "what is stored must be understood")
	})
}

// Retry rules, the age of delay notices and the text of notices stay where they are not named; what is wrong with them
// is said with the rule or the line.
func TestRetrySettings(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	text := "[failure]\r\nSubject: sorry\r\n\r\n{recipients}\r\n\r\n"
	set := admin.Settings{RetryRules: []string{"* greylist  first=2m\tmax=10m", "slow.example expire=2d"},
		DelayNotice: new(int64(7200)), NoticeTemplate: &text, SlowClasses: []string{"rate", "rate", "blocklist"}}
	require.NoError(t, w.SetSettings(ctx, theBy, set))
	require.NoError(t, w.SetSettings(ctx, theBy, admin.Settings{ExpireSeconds: 3600}))
	s, err := w.Settings(ctx)
	require.NoError(t, err)
	require.Equal(t, []string{"* greylist first=2m max=10m", "slow.example expire=2d"}, s.RetryRules)
	require.EqualValues(t, 7200, *s.DelayNotice)
	require.Equal(t, []string{"rate", "blocklist"}, s.SlowClasses)
	require.Equal(t, "[failure]\r\nSubject: sorry\r\n\r\n{recipients}\n", *s.NoticeTemplate)
	bad := "[failure]\nSubject: sorry\rBcc: all@example.test\n{recipients}\n"
	for want, set := range map[string]admin.Settings{
		"retry_rules: rule 2: ":     {RetryRules: []string{"* first=1m", "* soon"}},
		"notice_template: line 2: ": {NoticeTemplate: &bad},
		"delay_notice_seconds is":   {DelayNotice: new(int64(1 << 40))},
		"slow_classes: fast is no ": {SlowClasses: []string{"rate", "fast"}},
	} {
		err := w.SetSettings(ctx, theBy, set)
		require.ErrorIs(t, err, admin.ErrInvalid)
		require.ErrorContains(t, err, want)
	}
	none := " \n"
	require.NoError(t, w.SetSettings(ctx, theBy,
		admin.Settings{RetryRules: []string{}, DelayNotice: new(int64(-5)), NoticeTemplate: &none, SlowClasses: []string{}}))
	s, err = w.Settings(ctx)
	require.NoError(t, err)
	require.Equal(t, &admin.Settings{DelayNotice: new(int64(-1))}, s)
	require.NoError(t, w.SetSettings(ctx, theBy, admin.Settings{DelayNotice: new(int64(0))}))
	s, err = w.Settings(ctx)
	require.NoError(t, err)
	require.Equal(t, &admin.Settings{}, s)
}

// TestSRSSettings: return addresses are of a local domain, and their keys go forward only.
func TestSRSSettings(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	name, far, off := "Example.TEST", "far.example", ""
	require.NoError(t, w.SetSettings(ctx, theBy, admin.Settings{SRSDomain: &name}))
	require.NoError(t, w.SetSettings(ctx, theBy, admin.Settings{SRSGeneration: 2}))
	s, err := w.Settings(ctx)
	require.NoError(t, err)
	require.Equal(t, "example.test", *s.SRSDomain)
	require.EqualValues(t, 2, s.SRSGeneration)
	require.ErrorContains(t, w.SetSettings(ctx, theBy, admin.Settings{SRSGeneration: 1}), "goes up only")
	require.ErrorContains(t, w.SetSettings(ctx, theBy, admin.Settings{SRSDomain: &far}), "is not local")
	for _, dry := range []bool{true, false} {
		_, err = w.RemoveDomain(ctx, theBy, name, admin.DropOptions{DryRun: dry})
		require.ErrorIs(t, err, admin.ErrConflict)
		require.ErrorContains(t, err, "return addresses (SRS) at example.test")
		e, ok := errors.AsType[*admin.Error](err)
		require.True(t, ok)
		require.Contains(t, e.Next, "relayctl settings set --srs off")
	}
	require.NoError(t, w.SetSettings(ctx, theBy, admin.Settings{SRSDomain: &off}))
	s, err = w.Settings(ctx)
	require.NoError(t, err)
	require.Nil(t, s.SRSDomain)
	require.EqualValues(t, 2, s.SRSGeneration)
	_, err = w.RemoveDomain(ctx, theBy, name, admin.DropOptions{DryRun: true})
	require.NotContains(t, fmt.Sprint(err), "SRS")
}

// TestSuppressionRecords: names are brought into one form, the domain says for how long, and lists go on where one
// ended.
func TestSuppressionRecords(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	require.ErrorContains(t, w.Suppress(ctx, theBy, admin.SuppressAdd{Domain: "example.test", Address: "x@far.example"}),
		"need cluster version 2")
	w.do(spool.KindPutCluster, &pb.PutCluster{Cluster: &pb.Cluster{Id: "c", Version: 1}})
	w.do(spool.KindRaise, &pb.Raise{From: 1, To: 2})
	require.NoError(t, w.SetDomain(ctx, theBy, "example.test", admin.DomainSet{Suppress: new(int64(7 * 86400))}))
	domains, err := w.Domains(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 7*86400, domains[0].Suppress)
	for _, a := range []admin.SuppressAdd{
		{Domain: "Example.TEST.", Address: " Gone@Far.Example "}, {Domain: "example.test", Address: "x@far.example"},
		{Domain: "example.test", Address: "y@far.example", ExpiresSeconds: 3600},
	} {
		require.NoError(t, w.Suppress(ctx, theBy, a))
	}
	all, err := w.Suppressed(ctx, admin.SuppressedQuery{})
	require.NoError(t, err)
	require.Len(t, all, 3)
	require.Equal(t, []string{"example.test", "gone@far.example", theBy.Why},
		[]string{all[0].Domain, all[0].Address, all[0].Why})
	require.Equal(t, 7*24*time.Hour, all[0].Expires.Sub(all[0].Since.Time))
	require.Equal(t, time.Hour, all[2].Expires.Sub(all[2].Since.Time))
	all, err = w.Suppressed(ctx, admin.SuppressedQuery{Domain: "EXAMPLE.test", From: "x@", Limit: 1})
	require.NoError(t, err)
	require.Len(t, all, 1)
	require.Equal(t, "x@far.example", all[0].Address)
	require.NoError(t, w.Unsuppress(ctx, theBy, "example.test", "GONE@far.example"))
	require.ErrorIs(t, w.Unsuppress(ctx, theBy, "example.test", "gone@far.example"), admin.ErrNotFound)
	_, err = w.Suppressed(ctx, admin.SuppressedQuery{From: "x@"})
	require.ErrorIs(t, err, admin.ErrInvalid)
	for _, bad := range []admin.SuppressAdd{
		{Domain: "far.example", Address: "x@far.example"}, {Domain: "example.test", Address: "x"},
		{Domain: "example.test", Address: ""}, {Domain: "", Address: "x@far.example"},
		{Domain: "example.test", Address: "x@far.example", ExpiresSeconds: -1},
	} {
		require.Error(t, w.Suppress(ctx, theBy, bad))
	}
	require.ErrorIs(t, w.SetDomain(ctx, theBy, "example.test", admin.DomainSet{Suppress: new(int64(-1))}),
		admin.ErrInvalid)
}

func TestSettingsByTwoOperators(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	s, err := w.Settings(ctx)
	require.NoError(t, err)
	require.Nil(t, s.Changed, "version 1 knows none")
	w.do(spool.KindPutCluster, &pb.PutCluster{Cluster: &pb.Cluster{Id: "c", Version: 1}})
	w.do(spool.KindRaise, &pb.Raise{From: 1, To: 2})
	one, err := w.Settings(ctx)
	require.NoError(t, err)
	two := *one
	one.SlowClasses, two.HistoryBytes = []string{"rate"}, 7
	require.NoError(t, w.SetSettings(ctx, theBy, *one))
	require.ErrorIs(t, w.SetSettings(ctx, theBy, two), admin.ErrConflict)
	now, err := w.Settings(ctx)
	require.NoError(t, err)
	require.Equal(t, []string{"rate"}, now.SlowClasses)
	now.Changed = nil
	require.NoError(t, w.SetSettings(ctx, theBy, *now), "who names none replaces what there is")
}
