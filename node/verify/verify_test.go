package verify

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/emersion/go-msgauth/dkim"
	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

var update = flag.Bool("update", false, "rewrite what the cases expect")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a Resolver that knows a zone. Names it is told to fail at are
// neither there nor not there; at those it is told to hang at it waits.
type world struct {
	zone        map[string][]dns.RR
	fail, hangs map[string]bool
	asked       chan string // where set, each question is told
}

func newWorld(t testing.TB, zone string) *world {
	t.Helper()
	w := &world{zone: map[string][]dns.RR{}, fail: map[string]bool{}, hangs: map[string]bool{}}
	var records strings.Builder
	for line := range strings.Lines(zone) {
		if name, ok := strings.CutPrefix(line, "FAIL "); ok {
			w.fail[strings.TrimSpace(name)] = true
			continue
		}
		records.WriteString(line)
	}
	p := dns.NewZoneParser(strings.NewReader(records.String()), ".", "zone")
	p.SetDefaultTTL(60)
	for rr, ok := p.Next(); ok; rr, ok = p.Next() {
		name := strings.ToLower(strings.TrimSuffix(rr.Header().Name, "."))
		w.zone[name] = append(w.zone[name], rr)
	}
	require.NoError(t, p.Err())
	return w
}

func find[T dns.RR](ctx context.Context, w *world, name string) ([]T, error) {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if w.asked != nil {
		w.asked <- name
	}
	switch {
	case w.hangs[name]:
		<-ctx.Done()
		return nil, ctx.Err()
	case w.fail[name]:
		return nil, errors.New("SERVFAIL")
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	var all []T
	for _, rr := range w.zone[name] {
		if one, ok := rr.(T); ok {
			all = append(all, one)
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, name)
	}
	return all, nil
}

func (w *world) TXT(ctx context.Context, name string) (out []string, err error) {
	all, err := find[*dns.TXT](ctx, w, name)
	for _, rr := range all {
		out = append(out, strings.Join(rr.Txt, ""))
	}
	return out, err
}

func (w *world) Hosts(ctx context.Context, domain string) (out []string, err error) {
	all, err := find[*dns.MX](ctx, w, domain)
	for _, rr := range all {
		out = append(out, strings.TrimSuffix(rr.Mx, "."))
	}
	return out, err
}

func (w *world) IPv4(ctx context.Context, name string) (out []netip.Addr, err error) {
	all, err := find[*dns.A](ctx, w, name)
	for _, rr := range all {
		a, _ := netip.AddrFromSlice(rr.A)
		out = append(out, a.Unmap())
	}
	return out, err
}

func (w *world) Addresses(ctx context.Context, host string) ([]netip.Addr, error) {
	return w.IPv4(ctx, host)
}

func (w *world) Names(ctx context.Context, a netip.Addr) (out []string, err error) {
	reverse, _ := dns.ReverseAddr(a.String())
	all, err := find[*dns.PTR](ctx, w, reverse)
	for _, rr := range all {
		out = append(out, strings.TrimSuffix(rr.Ptr, "."))
	}
	return out, err
}

// key is the signing key of all cases, and keyRecord its record.
func key() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)) }

func keyRecord() string {
	return "v=DKIM1; k=ed25519; p=" + base64.StdEncoding.EncodeToString(key().Public().(ed25519.PublicKey))
}

// signed puts a signature on a message.
func sign(t testing.TB, domain, message string) string {
	t.Helper()
	var out bytes.Buffer
	require.NoError(t, dkim.Sign(&out, strings.NewReader(message), &dkim.SignOptions{
		Domain: domain, Selector: "sel", Signer: key(), Hash: crypto.SHA256, HeaderKeys: []string{"From", "Subject"},
		HeaderCanonicalization: dkim.CanonicalizationRelaxed, BodyCanonicalization: dkim.CanonicalizationRelaxed,
	}))
	return out.String()
}

func crlf(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }

