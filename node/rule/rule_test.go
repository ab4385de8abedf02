package rule

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	pb "relay/cluster/spool/spoolpb"
)

var noon = time.UnixMilli(1_900_000_000_000)

func compiled(rules ...*pb.Rule) *Set {
	for i, r := range rules {
		if r.Id == 0 {
			r.Id = uint64(i + 1)
		}
		if r.Action == pb.RuleAction_RULE_NONE {
			r.Action = pb.RuleAction_RULE_HOLD
		}
	}
	return Compile(rules)
}

func TestWhatRulesMatch(t *testing.T) {
	e := Envelope{Sender: "Ann@News.Example", Recipient: "Bob@mail.Far.Example", Client: "192.0.2.7:4711",
		User: "ann@our.example"}
	bounce := e
	bounce.Sender, bounce.User, bounce.Client = "", "", "local"
	six := e
	six.Client = "[2001:db8::7]:25"
	for _, c := range []struct {
		r    *pb.Rule
		e    *Envelope
		want bool
	}{
		{&pb.Rule{All: true}, &e, true},
		{&pb.Rule{Domain: "mail.far.example"}, &e, true},
		{&pb.Rule{Domain: "far.example"}, &e, false},
		{&pb.Rule{Domain: ".far.example"}, &e, true},
		{&pb.Rule{Domain: ".example"}, &e, true},
		{&pb.Rule{Domain: ".mail.far.example"}, &e, false},
		{&pb.Rule{Domain: "ar.example"}, &e, false},
		{&pb.Rule{Recipient: "bob@mail.far.example"}, &e, true},
		{&pb.Rule{Recipient: "@mail.far.example"}, &e, true},
		{&pb.Rule{Recipient: "@far.example"}, &e, false},
		{&pb.Rule{Sender: "ann@news.example"}, &e, true},
		{&pb.Rule{Sender: "@news.example"}, &e, true},
		{&pb.Rule{Sender: "@example"}, &e, false},
		{&pb.Rule{Sender: "<>"}, &e, false},
		{&pb.Rule{Sender: "<>"}, &bounce, true},
		{&pb.Rule{User: "ann@our.example"}, &e, true},
		{&pb.Rule{User: "ann@our.example"}, &bounce, false},
		{&pb.Rule{Client: "192.0.2.7/32"}, &e, true},
		{&pb.Rule{Client: "192.0.2.0/24"}, &e, true},
		{&pb.Rule{Client: "198.51.100.0/24"}, &e, false},
		{&pb.Rule{Client: "0.0.0.0/0"}, &bounce, false},
		{&pb.Rule{Client: "0.0.0.0/0"}, &six, false},
		{&pb.Rule{Client: "2001:db8::/32"}, &six, true},
		{&pb.Rule{Client: "nonsense"}, &e, false},
		{&pb.Rule{Domain: "mail.far.example", Sender: "@other.example"}, &e, false},
		{&pb.Rule{Domain: ".far.example", Sender: "@news.example", Client: "192.0.2.0/24", User: "ann@our.example"}, &e,
			true},
	} {
		require.Equal(t, c.want, compiled(c.r).Match(c.e, noon) != nil, "%v", c.r)
	}
}

// TestFirstMatchWins: by place in the order, wherever the rule is kept.
func TestFirstMatchWins(t *testing.T) {
	e := &Envelope{Sender: "a@x.example", Recipient: "b@y.example", Client: "192.0.2.1"}
	rules := []*pb.Rule{
		{Sender: "@x.example", ExpiresMs: noon.UnixMilli()},
		{Domain: "y.example", Sender: "other@x.example"},
		{Client: "192.0.2.0/24"}, {All: true}, {Recipient: "b@y.example"}, {Domain: "y.example"},
	}
	set := compiled(rules...)
	require.EqualValues(t, 1, set.Match(e, noon.Add(-time.Millisecond)).Id, "as long as it lasts")
	require.EqualValues(t, 3, set.Match(e, noon).Id)
	e.Pass = 4
	require.EqualValues(t, 4, set.Match(e, noon).Id, "an operator has released it from those before")
	rules[2].Action = pb.RuleAction_RULE_BOUNCE
	require.EqualValues(t, 3, compiled(rules...).Match(e, noon).Id, "which counts for those that keep it waiting alone")
	require.Equal(t, noon, set.Ends(noon.Add(-time.Hour)))
	require.Zero(t, set.Ends(noon))
	require.True(t, set.Deep())
	require.False(t, compiled(&pb.Rule{Domain: "x.example"}).Deep())
}

