package remote

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster/porttest"
	"relay/queue"
)

// mxOf makes an agent that finds hops by a real name server: x.example has the
// MX hosts mx0, mx1 …, one for each list of addresses, each worse than the one
// before. All of them listen on one port.
func mxOf(t *testing.T, c Config, port int, hosts ...[]string) *Agent {
	t.Helper()
	zone := map[string][]string{}
	for i, addrs := range hosts {
		name := fmt.Sprintf("mx%d.x.example.", i)
		zone["x.example. MX"] = append(zone["x.example. MX"], fmt.Sprintf("x.example. 60 IN MX %d %s", 10*(i+1), name))
		for _, a := range addrs {
			kind := "A"
			if strings.Contains(a, ":") {
				kind = "AAAA"
			}
			zone[name+" "+kind] = append(zone[name+" "+kind], name+" 60 IN "+kind+" "+a)
		}
	}
	c.Resolver, c.Port, c.LoopbackHops = resolver(t, newNameServer(t, zone).addr), port, true
	return newAgent(t, c)
}

// twoHops listen at 127.0.0.2 and 127.0.0.3, on one port.
func twoHops(t *testing.T, first, second map[string]string) (one, two *nextHop) {
	t.Helper()
	one = newHopAt(t, porttest.Addr(t, "127.0.0.2"), first)
	return one, newHopAt(t, fmt.Sprintf("127.0.0.3:%d", one.port()), second)
}

var mx23 = [][]string{{"127.0.0.2"}, {"127.0.0.3"}}

func xJob(to ...string) *queue.Job {
	j := jobTo("", to...)
	j.Domain = "x.example"
	return j
}

func outcomes(v []queue.Verdict) (all []queue.Outcome) {
	for i := range v {
		all = append(all, v[i].Outcome)
	}
	return all
}

// A reply too many never makes the next one count for another command.
func TestStrayReplyLosesNothing(t *testing.T) {
	chunking := Config{Client: patience(30 * time.Second)}
	chunking.Client.Chunking = true
	t.Run("behind the message", func(t *testing.T) {
		h := newHop(t, map[string]string{"DOT": "250 2.0.0 last chunk received\n250 2.0.0 Ok|452 4.3.1 disk full"})
		h.ehlo = []string{"PIPELINING", "CHUNKING"}
		a := newAgent(t, chunking)
		require.Equal(t, queue.Delivered, deliver(t, a, job(h, "a@x"))[0].Outcome, "both say so")
		v := deliver(t, a, job(h, "a@x"))[0]
		require.Equal(t, queue.Deferred, v.Outcome, v.Reply)
		require.Equal(t, "452 4.3.1 disk full", v.Reply)
		conns, _ := h.count()
		require.Equal(t, 2, conns)
	})
	for name, c := range map[string]Config{"BDAT": chunking, "DATA": {}} {
		for _, ehlo := range [][]string{{"PIPELINING", "CHUNKING"}, {"CHUNKING"}} {
			t.Run("behind RCPT, "+name, func(t *testing.T) {
				h := newHop(t, map[string]string{"RCPT": "250 ok\n250 ok", "DOT": "552 5.3.4 too big"})
				h.ehlo = ehlo
				v := deliver(t, newAgent(t, c), job(h, "a@x"))[0]
				require.Equal(t, queue.Deferred, v.Outcome, v.Reply)
				require.NotContains(t, v.Reply, "may have been")
				_, bodies := h.count()
				require.Zero(t, bodies)
			})
		}
	}
	t.Run("inside TLS", func(t *testing.T) {
		h := newHop(t, map[string]string{"DOT": "250 2.0.0 one\n250 2.0.0 again|552 5.3.4 too big"})
		h.ehlo = []string{"STARTTLS", "PIPELINING", "CHUNKING"}
		h.cert, _ = certificate(t, "mx.x")
		a := mxAgent(t, chunking, h)
		v := deliver(t, a, mxJob("a@x"))[0]
		require.Equal(t, queue.Delivered, v.Outcome)
		require.NotEmpty(t, v.TLS)
		require.Equal(t, queue.Failed, deliver(t, a, mxJob("a@x"))[0].Outcome)
	})
}

// A reply too many before or inside TLS defers. It does not make the next message
// go in clear.
func TestStrayAroundTLS(t *testing.T) {
	for step, stray := range map[string]string{"EHLO": "250 ok", "TLS EHLO": "250 hop.example\n250 ok"} {
		h := newHop(t, nil)
		h.ehlo = append(h.ehlo, "STARTTLS")
		h.cert, _ = certificate(t, "mx.x")
		if step == "EHLO" {
			stray = h.hello(false) + "\n" + stray
		}
		h.strays = map[string]string{step: stray}
		a := mxAgent(t, Config{}, h)
		v := deliver(t, a, mxJob("a@x"))[0]
		require.Equal(t, queue.Deferred, v.Outcome, "%s: %s", step, v.Reply)
		require.Contains(t, v.Reply, "no command accounts for")
		v = deliver(t, a, mxJob("a@x"))[0]
		require.Equal(t, queue.Delivered, v.Outcome, v.Reply)
		require.NotEmpty(t, v.TLS, step)
		conns, _ := h.count()
		require.Equal(t, 2, conns)
	}
}