// verifyAll verifies a whole message, its body in pieces.
func verifyAll(t testing.TB, v *Verifier, c Client, message string) *Result {
	t.Helper()
	check := v.Begin(context.Background(), c)
	defer check.Close()
	head, body, _ := strings.Cut(message, "\r\n\r\n")
	check.Header([]byte(head + "\r\n"))
	for len(body) > 0 {
		n := min(len(body), 1000)
		_, err := check.Write([]byte(body[:n]))
		require.NoError(t, err)
		body = body[n:]
	}
	return check.End(context.Background())
}

// TestCases plays testdata/cases: each file says why it is there, what DNS
// says, who the client is, what the message is and who signs it, and what is to
// come out.
func TestCases(t *testing.T) {
	files, err := filepath.Glob("testdata/cases/*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			require.NoError(t, err)
			parts := sections(string(data))
			got := playCase(t, parts)
			if *update {
				input, _, _ := strings.Cut(string(data), "-- expected --\n")
				require.NoError(t, os.WriteFile(file, []byte(input+"-- expected --\n"+got), 0o644))
				return
			}
			require.Equal(t, parts["expected"], got)
		})
	}
}

func sections(text string) map[string]string {
	all, name := map[string]string{}, "why"
	for line := range strings.Lines(text) {
		if title, ok := strings.CutPrefix(strings.TrimSpace(line), "-- "); ok && strings.HasSuffix(title, " --") {
			name = strings.TrimSuffix(title, " --")
			continue
		}
		all[name] += line
	}
	return all
}

func playCase(t *testing.T, parts map[string]string) string {
	w := newWorld(t, parts["dns"])
	message := crlf(parts["message"])
	for _, domain := range strings.Fields(parts["sign"]) {
		message = sign(t, domain, message)
		name := "sel._domainkey." + domain
		if _, there := w.zone[name]; !there {
			w.zone[name] = []dns.RR{&dns.TXT{Txt: []string{keyRecord()}}}
		}
	}
	for change := range strings.Lines(parts["tamper"]) {
		old, with, _ := strings.Cut(strings.TrimSuffix(change, "\n"), " => ")
		require.Contains(t, message, old)
		message = strings.Replace(message, old, with, 1)
	}
	who := strings.Fields(parts["client"])
	c := Client{Address: netip.MustParseAddr(who[0]), Helo: who[1]}
	if len(who) > 2 {
		c.Sender = who[2]
	}
	v := &Verifier{Resolver: w, Timeout: 5 * time.Second, Draw: func(int) int { return 50 }}
	r := verifyAll(t, v, c, message)
	wish, domain := r.Wish()
	out := strings.Join(r.Results(), "\n") + "\n" + r.Summary() + "\n"
	for i := range r.DKIM { // it depends on the time of signing
		out = strings.ReplaceAll(out, r.DKIM[i].Tag, "TAG")
	}
	return out + strings.TrimSpace(fmt.Sprintf("%s %s",
		[...]string{"whatever", "refuse: dmarc", "refuse: spf", "unknown", "refuse: crowd"}[wish], domain)) + "\n"
}

// A body of any size goes by without being held.
func TestLargeBodyIsStreamed(t *testing.T) {
	line := strings.Repeat("x", 76) + "\r\n"
	const lines = 400_000 // 31 MB
	body := strings.Repeat(line, lines)
	w := newWorld(t, "")
	w.zone["sel._domainkey.example.org"] = []dns.RR{&dns.TXT{Txt: []string{keyRecord()}}}
	message := sign(t, "example.org", "From: a@example.org\r\nSubject: s\r\n\r\n"+body)
	head, _, _ := strings.Cut(message, "\r\n\r\n")
	head, message = strings.Clone(head), ""
	v := &Verifier{Resolver: w, Timeout: 5 * time.Second}
	check := v.Begin(t.Context(), Client{Address: netip.MustParseAddr("192.0.2.1")})
	defer check.Close()
	live := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before, most := live(), uint64(0)
	check.Header([]byte(head + "\r\n"))
	chunk := []byte(strings.Repeat(line, 1000))
	for i := range lines / 1000 {
		_, _ = check.Write(chunk)
		if i%100 == 99 {
			most = max(most, live())
		}
	}
	r := check.End(t.Context())
	require.Equal(t, Pass, r.DKIM[0].Outcome, "%s", r.DKIM[0])
	t.Logf("%d octets of body, %d octets held", len(body), int64(most)-int64(before))
	require.Less(t, most, before+(2<<20))
	runtime.KeepAlive(body)
}

