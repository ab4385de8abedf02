package e2e

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestLeaderDiesUnderLoad is the promise: a message that got a 250 is there, once, or
// twice where its history says so, although the leader was killed meanwhile.
func TestLeaderDiesUnderLoad(t *testing.T) {
	d := Start(t, "--restart-after", "1s")
	accounts := []string{"alice", "bob"}
	for i := range 4 {
		name := fmt.Sprintf("user%d", i)
		d.Run("secret\n", d.bin+"/relayctl", "user", "add", name+"@example.test", "--password-stdin")
		accounts = append(accounts, name)
	}
	for n := range runs(t) {
		t.Run(fmt.Sprintf("run%d", n+1), func(t *testing.T) { leaderDies(t, d.with(t), accounts, n) })
	}
}

const (
	loadMessages = 2000
	loadClients  = 20
)

// parcel is a message of the load, and the ids of its copies.
type parcel struct {
	name string
	to   []string
	text string
	ids  []string // of each 250; the senders stop after the first
}

func (p *parcel) sum() [32]byte { return sha256.Sum256([]byte(lf(p.text))) }

func parcels(accounts []string, run int) []*parcel {
	all := make([]*parcel, loadMessages)
	for i := range all {
		p := &parcel{name: fmt.Sprintf("load-%d-%d", run, i)}
		local := accounts[i/2%len(accounts)] + "@example.test"
		remote := fmt.Sprintf("r%d@d%d.example.net", i, i%7)
		switch {
		case i%25 == 0: // one message to both worlds
			p.to = []string{local, remote, fmt.Sprintf("cc%d@d%d.example.net", i, (i+1)%7)}
		case i%2 == 0:
			p.to = []string{local}
		default:
			p.to = []string{remote}
		}
		lines := 40
		if i%100 == 7 {
			lines = 6000 // travels in chunks
		}
		p.text = "From: <load@example.org>\r\nSubject: " + p.name + "\r\nMessage-ID: <" + p.name + "@example.org>\r\n\r\n" +
			strings.Repeat(p.name+" "+strings.Repeat("x", 80)+"\r\n", lines)
		all[i] = p
	}
	return all
}

// load is what a run of the senders tells.
type load struct {
	acked  atomic.Int64
	mu     sync.Mutex
	errors map[string]int
	stalls []time.Duration // from the first try of a message to its 250
}

func (l *load) failed(err error) {
	var r *refused
	var op *net.OpError
	kind := err.Error()
	switch {
	case errors.As(err, &r):
	case errors.As(err, &op):
		kind = op.Op + ": " + op.Err.Error()
	}
	l.mu.Lock()
	l.errors[kind]++
	l.mu.Unlock()
}

func (l *load) done(took time.Duration) {
	l.mu.Lock()
	l.stalls = append(l.stalls, took)
	l.mu.Unlock()
	l.acked.Add(1)
}

// play sends the parcels through all nodes. A sender that gets no 250, for
// whatever reason, tries again at another node.
func (l *load) play(d *Dev, all []*parcel) {
	queue := make(chan *parcel)
	var wg sync.WaitGroup
	for i := range loadClients {
		wg.Go(func() {
			node, c := i%3+1, (*client)(nil)
			for p := range queue {
				began := time.Now()
				for d.t.Context().Err() == nil {
					var id string
					var err error
					if c == nil {
						c, err = dialSMTP(d.Addr(node, SMTP), 20*time.Second)
					}
					if err == nil {
						id, err = c.send("load@example.org", p.to, p.text)
					}
					if err == nil {
						p.ids = append(p.ids, id)
						l.done(time.Since(began))
						break
					}
					l.failed(err)
					if c != nil {
						c.close()
						c = nil
					}
					node = rand.IntN(3) + 1
					pause(d, 50*time.Millisecond)
				}
			}
			if c != nil {
				c.close()
			}
		})
	}
	for _, p := range all {
		queue <- p
	}
	close(queue)
	wg.Wait()
}

// pause keeps a sender that was turned away from knocking without a break.
func pause(d *Dev, t time.Duration) {
	select {
	case <-d.t.Context().Done():
	case <-time.After(t):
	}
}

// copyOf names one copy of a message: an id and whom it was for.
type copyOf struct{ id, to string }