// Octets that come in on an idle connection end it, and the message goes over a fresh
// one in the same attempt, in clear and inside TLS.
func TestStrayOnIdleConnection(t *testing.T) {
	for _, secure := range []bool{false, true} {
		for _, what := range []string{"421 4.4.2 idle for too long", "250 2.0.0 Ok"} {
			h := newHop(t, map[string]string{"DOT": "250 2.0.0 Ok: queued\n" + what + "|250 2.0.0 Ok: queued"})
			h.late = make(chan struct{})
			if secure {
				h.ehlo = append(h.ehlo, "STARTTLS")
				h.cert, _ = certificate(t, "mx.x")
			}
			a := mxAgent(t, Config{}, h)
			require.Equal(t, queue.Delivered, deliver(t, a, mxJob("a@x"))[0].Outcome)
			close(h.late)
			<-h.came
			v := deliver(t, a, mxJob("a@x"))[0]
			require.Equal(t, queue.Delivered, v.Outcome, v.Reply)
			conns, bodies := h.count()
			require.Equal(t, 2, conns)
			require.Equal(t, 2, bodies)
		}
	}
}

// Each recipient that got 4xx goes on to the next host in the same attempt.
func TestBackupMX(t *testing.T) {
	later := "451 4.3.0 Temporary lookup failure"
	for name, c := range map[string]struct {
		first, second map[string]string
		want          []queue.Outcome
		at            string // hosts, by the last octet of their addresses
		reply         string // of the last
	}{
		"all": {map[string]string{"RCPT": later}, nil, []queue.Outcome{queue.Delivered, queue.Delivered, queue.Delivered},
			"333", "250 2.0.0 Ok: queued"},
		"mixed": {map[string]string{"RCPT": "250 ok|550 5.1.1 no|" + later}, nil,
			[]queue.Outcome{queue.Delivered, queue.Failed, queue.Delivered}, "223", "250 2.0.0 Ok: queued"},
		"different": {map[string]string{"RCPT": later + "|450 4.2.1 busy|" + later},
			map[string]string{"RCPT": "550 5.1.1 no|250 ok|450 4.2.0 greylisted"},
			[]queue.Outcome{queue.Failed, queue.Delivered, queue.Deferred}, "333", "450 4.2.0 greylisted"},
		"to MAIL": {map[string]string{"MAIL": later}, nil,
			[]queue.Outcome{queue.Delivered, queue.Delivered, queue.Delivered}, "333", "250 2.0.0 Ok: queued"},
		"to DATA": {map[string]string{"RCPT": "250 ok|250 ok|550 5.1.1 no", "DATA": later}, nil,
			[]queue.Outcome{queue.Delivered, queue.Delivered, queue.Failed}, "332", "550 5.1.1 no"},
		"to the dot": {map[string]string{"RCPT": "250 ok|250 ok|" + later, "DOT": later}, nil,
			[]queue.Outcome{queue.Delivered, queue.Delivered, queue.Delivered}, "333", "250 2.0.0 Ok: queued"},
		"and nothing": {map[string]string{"RCPT": later}, map[string]string{"CONNECT": drop},
			[]queue.Outcome{queue.Deferred, queue.Deferred, queue.Deferred}, "222", later},
		"and no": {map[string]string{"RCPT": later}, map[string]string{"RCPT": "550 5.1.1 no"},
			[]queue.Outcome{queue.Failed, queue.Failed, queue.Failed}, "333", "550 5.1.1 no"},
	} {
		for _, ehlo := range [][]string{{"PIPELINING", "CHUNKING"}, nil} {
			t.Run(fmt.Sprint(name, ehlo), func(t *testing.T) {
				one, two := twoHops(t, c.first, c.second)
				one.ehlo, two.ehlo = ehlo, ehlo
				v := deliver(t, mxOf(t, Config{}, one.port(), mx23...), xJob("a@x.example", "b@x.example", "c@x.example"))
				require.Equal(t, c.want, outcomes(v))
				for i := range v {
					require.Contains(t, v[i].Host, "[127.0.0."+c.at[i:i+1]+"]", v[i].Reply)
					require.False(t, v[i].NextHop)
				}
				require.Equal(t, c.reply, v[len(v)-1].Reply)
			})
		}
	}
}

// A message that needs something the first MX host lacks goes to another one that may
// have it. It is returned where all lack it, and waits where one that may have it is
// away.
func TestNextHostForWhatOneLacks(t *testing.T) {
	for name, c := range map[string]struct {
		to   string
		need func(*queue.Job)
		has  string
		code string
	}{
		"an address":  {"jä@x.example", func(*queue.Job) {}, "SMTPUTF8", "5.6.7"},
		"the sender":  {"a@x.example", func(j *queue.Job) { j.Sender = "ä@example.net" }, "SMTPUTF8", "5.6.7"},
		"binary mail": {"a@x.example", func(j *queue.Job) { j.Binary = true }, "BINARYMIME", "5.6.3"},
		"size":        {"a@x.example", func(j *queue.Job) { j.Size = 2_000_000 }, "SIZE 0", "5.3.4"},
		"a time": {"a@x.example", func(j *queue.Job) {
			j.DeliverBy = &queue.DeliverBy{Until: time.Now().Add(time.Hour), Return: true}
		}, "DELIVERBY", "5.3.3"},
	} {
		t.Run(name, func(t *testing.T) {
			one, two := twoHops(t, nil, nil)
			one.ehlo = []string{"8BITMIME", "CHUNKING", "SIZE 1000000"}
			two.ehlo = []string{"8BITMIME", "CHUNKING", c.has}
			a := mxOf(t, Config{Sessions: 1}, one.port(), mx23...)
			send := func(to ...string) []queue.Verdict {
				j := xJob(to...)
				c.need(j)
				return deliver(t, a, j)
			}
			v := send(c.to)[0]
			require.Equal(t, queue.Delivered, v.Outcome, v.Reply)
			require.Contains(t, v.Host, "127.0.0.3")
			require.NotContains(t, one.said(), "MAIL", "nothing was begun there")
			if name == "an address" {
				v := send("a@x.example", c.to)
				require.Equal(t, []queue.Outcome{queue.Delivered, queue.Delivered}[:1], outcomes(v)[:1])
				require.NotEqual(t, queue.Failed, v[1].Outcome, "the second host was not asked in this attempt")
			}
			a.pool.flush()
			two.ehlo = one.ehlo
			v = send(c.to)[0]
			require.Equal(t, queue.Failed, v.Outcome, v.Reply)
			require.True(t, strings.HasPrefix(v.Reply, c.code+" "), v.Reply)
			a.pool.flush()
			two.l.Close()
			v = send(c.to)[0]
			require.Equal(t, queue.Deferred, v.Outcome, v.Reply)
		})
	}
}