// Name servers that do not answer hold a message up for a bounded time, and
// nothing that is known by then is lost.
func TestSilentNameServers(t *testing.T) {
	signed := sign(t, "example.org", "From: a@example.org\r\nSubject: s\r\n\r\ntext\r\n")
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, `example.net. TXT "v=spf1 -all"`)
		w.hangs["_dmarc.example.org"], w.hangs["sel._domainkey.example.org"] = true, true
		v := &Verifier{Resolver: w, Timeout: 8 * time.Second}
		began := time.Now()
		r := verifyAll(t, v, Client{Address: netip.MustParseAddr("192.0.2.1"), Sender: "a@example.net"}, signed)
		require.Equal(t, 8*time.Second, time.Since(began), "once")
		require.Equal(t, []Outcome{Fail, TempError, TempError},
			[]Outcome{r.SPF.Outcome, r.DKIM[0].Outcome, r.DMARC[0].Outcome})
		wish, _ := r.Wish()
		require.Equal(t, Unknown, wish)
	})
}

// A session that goes away takes everything with it, wherever it is.
func TestCloseAtAnyTime(t *testing.T) {
	signed := sign(t, "example.org", "From: a@example.org\r\nSubject: s\r\n\r\ntext\r\n")
	head, body, _ := strings.Cut(signed, "\r\n\r\n")
	for stop := range 4 {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, "")
			for _, name := range []string{"example.net", "_dmarc.example.org", "sel._domainkey.example.org"} {
				w.hangs[name] = true
			}
			v := &Verifier{Resolver: w, Timeout: time.Minute}
			began := time.Now()
			check := v.Begin(t.Context(), Client{Address: netip.MustParseAddr("192.0.2.1"), Sender: "a@example.net"})
			steps := []func(){
				func() { check.Header([]byte(head + "\r\n")) },
				func() {
					time.AfterFunc(time.Second, check.cancel)
					_, _ = check.Write([]byte(body))
				},
				func() { check.End(t.Context()) },
			}
			for _, step := range steps[:stop] {
				step()
			}
			check.Close()
			require.Less(t, time.Since(began), 2*time.Second)
		})
	}
}

func TestManySignatures(t *testing.T) {
	w := newWorld(t, "")
	message := "From: a@example.org\r\nSubject: s\r\n\r\ntext\r\n"
	for i := range maxSignatures + 3 {
		domain := fmt.Sprintf("d%d.example", i)
		message = sign(t, domain, message)
		w.zone["sel._domainkey."+domain] = []dns.RR{&dns.TXT{Txt: []string{keyRecord()}}}
	}
	v := &Verifier{Resolver: w, Timeout: 5 * time.Second}
	r := verifyAll(t, v, Client{}, message)
	require.Len(t, r.DKIM, maxSignatures)
	for _, s := range r.DKIM {
		require.Equal(t, Pass, s.Outcome, s.Domain)
	}
	for _, huge := range []string{
		strings.Repeat("X: y\r\n", maxFields), "X: " + strings.Repeat("\r\n y", maxSection/4) + "\r\n",
	} {
		began := time.Now()
		r = verifyAll(t, v, Client{}, huge+message)
		require.Equal(t, Neutral, r.DKIM[0].Outcome)
		require.Less(t, time.Since(began), 5*time.Second)
	}
}

func TestDrawnLots(t *testing.T) {
	draws := 0
	draw := func(int) int { draws++; return 30 }
	require.Equal(t, Reject, sampled(Reject, 100, draw))
	require.Zero(t, draws)
	require.Equal(t, Reject, sampled(Reject, 31, draw))
	require.Equal(t, Quarantine, sampled(Reject, 30, draw))
	require.Equal(t, Deliver, sampled(Quarantine, 0, draw))
}