// TestCopiesAreApart: a rule that copies neither hides one that holds, nor is hidden by it.
func TestCopiesAreApart(t *testing.T) {
	e := &Envelope{Recipient: "b@y.example"}
	set := compiled(&pb.Rule{All: true}, &pb.Rule{All: true, Action: pb.RuleAction_RULE_COPY})
	require.EqualValues(t, 1, set.Match(e, noon).Id)
	require.EqualValues(t, 2, set.Copy(e, noon).Id)
	require.True(t, set.Copies() && set.Queues())
	var none *Set
	require.Nil(t, none.Match(e, noon))
	require.Nil(t, none.Copy(e, noon))
	require.False(t, none.Copies() || none.Queues() || none.Deep())
	require.Nil(t, Compile(nil))
}

// TestTheTableTellsWhatAllRulesTell: with whatever rules, the table finds the one that a look at each finds.
func TestTheTableTellsWhatAllRulesTell(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pick := func(of ...string) string { return rapid.SampledFrom(append(of, "", "")).Draw(t, "x") }
		var rules []*pb.Rule
		for range rapid.IntRange(1, 12).Draw(t, "rules") {
			r := &pb.Rule{
				Domain: pick("a.example", ".example", "b.a.example"), Sender: pick("<>", "x@a.example", "@a.example"),
				Recipient: pick("x@a.example", "@a.example"), User: pick("u@a.example"),
				Client: pick("192.0.2.0/24", "192.0.2.1/32", "192.0.0.0/16", "2001:db8::/64"),
			}
			r.All = r.Domain+r.Sender+r.Recipient+r.User+r.Client == ""
			rules = append(rules, r)
		}
		e := &Envelope{
			Sender: pick("x@a.example", "y@a.example"), Recipient: pick("x@a.example", "y@b.a.example", "z@.example.", "q"),
			User: pick("u@a.example", "v@a.example"), Client: pick("192.0.2.1:1", "192.0.3.1:1", "[2001:db8::1]:1", "local"),
		}
		want := slices.IndexFunc(rules, func(r *pb.Rule) bool {
			one := proto.CloneOf(r)
			return compiled(one).Match(e, noon) != nil
		})
		got := compiled(rules...).Match(e, noon)
		if want < 0 {
			require.Nil(t, got)
			return
		}
		require.Same(t, rules[want], got)
	})
}

// TestWhole: a rule on a whole domain is known without looking at mail, unless another comes before it for some.
func TestWhole(t *testing.T) {
	set := compiled(&pb.Rule{Sender: "@x.example", Domain: "b.example"}, &pb.Rule{Recipient: "ann@c.example"},
		&pb.Rule{Domain: "a.example"}, &pb.Rule{Domain: ".example"}, &pb.Rule{Recipient: "@d.test"},
		&pb.Rule{Domain: "e.test", ExpiresMs: noon.UnixMilli()}, &pb.Rule{All: true, Action: pb.RuleAction_RULE_COPY})
	for domain, want := range map[string]uint64{
		"a.example": 3, "b.example": 0, "c.example": 0, "z.example": 4, "d.test": 5, "e.test": 0, "": 0,
	} {
		require.Equal(t, want, set.Whole(domain, noon).GetId(), domain)
	}
	var none *Set
	require.Nil(t, none.Whole("a.example", noon))
}

func FuzzMatch(f *testing.F) {
	f.Add("@", "@.", "::", "..", ".x")
	set := compiled(&pb.Rule{Domain: ".x"}, &pb.Rule{Sender: "@x"}, &pb.Rule{User: "u@x"}, &pb.Rule{Client: "::/0"},
		&pb.Rule{Recipient: "@x"})
	f.Fuzz(func(_ *testing.T, sender, recipient, client, user, domain string) {
		set.Match(&Envelope{Sender: sender, Recipient: recipient + domain, Client: client, User: user}, noon)
	})
}

func BenchmarkMatch(b *testing.B) {
	for _, n := range []int{1, 1000} {
		var rules []*pb.Rule
		for i := range n {
			rules = append(rules, &pb.Rule{Domain: fmt.Sprintf("d%d.example", i)},
				&pb.Rule{Sender: fmt.Sprintf("s@%d.example", i)})
		}
		set := compiled(rules...)
		e := &Envelope{Sender: "ann@news.example", Recipient: "bob@far.example", Client: "192.0.2.7:4711"}
		b.Run(fmt.Sprint(2*n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				set.Match(e, noon)
			}
		})
	}
}