func TestSessionsOfOneAttempt(t *testing.T) {
	for limit, want := range map[int]int{0: 2, 1: 1, 3: 3, -1: 4} {
		hops := []*nextHop{newHopAt(t, porttest.Addr(t, "127.0.0.2"), map[string]string{"RCPT": "451 4.3.0 later"})}
		hosts := [][]string{{"127.0.0.99"}, {"127.0.0.2"}} // nobody is at the first, and that counts for nothing
		for i := 3; i <= 5; i++ {
			at := fmt.Sprintf("127.0.0.%d", i)
			hosts = append(hosts, []string{at})
			hops = append(hops,
				newHopAt(t, fmt.Sprintf("%s:%d", at, hops[0].port()), map[string]string{"RCPT": "451 4.3.0 later"}))
		}
		deliver(t, mxOf(t, Config{Sessions: limit}, hops[0].port(), hosts...), xJob("a@x.example", "b@x.example"))
		n := 0
		for _, h := range hops {
			conns, _ := h.count()
			n += conns
		}
		require.Equal(t, want, n, "limit %d", limit)
	}
}

// The first host is asked whatever the time, a further one only before Patience is over.
func TestPatienceEndsTheSearchForHosts(t *testing.T) {
	for patience, want := range map[time.Duration]queue.Outcome{
		time.Nanosecond: queue.Deferred, time.Hour: queue.Delivered,
	} {
		one, two := twoHops(t, map[string]string{"RCPT": "451 4.3.0 later"}, nil)
		v := deliver(t, mxOf(t, Config{Patience: patience}, one.port(), mx23...), xJob("a@x.example"))
		require.Equal(t, []queue.Outcome{want}, outcomes(v), "patience %s", patience)
		asked, _ := one.count()
		require.Equal(t, 1, asked, "the first host, patience %s", patience)
		asked, _ = two.count()
		require.Equal(t, want == queue.Delivered, asked > 0, "the second host, patience %s", patience)
	}
}

func TestOtherHostsComeBeforeOtherAddresses(t *testing.T) {
	one, two := twoHops(t, map[string]string{"RCPT": "451 4.3.0 later"}, nil)
	third := newHopAt(t, fmt.Sprintf("127.0.0.4:%d", one.port()), map[string]string{"RCPT": "451 4.3.0 later"})
	a := mxOf(t, Config{}, one.port(), []string{"127.0.0.2", "127.0.0.4"}, []string{"127.0.0.3"})
	v := deliver(t, a, xJob("a@x.example", "b@x.example"))
	require.Equal(t, []queue.Outcome{queue.Delivered, queue.Delivered}, outcomes(v))
	x, _ := one.count()
	y, _ := third.count()
	require.Equal(t, 1, x+y)
	_, bodies := two.count()
	require.Equal(t, 1, bodies)
}