func TestRecords(t *testing.T) {
	for text, want := range map[string]*record{
		"v=DMARC1; p=reject": {policy: Reject, below: Reject, percent: 100},
		"v=DMARC1;p=None;sp=QUARANTINE;adkim=s;aspf=s": {policy: Deliver, below: Quarantine, strictDKIM: true,
			strictSPF: true, percent: 100},
		"v=DMARC1; p=reject; pct=20; ri=x; rf=iodef; fo=": {policy: Reject, below: Reject, percent: 20},
		"v=DMARC1; p=reject; pct=200":                     {policy: Reject, below: Reject, percent: 100},
		"v=DMARC1; rua=mailto:a@example.org":              {policy: Deliver, below: Deliver, percent: 100},
		"v=DMARC1; p=reject; sp=x; rua=mailto:a@b":        {policy: Deliver, below: Deliver, percent: 100},
		"v=DMARC1; p=perhaps":                             nil,
		"v=DMARC1":                                        nil,
	} {
		require.True(t, isRecord(text), text)
		require.Equal(t, want, parseRecord(text), text)
	}
	for _, text := range []string{"", "v=DMARC2; p=none", "v=spf1 -all", "p=reject; v=DMARC1", "V=DMARC1"} {
		require.False(t, isRecord(text), text)
	}
}

func TestAuthorDomains(t *testing.T) {
	for from, want := range map[string][]string{
		"From: a@Example.ORG\r\n":                               {"example.org"},
		"from : Joe <a@example.org>\r\n":                        {"example.org"},
		"From: \"a@bank.example\" <x@evil.example>\r\n":         {"evil.example"},
		"From: a@bank.example <x@evil.example>\r\n":             {"bank.example", "evil.example"},
		"From: a@one.example,\r\n b@two.example\r\n":            {"one.example", "two.example"},
		"From: a@one.example\r\nFROM: b@two.example\r\n":        {"one.example", "two.example"},
		"From: a@one.example\r\nSubject: x\r\n From: y@z.w\r\n": {"one.example"},
		"From: =?x-unknown?q?J?= <a@example.org>\r\n":           {"example.org"},
		"From: a@bücher.example\r\n":                            {"xn--bcher-kva.example"},
		"From: undisclosed:;\r\n":                               nil,
		"From: root@localhost\r\n":                              nil,
		"From: nobody\r\n":                                      nil,
		"To: a@example.org\r\n":                                 nil,
		"From: a@[192.0.2.1]\r\n":                               nil,
	} {
		require.Equal(t, want, authorDomains([]byte(from)), "%q", from)
	}
	require.Len(t, authorDomains([]byte("From: "+strings.Repeat("@x.example @y.example @z.example ", 99)+"\r\n")), 3)
}

func TestField(t *testing.T) {
	r := &Result{
		SPF:  SPF{Outcome: Fail, Sender: "\"a b\\\"\r\nX: y\"@example.org"},
		DKIM: []Signature{{Outcome: Pass, Domain: "example.org", Selector: "s;x=y"}, {Outcome: Fail, Reason: `bad "hash"`}},
	}
	require.Equal(t, "Authentication-Results: mx.example;\r\n"+
		"\tspf=fail smtp.mailfrom=\"\\\"a b\\\\\\\"??X: y\\\"@example.org\";\r\n"+
		"\tdkim=pass header.d=example.org header.s=\"s;x=y\";\r\n"+
		"\tdkim=fail reason=\"bad \\\"hash\\\"\";\r\n"+
		"\tdmarc=permerror reason=\"no author's domain\"\r\n", string(Field("mx.example", r.Results())))
	require.Equal(t, "spf=fail dkim=pass (example.org) dkim=fail ()", r.Summary())
	long := (SPF{Outcome: None, Sender: strings.Repeat("x", 2000) + "@example.org"}).String()
	require.Less(t, len(long), 300)
}

