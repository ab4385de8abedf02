package nodetest_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
	"relay/node/admin"
	"relay/node/config"
	"relay/node/nodetest"
	"relay/pop3"
	"relay/smtp/sasl"
)

// TestScramOnEveryNode logs in by SCRAM with a password that was set on one
// node.
func TestScramOnEveryNode(t *testing.T) {
	t.Parallel()
	c := nodetest.New(t, nodetest.Options{Nodes: 2})
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	for _, m := range c.Nodes {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", m.POP3)
		require.NoError(t, err)
		one, err := pop3.NewClient(ctx, conn)
		require.NoError(t, err)
		require.Error(t, one.Auth(ctx, sasl.NewScramClient("alice", "wrong", nil)))
		require.NoError(t, one.Auth(ctx, sasl.NewScramClient("alice", "secret", nil)))
		require.NoError(t, one.Quit(ctx))
	}
}

// TestDecoysAreAlikeOnEveryNode: a salt does not tell who is there, whichever node
// tells it. It is made of a secret that the cluster gets for that.
func TestDecoysAreAlikeOnEveryNode(t *testing.T) {
	t.Parallel()
	c := nodetest.New(t, nodetest.Options{Nodes: 2})
	secret := func(m *nodetest.Member) (secret string) {
		_ = m.Node().Cluster().View(func(v spool.View) error {
			record, _, err := v.Cluster()
			secret = string(record.GetSecret())
			return err
		})
		return secret
	}
	c.Eventually(time.Minute, "no secret on all nodes", func() bool {
		return secret(c.Nodes[0]) != "" && secret(c.Nodes[0]) == secret(c.Nodes[1])
	})
	salt := func(m *nodetest.Member, first string) string {
		conn, err := textproto.Dial("tcp", m.POP3)
		require.NoError(t, err)
		defer conn.Close()
		_, err = conn.ReadLine()
		require.NoError(t, err)
		require.NoError(t, conn.PrintfLine("AUTH SCRAM-SHA-256 %s", base64.StdEncoding.EncodeToString([]byte(first))))
		line, err := conn.ReadLine()
		require.NoError(t, err)
		challenge, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(line, "+ "))
		require.NoError(t, err)
		return strings.Split(string(challenge), ",")[1]
	}
	eve := salt(c.Nodes[0], "n,,n=eve,r=abc")
	require.Equal(t, eve, salt(c.Nodes[1], "n,,n=eve,r=abc"))
	require.Equal(t, eve, salt(c.Nodes[1], "n,a=EVE@example.test,n=eve@example.test,r=abc"))
	require.NotEqual(t, eve, salt(c.Nodes[1], "n,,n=mallory,r=abc"))
}

// capa is what a session at a node is told.
func capa(t *testing.T, ctx context.Context, m *nodetest.Member, user string) map[string][]string {
	one, err := m.Login(ctx, user)
	require.NoError(t, err)
	defer one.Quit(ctx)
	caps, err := one.Capa(ctx)
	require.NoError(t, err)
	return caps
}

// TestMaildropPolicies: a policy that an operator sets on one node holds on the other.
func TestMaildropPolicies(t *testing.T) {
	t.Parallel()
	c := nodetest.New(t, nodetest.Options{Nodes: 2})
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	shared, month, hour := true, int64(30*24*3600), int64(3600)
	api := c.Nodes[0].Client()
	require.NoError(t,
		api.SetUser(ctx, admin.By{Why: "test"}, "alice@example.test", admin.UserSet{Retention: &month, LoginDelay: &hour}))
	require.NoError(t, api.SetUser(ctx, admin.By{Why: "test"}, "bob@example.test", admin.UserSet{Shared: &shared}))
	c.Verify()

	caps := capa(t, ctx, c.Nodes[0], "alice")
	require.Equal(t, []string{"30"}, caps["EXPIRE"])
	require.Equal(t, []string{"3600"}, caps["LOGIN-DELAY"])
	_, err := c.Nodes[1].Login(ctx, "alice")
	require.ErrorContains(t, err, "[LOGIN-DELAY]")

	one, err := c.Nodes[0].Login(ctx, "bob")
	require.NoError(t, err)
	defer one.Close()
	two, err := c.Nodes[1].Login(ctx, "bob")
	require.NoError(t, err)
	require.NoError(t, two.Quit(ctx))
}