func TestPassingTLSTroubleBouncesNothing(t *testing.T) {
	secret := "530 5.7.0 Must issue a STARTTLS command first"
	tlsHop := func(say map[string]string) *nextHop {
		h := newHop(t, say)
		h.ehlo = append(h.ehlo, "STARTTLS")
		h.cert, _ = certificate(t, "mx.x")
		return h
	}
	for step, say := range map[string]map[string]string{
		"a handshake, MAIL": {"HANDSHAKE": drop + "|", "MAIL": secret + "|250 ok"},
		"a handshake, RCPT": {"HANDSHAKE": drop + "|", "RCPT": "550 5.7.1 no|250 ok"},
		"a handshake, DATA": {"HANDSHAKE": drop + "|", "DATA": "554 5.7.0 no|554 5.7.0 no|354 go"},
		"454, MAIL":         {"STARTTLS": "454 4.7.0 TLS not available|220 go", "MAIL": secret + "|250 ok"},
		"454, RCPT":         {"STARTTLS": "454 4.7.0 TLS not available|220 go", "RCPT": "550 5.7.1 no|250 ok"},
	} {
		t.Run(step, func(t *testing.T) {
			h := tlsHop(say)
			a := mxAgent(t, Config{}, h)
			v := deliver(t, a, mxJob("a@x"))[0]
			require.Equal(t, queue.Deferred, v.Outcome, v.Reply)
			require.Regexp(t, "^5[35]", v.Reply)
			v = deliver(t, a, mxJob("a@x"))[0]
			require.Equal(t, queue.Delivered, v.Outcome, v.Reply)
			require.NotEmpty(t, v.TLS)
		})
	}
	t.Run("no STARTTLS any more", func(t *testing.T) {
		h := tlsHop(nil)
		a := mxAgent(t, Config{}, h)
		require.NotEmpty(t, deliver(t, a, mxJob("a@x"))[0].TLS)
		a.pool.flush()
		h.script("EHLO", "250 hop.example")
		h.script("RCPT", "550 5.7.1 no")
		for range 3 { // other messages, and next attempts
			require.Equal(t, queue.Deferred, deliver(t, a, mxJob("a@x"))[0].Outcome, "it had it a moment ago")
		}
		a.offered = newRecent(time.Hour, 10) // a day later
		require.Equal(t, queue.Failed, deliver(t, a, mxJob("a@x"))[0].Outcome, "it is gone for good")
	})
	t.Run("no STARTTLS for some minutes", func(t *testing.T) {
		h := tlsHop(nil)
		a := mxAgent(t, Config{}, h)
		require.NotEmpty(t, deliver(t, a, mxJob("a@x"))[0].TLS)
		a.pool.flush()
		offers := h.ehlo
		h.ehlo = slices.DeleteFunc(slices.Clone(offers), func(s string) bool { return s == "STARTTLS" })
		h.script("MAIL", secret)
		for range 3 {
			require.Equal(t, queue.Deferred, deliver(t, a, mxJob("a@x"))[0].Outcome)
		}
		h.script("MAIL", "250 ok")
		h.ehlo = offers
		v := deliver(t, a, mxJob("a@x"))[0]
		require.Equal(t, queue.Delivered, v.Outcome, v.Reply)
		require.NotEmpty(t, v.TLS)
	})
	t.Run("the dot counts", func(t *testing.T) {
		h := tlsHop(map[string]string{"HANDSHAKE": drop, "DOT": "554 5.6.0 no"})
		require.Equal(t, queue.Failed, deliver(t, mxAgent(t, Config{}, h), mxJob("a@x"))[0].Outcome)
	})
	t.Run("without TLS by configuration", func(t *testing.T) {
		h := tlsHop(map[string]string{"MAIL": secret + "|250 ok", "RCPT": "550 5.1.1 no"})
		a := mxAgent(t, Config{TLS: Off}, h)
		require.Equal(t, queue.Deferred, deliver(t, a, mxJob("a@x"))[0].Outcome)
		require.Equal(t, queue.Failed, deliver(t, a, mxJob("a@x"))[0].Outcome)
	})
}

func TestEHLORefusedInsideTLS(t *testing.T) {
	one, two := twoHops(t, map[string]string{
		"TLS EHLO": "550 5.0.0 no", "HELO": "550 5.0.0 no", "MAIL": "503 5.5.1 EHLO first",
	}, nil)
	one.ehlo = append(one.ehlo, "STARTTLS")
	one.cert, _ = certificate(t, "mx.x")
	a := mxOf(t, Config{}, one.port(), mx23...)
	for range 2 {
		v := deliver(t, a, xJob("a@x.example"))[0]
		require.Equal(t, queue.Delivered, v.Outcome, v.Reply)
		require.Contains(t, v.Host, "127.0.0.3")
	}
	require.NotContains(t, one.said(), "MAIL")
	two.l.Close()
	a.pool.flush()
	v := deliver(t, a, xJob("a@x.example"))[0]
	require.Equal(t, queue.Deferred, v.Outcome, v.Reply)
}

func TestMailRefusedOnAUsedConnection(t *testing.T) {
	for _, no := range []string{
		"550 5.7.1 one message only", "451 4.5.0 one message only", "503 5.5.1 sender already given",
	} {
		for _, ehlo := range [][]string{{"PIPELINING"}, nil} {
			h := newHop(t, map[string]string{"MAIL": "250 ok|" + no + "|250 ok"})
			h.ehlo = ehlo
			a := newAgent(t, Config{})
			for range 2 {
				v := deliver(t, a, job(h, "a@x"))[0]
				require.Equal(t, queue.Delivered, v.Outcome, v.Reply)
			}
			conns, _ := h.count()
			require.Equal(t, 2, conns)
			h.script("MAIL", no)
			v := deliver(t, a, job(h, "a@x"))[0]
			require.Equal(t, no, v.Reply)
			require.Equal(t, no[0] == '5', v.Outcome == queue.Failed)
		}
	}
	// The same in one attempt of two transactions.
	h := newHop(t, map[string]string{"MAIL": "250 ok|550 5.7.1 one message only|250 ok"})
	h.ehlo = append(h.ehlo, "LIMITS RCPTMAX=1")
	v := deliver(t, newAgent(t, Config{}), job(h, "a@x", "b@x"))
	require.Equal(t, []queue.Outcome{queue.Delivered, queue.Delivered}, outcomes(v))
}

func TestTooManyRecipientsBy552(t *testing.T) {
	for _, no := range []string{
		"552 too many recipients", "552 5.5.3 too many", "552 5.0.0 Requested action aborted",
		"552 5.7.1 Too many recipients", "552 5.5.0 limit", "452 4.5.3 later",
	} {
		for _, ehlo := range [][]string{{"PIPELINING"}, nil} {
			h := newHop(t, map[string]string{"RCPT": "250 ok|250 ok|" + no + "|" + no + "|250 ok|250 ok"})
			h.ehlo = ehlo
			v := deliver(t, newAgent(t, Config{}), job(h, "a@x", "b@x", "c@x", "d@x"))
			require.Equal(t, []queue.Outcome{
				queue.Delivered, queue.Delivered, queue.Delivered, queue.Delivered,
			}, outcomes(v), no)
			_, bodies := h.count()
			require.Equal(t, 2, bodies)

			h = newHop(t, map[string]string{"RCPT": "250 ok|" + no, "DOT": "451 4.3.0 later"})
			h.ehlo = ehlo
			v = deliver(t, newAgent(t, Config{}), job(h, "a@x", "b@x"))
			require.Equal(t, []queue.Outcome{queue.Deferred, queue.Deferred}, outcomes(v), "others were taken at RCPT")
		}
	}
	h := newHop(t, map[string]string{"RCPT": "552 5.5.3 too many|250 ok|552 5.2.2 mailbox full"})
	v := deliver(t, newAgent(t, Config{}), job(h, "a@x", "b@x", "c@x"))
	require.Equal(t, []queue.Outcome{queue.Failed, queue.Delivered, queue.Failed}, outcomes(v),
		"none before it; a mailbox of its own")
}