func TestStrip(t *testing.T) {
	ids := func() []string { return []string{"mx1.example.test", "mx2.example.test"} }
	for _, c := range []struct{ field, why string }{
		{"Authentication-Results: mx1.example.test; spf=pass\r\n", "plain"},
		{"authentication-results:MX2.example.test;\r\n spf=pass\r\n\tdkim=pass\r\n",
			"folded, other case, no blank, another node's"},
		{"Authentication-Results : mx1.example.test 1; none\r\n", "obsolete blank, version"},
		{"Authentication-Results: (c (nested \\) ) ) \r\n (x)\"mx1.example.test\"; none\r\n", "comments and quotes"},
		{"Authentication-Results: mx1.example.test. ; none\r\n", "a dot at the end"},
		{"Authentication-Results: mx1.example.test(x)\r\n", "comment behind"},
		{"Authentication-Results: mx1.example.test/1; none\r\n", "old form of the version"},
		{"Authentication-Results: (unfinished mx1.example.test; none\r\n", "can not be read"},
		{"Authentication-Results: \"mx1.example.test; spf=pass\r\n", "can not be read either"},
	} {
		in := "Received: x\r\n" + c.field + "Subject: y\r\n"
		require.Equal(t, "Received: x\r\nSubject: y\r\n", string(Strip([]byte(in), ids)), c.why)
	}
	for _, kept := range []string{
		"Authentication-Results: mx3.example.test; spf=pass\r\n",
		"Authentication-Results: mx1.example.test.evil.example; spf=pass\r\n",
		"Authentication-Results: other; (mx1.example.test) spf=pass\r\n",
		"Authentication-Results: (mx1.example.test) other; none\r\n",
		"ARC-Authentication-Results: i=1; mx1.example.test; spf=pass\r\n",
		"X-Authentication-Results: mx1.example.test; spf=pass\r\n",
		"Subject: x\r\n Authentication-Results: mx1.example.test; none\r\n",
		"Authentication-Results:\r\n",
	} {
		require.Equal(t, kept, string(Strip([]byte(kept), ids)))
	}
	require.Empty(t, Strip([]byte("Authentication-Results: mx1.example.test"), ids))
}

// FuzzStrip: only whole fields go, and a second pass finds no more.
func FuzzStrip(f *testing.F) {
	f.Add([]byte("A: b\r\nAuthentication-Results: (x) \"mx.example\"; none\r\n c\r\nD: e\r\n"))
	f.Add([]byte("Authentication-Results: mx.example\n\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		ids := func() []string { return []string{"mx.example"} }
		out := Strip(bytes.Clone(in), ids)
		require.LessOrEqual(t, len(out), len(in))
		require.Equal(t, string(out), string(Strip(bytes.Clone(out), ids)))
		authorDomains(in)
		findSignatures(in)
	})
}

func TestLists(t *testing.T) {
	w := newWorld(t, `
2.2.0.192.bl.example. A 127.0.0.4
2.2.0.192.bl.example. TXT "see https://bl.example/?ip=192.0.2.2 \009caf\195\169"
3.2.0.192.bl.example. A 127.255.255.254
4.2.0.192.bl.example. A 203.0.113.1
5.2.0.192.bl.example. A 127.0.0.10
5.2.0.192.white.example. A 127.0.10.1
6.2.0.192.tag.example. A 127.0.0.2
1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.bl.example. A 127.0.0.2
`)
	eleven, err := ParseCodes("127.0.0.2-11")
	require.NoError(t, err)
	l := NewLists(w, []List{
		{Zone: "bl.example", Name: "the list", Action: Refuse, Codes: []Codes{eleven}},
		{Zone: "tag.example", Name: "tag.example", Action: Tag},
		{Zone: "white.example", Name: "white.example", Action: Exempt},
	}, time.Second)
	ask := func(a string) (string, string) {
		k := l.Begin(netip.MustParseAddr(a))
		defer k.Close()
		refuse, tags := k.Wait(t.Context())
		var first, second string
		if refuse != nil {
			first = refuse.String()
		}
		for _, f := range tags {
			second += f.String()
		}
		return first, second
	}
	for a, want := range map[string][2]string{
		"192.0.2.1":        {"", ""},
		"192.0.2.2":        {`x-dnsbl=fail reason="see https://bl.example/?ip=192.0.2.2 \\009caf\\195\\169" policy.list="the list" policy.code=127.0.0.4`, ""},
		"::ffff:192.0.2.2": {`x-dnsbl=fail reason="see https://bl.example/?ip=192.0.2.2 \\009caf\\195\\169" policy.list="the list" policy.code=127.0.0.4`, ""},
		"192.0.2.3":        {"", ""}, // the list does not like us
		"192.0.2.4":        {"", ""}, // somebody took the zone over
		"192.0.2.5":        {"", ""}, // on a list of good ones
		"192.0.2.6":        {"", "x-dnsbl=fail policy.list=tag.example policy.code=127.0.0.2"},
		"2001:db8::1":      {`x-dnsbl=fail policy.list="the list" policy.code=127.0.0.2`, ""},
	} {
		refuse, tags := ask(a)
		require.Equal(t, want, [2]string{refuse, tags}, a)
	}
	for _, a := range []string{"127.0.0.2", "10.0.0.1", "::1", "fe80::1", "100.64.0.1", "0.0.0.0", "224.0.0.1"} {
		require.Nil(t, l.Begin(netip.MustParseAddr(a)), a)
	}
	var none *Lists
	require.Nil(t, none.Begin(netip.MustParseAddr("192.0.2.1")))
	var nobody *Lookup
	nobody.Close()
	refuse, tags := nobody.Wait(t.Context())
	require.Nil(t, refuse)
	require.Empty(t, tags)
}