func leaderDies(t *testing.T, d *Dev, accounts []string, run int) {
	d.healthy(30 * time.Second)
	leader := d.leader()
	old := d.PID(leader)
	all := parcels(accounts, run)
	l := &load{errors: map[string]int{}}
	// The kill comes at another point of each run.
	at := int64(400 + run*137%1200)
	killed := make(chan time.Time, 1)
	go func() {
		for l.acked.Load() < at && t.Context().Err() == nil {
			pause(d, time.Millisecond)
		}
		assert.NoError(t, syscall.Kill(old, syscall.SIGKILL))
		killed <- time.Now()
	}()
	began := time.Now()
	l.play(d, all)
	took := time.Since(began)
	dead := (<-killed).Sub(began)
	slices.Sort(l.stalls)
	t.Logf("leader n%d killed %s in, after %d messages; all %d accepted after %s; longest wait for a 250 %s, 99th "+
		"percentile %s, median %s",
		leader, seconds(dead), at, len(l.stalls), seconds(took), seconds(l.stalls[len(l.stalls)-1]),
		seconds(l.stalls[len(l.stalls)*99/100]), seconds(l.stalls[len(l.stalls)/2]))
	for _, kind := range slices.Sorted(maps.Keys(l.errors)) {
		t.Logf("senders saw %d times: %s", l.errors[kind], kind)
	}
	require.Len(t, l.stalls, loadMessages)

	d.Await(20*time.Second, "the dead node is back", func() bool { return d.PID(leader) != old })
	back := time.Now()
	d.healthy(60 * time.Second)
	t.Logf("healthy %s after the dead node was back", seconds(time.Since(back)))
	d.drained(run%3+1, 60*time.Second)
	(&ledger{t: t, d: d, copies: map[copyOf]int{}}).check(all, accounts, run)
	d.verify()
}

// ledger compares what the senders were told with what is there.
type ledger struct {
	t       *testing.T
	d       *Dev
	copies  map[copyOf]int
	unasked int // copies of messages whose sender never saw the 250
	doubled int
}

func (l *ledger) check(all []*parcel, accounts []string, run int) {
	byName := map[string]*parcel{}
	for _, p := range all {
		byName[p.name] = p
	}
	for i, a := range accounts {
		l.readMailbox(byName, a, (run+i)%3+1)
	}
	l.readSink(byName)
	acked := map[string]bool{}
	for _, p := range all {
		require.Len(l.t, p.ids, 1)
		require.False(l.t, acked[p.ids[0]], "the id %s was given to two messages", p.ids[0])
		acked[p.ids[0]] = true
		for _, to := range p.to {
			if l.copies[copyOf{p.ids[0], to}] == 0 {
				l.t.Errorf("LOST: %s (%s) got a 250 and is not there for %s\n%s", p.ids[0], p.name, to, l.evidence(p.ids[0]))
			}
		}
	}
	for c, n := range l.copies {
		if !acked[c.id] {
			l.unasked++
		}
		if n == 1 {
			continue
		}
		l.doubled++
		history := l.d.trace(c.id)
		switch {
		case n > l.most(c) || strings.HasSuffix(c.to, "@example.test"):
			l.t.Errorf("DOUBLED: %s is there %d times for %s\n%s", c.id, n, c.to, l.evidence(c.id))
		case !history.maybeDuplicate(c.to):
			l.t.Errorf("DOUBLED: %s was delivered twice to %s and its history does not say so\n%s", c.id, c.to, l.evidence(c.id))
		}
	}
	l.t.Logf("%d messages acknowledged, %d copies found; %d copies of messages whose 250 was lost; %d delivered twice, "+
		"as their history says",
		len(all), len(l.copies), l.unasked, l.doubled)
}

// most is how often a message may be there for a recipient elsewhere. A node that dies
// between a server's 250 and the entry in the log that says so costs one copy; each
// death between the first copy and the last may have been in such a moment.
func (l *ledger) most(c copyOf) int {
	var at []time.Time
	for _, m := range l.d.Sink() {
		if idOf(m.Message) == c.id && strings.Contains(m.Envelope, "<"+c.to+">") {
			ns, err := strconv.ParseInt(m.Name[:strings.IndexByte(m.Name, '-')], 10, 64)
			require.NoError(l.t, err)
			at = append(at, time.Unix(0, ns))
		}
	}
	slices.SortFunc(at, time.Time.Compare)
	if len(at) == 0 {
		return 2
	}
	const late = time.Second // of the file behind a death in which the server had the message
	return max(2, 1+l.d.killsBetween(at[0].Add(-late), at[len(at)-1]))
}