// However odd the reply to a message looks, it is one.
func TestOddRepliesAreReplies(t *testing.T) {
	for reply, want := range map[string]queue.Outcome{
		"250\t2.0.0 ok":                             queue.Delivered,
		"250-2.0.0 a\n451 4.3.0 b":                  queue.Deferred,
		"451-4.3.0 a\n250 2.0.0 b":                  queue.Delivered,
		"250 2.0.0 " + strings.Repeat("x", 100_000): queue.Delivered,
		"552 5.3.4 " + strings.Repeat("x", 10_000):  queue.Failed,
	} {
		h := newHop(t, map[string]string{"DOT": reply})
		v := deliver(t, newAgent(t, Config{}), job(h, "a@x"))[0]
		require.Equal(t, want, v.Outcome, "%.30q", reply)
		require.NotContains(t, v.Reply, "may have been")
	}
}

// The last line of the reply to the end of a message counts, whatever form the reply
// has, and lines in front that are no replies shift nothing: nobody gets the message
// again for them.
func TestFormsOfReplies(t *testing.T) {
	t.Parallel()
	for reply, want := range map[string]queue.Outcome{
		"250": queue.Delivered, "250 ": queue.Delivered, "250\t": queue.Delivered, "250-": queue.Deferred,
		"250-\n250": queue.Delivered, "250-a\n251 b": queue.Delivered, "251-a\n250\tb": queue.Delivered,
		"250-2.0.0 a\n552 5.3.4 b": queue.Failed, "552-5.3.4 a\n250 b": queue.Delivered, "250-a\n451": queue.Deferred,
		"550-5.7.1 a\n550-\n550 5.7.1 c": queue.Failed, "250 \xff\xfe\x00\x1b[2J": queue.Delivered,
		"550 " + strings.Repeat("\xc3\xbc", 2000): queue.Failed, "250 5.1.1 x": queue.Delivered, "550 2.0.0 x": queue.Failed,
		"\n250 2.0.0 ok": queue.Delivered, "* queued\n250 ok": queue.Delivered,
		// with a blank in front it is no reply
		" 250 ok": queue.Deferred, " 250 messages wait\n552 5.3.4 too big": queue.Failed,
		"queue runs\n\n452 4.3.1 full": queue.Deferred, "OK\n552 5.3.4 too big": queue.Failed,
		"250-" + strings.Repeat("x", 3000) + "\n250 " + strings.Repeat("y", 3000): queue.Delivered,
		"299 fine": queue.Delivered, "421 4.3.2 bye": queue.Deferred, "250 ok\n421 4.3.2 bye": queue.Delivered,
		"499 hm": queue.Deferred, "599 hm": queue.Failed,
	} {
		for _, ehlo := range [][]string{{"PIPELINING", "CHUNKING"}, {}} {
			t.Run(fmt.Sprintf("%.20q %d", reply, len(ehlo)), func(t *testing.T) {
				t.Parallel()
				h := newHop(t, map[string]string{"DOT": reply})
				h.ehlo = ehlo
				unsaid := reply == "250-" || reply == " 250 ok"
				conf := Config{Client: patience(ifSilent(unsaid))}
				conf.Client.Chunking = true
				v := deliver(t, newAgent(t, conf), job(h, "a@x"))[0]
				require.Equal(t, want, v.Outcome, "%.60q: %s", reply, v.Reply)
				require.Equal(t, unsaid, strings.Contains(v.Reply, "may have been"), "%.60q: %s", reply, v.Reply)
				require.False(t, strings.ContainsAny(v.Reply, "\x00\x1b\r\n"), "%q", v.Reply)
			})
		}
	}
}