// TestInUseNamesTheNode, and what an operator's unlock does to the session.
func TestInUseNamesTheNode(t *testing.T) {
	t.Parallel()
	c := nodetest.New(t, nodetest.Options{Nodes: 3})
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	c.Nodes[0].MustSend("a@far.example", "alice@example.test", nodetest.Letter("one"))
	holder, err := c.Nodes[1].Login(ctx, "alice")
	require.NoError(t, err)
	defer holder.Close()
	require.NoError(t, holder.Dele(ctx, 1))
	_, err = c.Nodes[2].Login(ctx, "alice")
	require.ErrorContains(t, err, "[IN-USE]")
	require.ErrorContains(t, err, "n2")
	require.ErrorContains(t, err, time.Now().UTC().Format("2006-01-02T"))

	u, err := c.Nodes[0].Client().Unlock(ctx, admin.By{Why: "test"}, "alice@example.test", 0)
	require.NoError(t, err)
	require.Equal(t, "n2", u.Lock.Node)
	_, err = holder.Reply()
	require.ErrorContains(t, err, "operator", "the session is told")
	_, err = holder.Reply()
	require.Error(t, err, "and closed")
	found, err := c.Nodes[2].Subjects("alice")
	require.NoError(t, err)
	require.Equal(t, map[string]int{"one": 1}, found, "nothing was deleted")
}

// TestPOP2 reads and deletes a message by RFC 937, and finds the lock of POP3.
func TestPOP2(t *testing.T) {
	t.Parallel()
	var addr string
	c := nodetest.New(t, nodetest.Options{Nodes: 1, Configure: func(_ int, conf *config.Config) {
		addr = "127.0.0.1:0"
		conf.POP2 = []config.POP2{{Listen: addr}}
	}})
	m := c.Nodes[0]
	m.MustSend("a@far.example", "alice@example.test", nodetest.Letter("one"))
	open := func() *textproto.Conn {
		conn, err := net.Dial("tcp", m.Node().Addr("pop2").String())
		require.NoError(t, err)
		require.NoError(t, conn.SetDeadline(time.Now().Add(3*time.Minute)))
		p := textproto.NewConn(conn)
		t.Cleanup(func() { _ = p.Close() })
		return p
	}
	say := func(p *textproto.Conn, line, want string) string {
		t.Helper()
		if line != "" {
			require.NoError(t, p.PrintfLine("%s", line))
		}
		got, err := p.ReadLine()
		require.NoError(t, err)
		require.Regexp(t, "^"+want, got)
		return got
	}
	p := open()
	say(p, "", `\+ POP2`)
	say(p, "HELO alice secret", "#1")
	other := open()
	say(other, "", `\+ POP2`)
	say(other, "HELO alice secret", "-")
	size, err := strconv.Atoi(say(p, "READ", "=[0-9]+")[1:])
	require.NoError(t, err)
	require.NoError(t, p.PrintfLine("RETR"))
	body := make([]byte, size)
	_, err = io.ReadFull(p.R, body)
	require.NoError(t, err)
	require.Contains(t, string(body), "Subject: one")
	say(p, "ACKD", "=0")
	say(p, "QUIT", `\+`)
	found, err := m.Subjects("alice")
	require.NoError(t, err)
	require.Empty(t, found)
}