// evidence is all that is known of a message: its history, what the sink saw,
// and what the nodes logged.
func (l *ledger) evidence(id string) string {
	var b strings.Builder
	history, err := l.d.Try("", l.d.bin+"/relayctl", "trace", id)
	fmt.Fprintln(&b, history, err)
	for _, m := range l.d.Sink() {
		if idOf(m.Message) == id {
			fmt.Fprintf(&b, "sink: %s %s\n", m.Name, strings.ReplaceAll(m.Envelope, "\r\n", "; "))
		}
	}
	for node := 1; node <= 3; node++ {
		for _, line := range l.d.logged(node, id, "leader", "session") {
			if !strings.Contains(line, `"session"`) || strings.Contains(line, id) {
				fmt.Fprintf(&b, "n%d: %s\n", node, line)
			}
		}
	}
	return b.String()
}

// found notes one copy and that it is what was sent.
func (l *ledger) found(byName map[string]*parcel, message, to string) {
	id := idOf(message)
	if id == "" {
		l.t.Errorf("a copy for %s without an id:\n%.500s", to, message)
		return
	}
	name := field(message, "Subject")
	p := byName[name]
	if p == nil {
		return // of an earlier run
	}
	at := strings.Index(message, "From: <load@example.org>\n")
	if at < 0 || sha256.Sum256([]byte(message[at:])) != p.sum() {
		l.t.Errorf("CHANGED: %s (%s) for %s is not what was sent (%d octets)", id, name, to, len(message))
	}
	if !slices.Contains(p.to, to) {
		l.t.Errorf("ASTRAY: %s (%s) came to %s", id, name, to)
	}
	l.copies[copyOf{id, to}]++
}

func field(message, name string) string {
	for line := range strings.Lines(message) {
		if rest, ok := strings.CutPrefix(line, name+": "); ok {
			return strings.TrimRight(rest, "\r\n")
		}
	}
	return ""
}

// readMailbox reads and then deletes everything in one mailbox.
func (l *ledger) readMailbox(byName map[string]*parcel, account string, node int) {
	m, err := open(l.d.Addr(node, POP3), account, "secret")
	require.NoError(l.t, err, "n%d: %s", node, strings.Join(tailOf(l.d.logged(node, "login failed", "session"), 5), "\n"))
	defer m.close()
	n, err := m.count()
	require.NoError(l.t, err)
	for i := 1; i <= n; i++ {
		message, err := m.retr(i)
		require.NoError(l.t, err)
		l.found(byName, message, account+"@example.test")
		_, err = m.say("DELE " + itoa(i))
		require.NoError(l.t, err)
	}
	_, err = m.say("QUIT")
	require.NoError(l.t, err)
}

func (l *ledger) readSink(byName map[string]*parcel) {
	for _, m := range l.d.Sink() {
		for line := range strings.Lines(m.Envelope) {
			if to, ok := strings.CutPrefix(line, "X-Sink-To: <"); ok {
				l.found(byName, lf(m.Message), strings.TrimRight(to, ">\r\n"))
			}
		}
	}
}

// TestEachDeathMayCostACopy: two deaths within half a second excuse three copies, and a
// death before the first copy none.
func TestEachDeathMayCostACopy(t *testing.T) {
	const id, to = "01M8R6N7Y4YQ6WDAVC7FKFXY03", "r@d2.example.net"
	d := &Dev{t: t, Dir: t.TempDir()}
	require.NoError(t, os.Mkdir(filepath.Join(d.Dir, "sink"), 0o700))
	first := time.Unix(1796108623, 0)
	for i := range 3 {
		name := fmt.Sprintf("%d-%06d.eml", first.Add(time.Duration(i)*time.Second).UnixNano(), i)
		text := "X-Sink-To: <" + to + ">\r\n\r\nReceived: by n3 id " + id + "\r\n"
		require.NoError(t, os.WriteFile(filepath.Join(d.Dir, "sink", name), []byte(text), 0o600))
	}
	l := &ledger{t: t, d: d}
	require.Equal(t, 2, l.most(copyOf{id, to}))
	d.noteKill(first.Add(-time.Minute))
	d.noteKill(first.Add(100 * time.Millisecond))
	require.Equal(t, 2, l.most(copyOf{id, to}))
	d.noteKill(first.Add(600 * time.Millisecond))
	require.Equal(t, 3, l.most(copyOf{id, to}))
	require.Equal(t, 2, l.most(copyOf{id, "other@d2.example.net"}))
}