// TestHopsThatMisbehave: what hops do that know the protocol half. No message counts as taken
// that the hop did not take, none is returned that it did not refuse, and none goes out twice.
func TestHopsThatMisbehave(t *testing.T) {
	t.Parallel()
	const b, c = "RCPT TO:<b@x>", "RCPT TO:<c@x>"
	for name, one := range map[string]struct {
		say, ehlo string // steps with their replies, and extensions; empty: PIPELINING
		want      string // of a@x, b@x and c@x: + delivered, - failed, ? deferred
		got       int    // whole messages at the hop
	}{
		"354 without recipients":      {"RCPT=550 5.1.1 no;DATA=354 go", "", "---", 1}, // an empty one
		"354 without recipients, 4xx": {"RCPT=450 4.2.1 no;DATA=354 go", "", "???", 1},
		"354 to RCPT":                 {b + "=354 go", "", "+?+", 1},
		"1xx to RCPT":                 {b + "=150 wait", "", "???", 0},
		"251 and 252":                 {b + "=251 2.1.5 on;" + c + "=252 2.1.5 perhaps", "", "+++", 1},
		"a yes with a code of no":     {b + "=250 5.1.1 no such user", "", "+++", 1},
		"4xx to DATA":                 {b + "=550 5.1.1 no;DATA=451 4.3.0 later", "", "?-?", 0},
		"503 to DATA":                 {b + "=450 4.2.1 busy;DATA=503 5.5.1 what?", "", "-?-", 0},
		"the end before the text":     {"DATA=354 go\n250 2.0.0 queued", "", "???", 0},
		"421 in the flight":           {b + "=421 4.3.2 bye", "", "???", 0},
		"421 of two lines":            {"MAIL=421-4.3.2 bye\n421 4.3.2 bye", "", "???", 0},
		"421 to the message":          {"DOT=421 4.3.2 bye", "", "???", 1},
		"354 to a chunk":              {"DOT=354 go", "CHUNKING", "???", 1},
		"503 to the last chunk":       {"DOT=503 5.5.1 what?", "CHUNKING,PIPELINING", "---", 1},
		"a limit of none":             {"", "LIMITS RCPTMAX=0 MAILMAX=0,SIZE 0", "+++", 1},
		"limits that are none":        {"", "LIMITS RCPTMAX=-1 MAILMAX=x RCPTMAX,SIZE big,SIZE", "+++", 1},
		"a size beyond all":           {"", "SIZE 99999999999999999999999", "+++", 1},
		"a limit of one":              {"", "PIPELINING,limits rcptmax=1", "+++", 3},
		"extensions in odd forms":     {"", "pipelining\textra, ,X=Y,8bitmime ,auth=LOGIN", "+++", 1},
		"EHLO with another code":      {"EHLO=220-hop\n220 PIPELINING", "", "???", 0},
		"HELO alone":                  {"EHLO=502 5.5.1 what?", "", "+++", 1},
		"a greeting of another":       {"CONNECT=250 hop", "", "???", 0},
		"552 to the first":            {"RCPT TO:<a@x>=552 5.2.2 mailbox full", "", "-++", 1},
		"552 for ever":                {"RCPT TO:<a@x>=250 ok;RCPT=552 too many recipients", "", "+??", 1},
		"LMTP: one reply for all":     {"DOT=250 one|" + drop, "LMTP", "+??", 1},
		"LMTP: one too many":          {"DOT=250 one|250 two|552 5.2.2 full\n250 four", "LMTP", "???", 1},
		"LMTP: each its own":          {"DOT=250 one|452 4.2.2 full|550 5.2.0 no", "LMTP", "+?-", 1},
		"LMTP: 421 for the second":    {"DOT=250 one|421 4.3.2 bye", "LMTP", "+??", 1},
	} {
		t.Run(name, func(t *testing.T) {
			say := map[string]string{}
			for step := range strings.SplitSeq(one.say, ";") {
				verb, replies, _ := strings.Cut(step, "=")
				say[verb] = replies
			}
			h := newHop(t, say)
			if h.lmtp = one.ehlo == "LMTP"; one.ehlo != "" {
				h.ehlo = strings.Split(one.ehlo, ",")
			}
			conf := Config{Client: patience(ifSilent(false))}
			conf.Client.Chunking = true
			var got strings.Builder
			verdicts := deliver(t, newAgent(t, conf), job(h, "a@x", "b@x", "c@x"))
			for _, v := range verdicts {
				got.WriteString(map[queue.Outcome]string{queue.Delivered: "+", queue.Failed: "-", queue.Deferred: "?"}[v.Outcome])
			}
			require.Equal(t, one.want, got.String(), "%+v", verdicts)
			_, bodies := h.count()
			require.Equal(t, one.got, bodies, verdicts[0].Reply)
		})
	}
}

// No MX host and no address literal leads to this host; a route may.
func TestLoopsAreNotDialled(t *testing.T) {
	h := newHop(t, nil)
	zone := map[string][]string{"us.example. MX": {"us.example. 60 IN MX 10 Relay.Example.COM."},
		"late.example. MX":  {"late.example. 60 IN MX 10 a.late.example.", "late.example. 60 IN MX 20 b.late.example."},
		"a.late.example. A": {"a.late.example. 60 IN A 127.0.0.1"},
		"b.late.example. A": {"b.late.example. 60 IN A 192.0.2.1"}}
	list := []string{"[127.0.0.1]", "[127.9.8.7]", "[0.0.0.0]", "[0.1.2.3]", "[IPv6:::1]", "[IPv6:::]",
		"[IPv6:::ffff:127.0.0.3]", "[IPv6:::ffff:0:1]",
		"[IPv6:::127.0.0.1]", "[IPv6:64:ff9b:1::7f00:1]", "[IPv6:64:ff9b:1:abcd::192.0.2.77]",
		"[IPv6:::ffff:0:127.0.0.1]", "[IPv6:0:0:0:0:ffff:0:c000:24d]", "[IPv6:64:ff9b::7f00:1]",
		"[IPv6:2002:7f00:1::]", "[192.0.2.77]", "[IPv6:::ffff:192.0.2.77]",
		"[IPv6:2001:db8::77]", "us.example", "late.example"}
	for i, a := range []string{"A 127.0.0.2", "A 0.0.0.0", "A 0.0.0.7", "AAAA ::1", "AAAA ::", "AAAA ::ffff:127.0.0.3",
		"A 192.0.2.77", "AAAA 2001:db8::77"} {
		kind, addr, _ := strings.Cut(a, " ")
		domain, mx := fmt.Sprintf("d%d.example.", i), fmt.Sprintf("mx.d%d.example.", i)
		zone[domain+" MX"] = []string{domain + " 60 IN MX 5 " + mx}
		zone[mx+" "+kind] = []string{mx + " 60 IN " + kind + " " + addr}
		zone["bare"+domain+" "+kind] = []string{"bare" + domain + " 60 IN " + kind + " " + addr}
		list = append(list, strings.TrimSuffix(domain, "."), strings.TrimSuffix("bare"+domain, "."))
	}
	s := newNameServer(t, zone)
	own := []netip.Addr{netip.MustParseAddr("192.0.2.77"), netip.MustParseAddr("2001:db8::77")}
	a := newAgent(t, Config{Port: h.port(), Resolver: resolver(t, s.addr), Own: own})
	for _, domain := range list {
		j := jobTo("", "a@"+domain)
		j.Domain = domain
		v := deliver(t, a, j)[0]
		require.Equal(t, queue.Failed, v.Outcome, "%s: %s", domain, v.Reply)
		require.Contains(t, v.Reply, "5.4.6", domain)
	}
	conns, _ := h.count()
	require.Zero(t, conns)
	require.Equal(t, queue.Delivered, deliver(t, a, job(h, "a@x"))[0].Outcome, "the operator may")
}