// TestManyDrainOneSharedMailbox: of all who delete a message at once one is
// told so, on whatever nodes they are.
func TestManyDrainOneSharedMailbox(t *testing.T) {
	t.Parallel()
	const mails, clients = 60, 12
	c := nodetest.New(t, nodetest.Options{Nodes: 3})
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	shared := true
	require.NoError(t,
		c.Nodes[0].Client().SetUser(ctx, admin.By{Why: "test"}, "alice@example.test", admin.UserSet{Shared: &shared}))
	for i := range mails {
		c.Nodes[i%3].MustSend("a@far.example", "alice@example.test", nodetest.Letter(strconv.Itoa(i)))
	}
	c.Verify()
	var mu sync.Mutex
	deleted := map[string]int{} // by UID: numbers differ with the time of the login
	drain := func(n int) error {
		one, err := c.Nodes[n%3].Login(ctx, "alice")
		if err != nil {
			return err
		}
		defer one.Close()
		var uids []string
		if err := one.UIDL(ctx, func(_ int, uid []byte) { uids = append(uids, string(uid)) }); err != nil {
			return err
		}
		for i := range uids {
			i = (i + n*mails/clients) % len(uids)
			if one.Deli(ctx, i+1) == nil {
				mu.Lock()
				deleted[uids[i]]++
				mu.Unlock()
			}
		}
		return one.Quit(ctx)
	}
	var wg sync.WaitGroup
	for n := range clients {
		wg.Go(func() {
			// On a slow machine a node may lose its session for a moment: its
			// clients are cut, and come again.
			for ctx.Err() == nil && drain(n) != nil {
			}
		})
	}
	wg.Wait()
	require.NoError(t, ctx.Err())
	for uid, n := range deleted {
		require.Equal(t, 1, n, "message %s", uid)
	}
	found, err := c.Nodes[1].Subjects("alice")
	require.NoError(t, err)
	require.Empty(t, found)
	c.Verify()
}

// TestLoginSeesWhatWasDoneElsewhere: the next login at any node knows the mail that
// one node has answered with 250, and the deletions of a QUIT at another, although
// that node may not have applied it yet.
func TestLoginSeesWhatWasDoneElsewhere(t *testing.T) {
	t.Parallel()
	c := nodetest.New(t, nodetest.Options{Nodes: 3, Tuning: nodetest.Steady()})
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	var busy sync.WaitGroup
	noise, quiet := context.WithCancel(ctx)
	for _, m := range c.Nodes { // so that nodes lag
		busy.Go(func() {
			for noise.Err() == nil {
				if p, err := m.Login(noise, "bob"); err == nil {
					_ = p.Quit(noise)
					_ = p.Close()
				}
			}
		})
	}
	defer busy.Wait()
	defer quiet()

	dice := rand.New(rand.NewPCG(1, 2))
	want := []string{}
	look := func(m *nodetest.Member, each func(p *pop3.Client)) {
		p, err := m.Login(ctx, "alice")
		require.NoError(t, err)
		defer p.Close()
		got := []string{}
		n, _, err := p.Stat(ctx)
		require.NoError(t, err)
		for i := range n {
			var b strings.Builder
			_, err := p.Retr(ctx, i+1, &b)
			require.NoError(t, err)
			got = append(got, nodetest.SubjectOf(b.String()))
		}
		require.Equal(t, want, got)
		each(p)
		require.NoError(t, p.Quit(ctx))
	}
	for step := range 60 {
		from, at := c.Nodes[dice.IntN(3)], c.Nodes[dice.IntN(3)]
		switch {
		case dice.IntN(4) == 0:
		case dice.IntN(3) > 0:
			name := fmt.Sprint("letter ", step)
			_, err := from.Send(ctx, "a@far.example", "alice@example.test", nodetest.Letter(name))
			require.NoError(t, err)
			want = append(want, name)
		case len(want) > 0:
			gone := dice.IntN(len(want))
			look(from, func(p *pop3.Client) { require.NoError(t, p.Dele(ctx, gone+1)) })
			want = slices.Delete(want, gone, gone+1)
		}
		look(at, func(*pop3.Client) {})
	}
}
