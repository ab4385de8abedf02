package routing

import (
	"testing"

	"github.com/stretchr/testify/require"

	pb "relay/cluster/spool/spoolpb"
)

// TestTheMostSpecificRouteCounts: first the recipient's domain tells, then who hands the mail in, then its sender.
func TestTheMostSpecificRouteCounts(t *testing.T) {
	routes := map[Key]string{}
	for _, k := range []Key{
		{"*", "", ""}, {"*", "@a.example", ""}, {"*", "ann@a.example", ""}, {"*", "<>", ""},
		{"*", "", "u@a.example"}, {"*", "@a.example", "u@a.example"},
		{"far.example", "", ""}, {"near.far.example", "@a.example", ""}, {"only.example", "", "u@a.example"},
	} {
		routes[k] = k.String()
	}
	for _, c := range []struct {
		domain string
		mail   Mail
		want   string
	}{
		{"x.example", Mail{}, "*"},
		{"x.example", Mail{Sender: "bob@b.example"}, "*"},
		{"x.example", Mail{Sender: "bob@a.example"}, "* from @a.example"},
		{"x.example", Mail{Sender: "bob@below.a.example"}, "*"},
		{"x.example", Mail{Sender: "ann@a.example"}, "* from ann@a.example"},
		{"x.example", Mail{Sender: "<>"}, "* from <>"},
		{"x.example", Mail{Sender: "bob@b.example", Login: "u@a.example"}, "* login u@a.example"},
		{"x.example", Mail{Sender: "ann@a.example", Login: "u@a.example"}, "* from @a.example login u@a.example"},
		{"x.example", Mail{Login: "v@a.example"}, "*"},
		{"far.example", Mail{Sender: "ann@a.example", Login: "u@a.example"}, "far.example"},
		{"near.far.example", Mail{Sender: "ann@a.example"}, "near.far.example from @a.example"},
		{"below.near.far.example", Mail{Sender: "ann@a.example"}, "near.far.example from @a.example"},
		{"near.far.example", Mail{Sender: "bob@b.example"}, "far.example"},
		{"only.example", Mail{Login: "u@a.example"}, "only.example login u@a.example"},
		{"only.example", Mail{}, "*"},
	} {
		got, ok, err := Find(c.domain, c.mail, func(k Key) (string, bool, error) {
			text, ok := routes[k]
			return text, ok, nil
		})
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, c.want, got, "%s %v", c.domain, c.mail)
	}
}

// TestStrangersHaveNoSender: what a stranger says of the sender leads mail nowhere; names come in one form.
func TestStrangersHaveNoSender(t *testing.T) {
	for _, c := range []struct {
		m    *pb.Message
		want Mail
	}{
		{&pb.Message{Sender: "ann@a.example"}, Mail{}},
		{&pb.Message{}, Mail{}},
		{&pb.Message{Sender: "Ann@BÜCHER.example", Ours: true}, Mail{Sender: "ann@xn--bcher-kva.example"}},
		{&pb.Message{Ours: true}, Mail{Sender: Null}},
		{&pb.Message{BounceOf: []byte{1}}, Mail{Sender: Null}},
		{&pb.Message{Sender: "ann@a.example", Client: &pb.Client{User: "U@A.Example"}}, Mail{Login: "u@a.example"}},
		{&pb.Message{Sender: "SRS0=aaaaaaaa=ab=far.example=bob@a.example", Ours: true}, Mail{}},
		{&pb.Message{Sender: "srs1+aaaaaaaa=far.example==x@a.example", Ours: true, Client: &pb.Client{User: "u@a.example"}},
			Mail{Login: "u@a.example"}},
	} {
		require.Equal(t, c.want, Of(c.m))
	}
}