// An alias leads to this host as its target does, whether that has an address that
// is known here or not. Operators' routes go where they say.
func TestAliasesOfThisHost(t *testing.T) {
	h := newHop(t, nil)
	zone := map[string][]string{
		"far.example. A":            {"far.example. 60 IN A 203.0.113.9"},
		"relay.example.com. A":      {"relay.example.com. 60 IN A 203.0.113.7"}, // what others see of us
		"loop.example. A":           {"loop.example. 60 IN A 127.0.0.5"},
		"none.relay.example. CNAME": {"none.relay.example. 60 IN CNAME helo.example."}, // which has no address
	}
	to := func(domain, mx string) {
		zone[domain+" MX"] = append(zone[domain+" MX"], domain+" 60 IN MX "+mx)
	}
	alias := func(name, target string) { zone[name+" CNAME"] = []string{name + " 60 IN CNAME " + target} }
	alias("one.x.example.", "relay.example.com.")
	alias("two.x.example.", "middle.example.")
	alias("middle.example.", "RELAY.example.com.")
	alias("three.x.example.", "loop.example.")
	alias("four.x.example.", "localhost.")
	alias("five.x.example.", "mail.localhost.")
	alias("here.example.", "localhost.example.")
	zone["localhost.example. A"] = []string{"localhost.example. 60 IN A 127.0.0.1"}
	alias("bare.example.", "relay.example.com.")
	for i, mx := range []string{"10 one.x.example.", "10 two.x.example.", "10 three.x.example.", "10 four.x.example.",
		"10 five.x.example.",
		"10 none.relay.example.", "10 localhost.", "10 mail.localhost.", "10 LocalHost."} {
		domain := fmt.Sprintf("m%d.example.", i)
		to(domain, mx)
		to(domain, "20 far.example.")
	}
	r := resolver(t, newNameServer(t, zone).addr)
	for _, fixed := range [][]netip.Addr{nil, addr("192.0.2.77")} {
		a := newAgent(t, Config{Helo: "helo.example", Port: h.port(), Resolver: r, Own: fixed})
		list := []string{
			"bare.example", "[::ffff:127.0.0.1]", "[IPv6:::ffff:127.0.0.1]", "[0.255.0.1]", "[IPv6:::ffff:0.9.9.9]",
		}
		for i := range 9 {
			list = append(list, fmt.Sprintf("m%d.example", i))
		}
		for _, domain := range list {
			j := jobTo("", "a@"+domain)
			j.Domain = domain
			v := deliver(t, a, j)[0]
			require.Equal(t, queue.Failed, v.Outcome, "%s: %s", domain, v.Reply)
			require.Contains(t, v.Reply, "5.4.6", domain)
		}
		for _, host := range []string{"localhost", "127.0.0.1", "here.example"} {
			require.Equal(t, queue.Delivered,
				deliver(t, a, jobTo(fmt.Sprintf("smtp:%s:%d", host, h.port()), "a@x"))[0].Outcome, host)
		}
	}
	// A better host than ours is still asked.
	zone = maps.Clone(zone) // the other server may be asked yet
	to("better.example.", "5 far.example.")
	to("better.example.", "10 one.x.example.")
	a := newAgent(t, Config{Resolver: resolver(t, newNameServer(t, zone).addr)})
	hops, f := a.mxHops(t.Context(), "better.example")
	require.Nil(t, f)
	require.Len(t, hops, 1)
	require.Equal(t, "far.example", hops[0].name)
}

func TestOwnAddressesAreKnownOrNothingGoes(t *testing.T) {
	h := newHop(t, nil)
	a := mxAgent(t, Config{}, h)
	synctest.Test(t, func(t *testing.T) {
		o := &ownAddresses{read: func() ([]net.Addr, error) { return nil, errors.New("address family not supported") }}
		_, err := o.addresses()
		require.ErrorContains(t, err, "AF_NETLINK")
		n := 0
		o.read = func() ([]net.Addr, error) {
			n++
			return []net.Addr{&net.IPNet{IP: net.IPv4(192, 0, 2, byte(n))}}, nil
		}
		for i := 1; i < 3; i++ {
			time.Sleep(ownRefresh + time.Second)
			for range 3 {
				all, err := o.addresses()
				require.NoError(t, err)
				require.Equal(t, []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})}, all)
			}
		}
	})
	read := 0
	a.own.read = func() ([]net.Addr, error) { read++; return nil, errors.New("address family not supported") }
	for range 100 {
		_, err := a.OwnAddresses()
		require.ErrorContains(t, err, "AF_NETLINK")
	}
	require.Equal(t, 1, read)
	for _, domain := range []string{"x", "[192.0.2.1]"} {
		j := mxJob("a@x")
		j.Domain = domain
		v := deliver(t, a, j)[0]
		require.Equal(t, queue.Deferred, v.Outcome)
		require.Contains(t, v.Reply, "AF_NETLINK")
	}
	require.Equal(t, queue.Delivered, deliver(t, a, job(h, "a@x"))[0].Outcome, "a route needs no such knowledge")
}