// A list that is silent costs its time-out, once, and lists nobody.
func TestSilentList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "2.2.0.192.bl.example. A 127.0.0.4")
		w.hangs["2.2.0.192.slow.example"] = true
		l := NewLists(w, []List{{Zone: "slow.example", Action: Refuse}, {Zone: "bl.example", Action: Refuse}}, 5*time.Second)
		began := time.Now()
		k := l.Begin(netip.MustParseAddr("192.0.2.2"))
		require.Zero(t, time.Since(began), "who connects does not wait")
		refuse, _ := k.Wait(t.Context())
		require.Equal(t, "bl.example", refuse.List.Zone)
		require.Equal(t, 5*time.Second, time.Since(began))
		k.Wait(t.Context())
		require.Equal(t, 5*time.Second, time.Since(began))
		k.Close()
		k = l.Begin(netip.MustParseAddr("192.0.2.2"))
		k.Close()
		require.Equal(t, 5*time.Second, time.Since(began))
	})
}

func TestParseCodes(t *testing.T) {
	for in, want := range map[string]string{"127.0.0.2": "127.0.0.2 127.0.0.2", "127.0.0.2-11": "127.0.0.2 127.0.0.11",
		"127.0.0.2 - 127.0.1.0": "127.0.0.2 127.0.1.0"} {
		c, err := ParseCodes(in)
		require.NoError(t, err)
		require.Equal(t, want, c.First.String()+" "+c.Last.String())
	}
	for _, in := range []string{"", "10.0.0.1", "127.0.0.9-2", "127.0.0.2-", "127.0.0.2-300", "::1", "x"} {
		_, err := ParseCodes(in)
		require.Error(t, err, in)
	}
}

func BenchmarkSignedMessage(b *testing.B) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(b, err)
	_ = private
	w := newWorld(b, "example.org. TXT \"v=spf1 ip4:192.0.2.1 -all\"\n_dmarc.example.org. TXT \"v=DMARC1; p=reject\"")
	w.zone["sel._domainkey.example.org"] = []dns.RR{&dns.TXT{Txt: []string{keyRecord()}}}
	message := sign(b, "example.org",
		"From: a@example.org\r\nSubject: s\r\n\r\n"+strings.Repeat("text of a line\r\n", 640))
	v := &Verifier{Resolver: w, Timeout: 5 * time.Second}
	b.SetBytes(int64(len(message)))
	b.ReportAllocs()
	for b.Loop() {
		r := verifyAll(b, v, Client{Address: netip.MustParseAddr("192.0.2.1"), Sender: "a@example.org"}, message)
		if wish, _ := r.Wish(); wish != Whatever || r.DMARC[0].Outcome != Pass {
			b.Fatal(r.Summary())
		}
	}
}