func TestDeadAddressesHideNoBackup(t *testing.T) {
	h := newHopAt(t, porttest.Addr(t, "127.0.0.2"), nil)
	var many []string
	zone := map[string][]string{
		"y.example. MX":     {"y.example. 60 IN MX 20 good.y.example."},
		"good.y.example. A": {"good.y.example. 60 IN A 127.0.0.2"},
	}
	for i := range 25 {
		addr := fmt.Sprintf("127.0.7.%d", i+1)
		if i < 14 {
			many = append(many, addr)
		}
		name := fmt.Sprintf("mx%d.y.example.", i)
		zone["y.example. MX"] = append(zone["y.example. MX"], "y.example. 60 IN MX 10 "+name)
		zone[name+" A"] = []string{name + " 60 IN A " + addr}
	}
	v := deliver(t, mxOf(t, Config{}, h.port(), many, []string{"127.0.0.2"}), xJob("a@x.example"))[0]
	require.Equal(t, queue.Delivered, v.Outcome, v.Reply)

	a := newAgent(t, Config{Port: h.port(), LoopbackHops: true, Resolver: resolver(t, newNameServer(t, zone).addr)})
	hops, f := a.mxHops(t.Context(), "y.example")
	require.Nil(t, f)
	require.Len(t, hops, maxAddresses)
	require.Equal(t, "good.y.example", hops[maxAddresses-1].name)
}

// Hosts behind more preferences than there are places get their turn in some attempt.
func TestManyPreferencesHideNoBackup(t *testing.T) {
	n := names{mx: map[string][]Record{}, addrs: map[string][]netip.Addr{}}
	for i := range 25 {
		name := fmt.Sprintf("mx%02d.x.example", i)
		n.mx["x.example"] = append(n.mx["x.example"], Record{Host: name, Preference: uint16(10 * i)})
		n.addrs[name] = addr(fmt.Sprintf("192.0.2.%d", 1+i))
	}
	a := newAgent(t, Config{Resolver: n, Own: addr("198.51.100.1")})
	met := map[string]bool{}
	for range 2000 {
		hops, f := a.mxHops(t.Context(), "x.example")
		require.Nil(t, f)
		require.Len(t, hops, maxAddresses)
		for i, h := range hops {
			met[h.name] = true
			if i < maxAddresses-1 {
				require.Equal(t, fmt.Sprintf("mx%02d.x.example", i), h.name)
			}
		}
	}
	require.Len(t, met, 25)
}

func TestStalledPipelineGoesStepwise(t *testing.T) {
	for _, what := range []string{hang, drop} {
		h := newHop(t, map[string]string{"RCPT": what + "|250 ok"})
		a := newAgent(t, Config{Client: patience(ifSilent(what == hang))})
		require.Equal(t, queue.Deferred, deliver(t, a, job(h, "a@x"))[0].Outcome)
		require.Empty(t, a.without(key{hop: hop{name: "another"}}))
		j := job(h, "a@x")
		hops, _ := a.find(t.Context(), j, newDelivery(a, j))
		require.Equal(t, []string{"PIPELINING"}, a.without(key{hop: hops[0]}))
		require.Equal(t, queue.Delivered, deliver(t, a, j)[0].Outcome)
	}
}

// keywords is a Router whose hops cannot do all that they announce.
type keywords struct{ router }

func (keywords) Link(string) Link { return Link{Without: "CHUNKING,DSN"} }

func TestHopSetByHandWithoutKeywords(t *testing.T) {
	h := newHop(t, nil)
	h.ehlo = append(h.ehlo, "CHUNKING", "DSN")
	conf := Config{Client: patience(30 * time.Second), Router: keywords{}}
	conf.Client.Chunking = true
	j := job(h, "a@x")
	j.EnvID = "id"
	require.Equal(t, queue.Delivered, deliver(t, newAgent(t, conf), j)[0].Outcome)
	require.NotContains(t, h.said(), "BDAT")
	require.NotContains(t, h.said(), "ENVID")
}

func TestRouteWithoutKeywords(t *testing.T) {
	h := newHop(t, nil)
	h.ehlo = append(h.ehlo, "CHUNKING", "DSN", "STARTTLS")
	conf := Config{Port: h.port(), Client: patience(30 * time.Second), Router: router(func(domain string) (Target, error) {
		lacks := map[string]string{"careful.example": "CHUNKING,DSN,STARTTLS"}[domain]
		return Target{Kind: SMTP, Host: "127.0.0.1", Link: Link{Without: lacks}}, nil
	})}
	conf.Client.Chunking = true
	a := newAgent(t, conf)
	h.cert, _ = certificate(t, "mx.x")
	for _, domain := range []string{"careful.example", "x.example", "careful.example"} {
		j := jobTo("", "a@"+domain)
		j.Domain, j.EnvID = domain, "id"
		v := deliver(t, a, j)[0]
		require.Equal(t, queue.Delivered, v.Outcome)
		require.Equal(t, domain == "x.example", v.TLS != "", domain)
	}
	said := h.said()
	require.Equal(t, 2, strings.Count(said, "DATA"))
	require.Equal(t, 1, strings.Count(said, "BDAT"))
	require.Equal(t, 1, strings.Count(said, "ENVID"))
	conns, _ := h.count()
	require.Equal(t, 2, conns, "a connection is shared only by those who see the same of it")
}
