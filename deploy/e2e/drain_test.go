package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	drainMessages = 500
	drainClients  = 100
)

// uidl returns the unique ids of a session's messages, by number less one.
func (m *mailbox) uidl() (uids []string, err error) {
	if _, err := m.say("UIDL"); err != nil {
		return nil, err
	}
	lines, err := m.text.ReadDotLines()
	for _, line := range lines {
		_, uid, _ := strings.Cut(line, " ")
		uids = append(uids, uid)
	}
	return uids, err
}

// fillBox sends so many messages to a user, through all nodes.
func fillBox(t *testing.T, d *Dev, user string, n int) {
	t.Helper()
	for node := 1; node <= 3; node++ {
		c, err := dialSMTP(d.Addr(node, SMTP), 20*time.Second)
		require.NoError(t, err)
		defer c.close()
		for i := node - 1; i < n; i += 3 {
			_, err := c.send("bob@example.test", []string{user + "@example.test"}, message(fmt.Sprintf("box-%d", i)))
			require.NoError(t, err)
		}
	}
}

// TestDrainSharedMailbox: a hundred clients of one shared mailbox, on three
// nodes, take what they can get. Each message is deleted, and by one of them.
func TestDrainSharedMailbox(t *testing.T) {
	d := Start(t)
	fillBox(t, d, "alice", drainMessages)
	d.Ctl("user", "set", "alice@example.test", "--shared")
	var mu sync.Mutex
	deleted, refusals := map[string]int{}, map[string]int{}
	began := time.Now()
	var wg sync.WaitGroup
	for n := range drainClients {
		wg.Go(func() {
			m, err := open(d.Addr(n%3+1, POP3), "alice", "secret")
			if err == nil {
				defer m.close()
				err = drain(m, n, func(uid string, refused error) {
					mu.Lock()
					defer mu.Unlock()
					if refused == nil {
						deleted[uid]++
					} else {
						refusals[refused.Error()]++
					}
				})
			}
			if err != nil {
				t.Errorf("client %d: %v", n, err)
			}
		})
	}
	wg.Wait()
	t.Logf("%d clients drained %d messages in %s; refusals: %v", drainClients, len(deleted),
		seconds(time.Since(began)), refusals)
	require.Len(t, deleted, drainMessages, "every message was deleted by somebody")
	for uid, n := range deleted {
		require.Equal(t, 1, n, "message %s was handed out deleted more than once", uid)
	}
	for words := range refusals {
		require.Equal(t, "-ERR message has been deleted", words)
	}
	p := login(t, d.Addr(2, POP3), "alice", "secret")
	require.Zero(t, p.count())
	p.quit()
	d.verify()
}

// drain deletes all messages that a session can get, beginning at a place of its
// own, and tells each what came of it.
func drain(m *mailbox, n int, each func(uid string, refused error)) error {
	uids, err := m.uidl()
	if err != nil {
		return err
	}
	for i := range uids {
		i = (i + n*len(uids)/drainClients) % len(uids)
		if _, err := m.retr(i + 1); err != nil {
			if strings.HasPrefix(err.Error(), "-ERR message has been deleted") {
				continue // somebody was faster
			}
			return err
		}
		_, err := m.say("DELI " + itoa(i+1))
		if err != nil && !strings.HasPrefix(err.Error(), "-ERR") {
			return err
		}
		each(uids[i], err)
	}
	_, err = m.say("QUIT")
	return err
}

// fightTime is how long the fight goes on; RELAY_E2E_FIGHT makes it longer.
func fightTime(t *testing.T) time.Duration {
	text := os.Getenv("RELAY_E2E_FIGHT")
	if text == "" {
		return 25 * time.Second
	}
	long, err := time.ParseDuration(text)
	require.NoError(t, err, "RELAY_E2E_FIGHT")
	return long
}

// tenure is a time in which a client held the mailbox, from the answer that let
// it in to the last answer it got.
type tenure struct {
	client   int
	from, to time.Time
}

// ring is what the fighters tell.
type ring struct {
	mu      sync.Mutex
	tenures []tenure
	deleted map[string]int // by UID, QUIT answered +OK
	maybe   map[string]int // QUIT was not answered
	answers map[string]int
	quits   int
}

func (r *ring) note(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

// TestFightForOneMailbox: fifty clients want one mailbox, on three nodes of
// which one dies every ten seconds. There are never two holders, what was
// deleted is deleted once, and no lock is left behind.
func TestFightForOneMailbox(t *testing.T) {
	const clients, every = 50, 10 * time.Second
	d := Start(t, "--restart-after", "3s")
	fillBox(t, d, "alice", 400)
	r := &ring{deleted: map[string]int{}, maybe: map[string]int{}, answers: map[string]int{}}
	over := make(chan struct{})
	var wg sync.WaitGroup
	for n := range clients {
		wg.Go(func() {
			for {
				select {
				case <-over:
					return
				default:
				}
				r.session(d.Addr(rand.IntN(3)+1, POP3), n)
				pause(d, time.Duration(rand.IntN(40))*time.Millisecond)
			}
		})
	}
	end := time.Now().Add(fightTime(t))
	for victim := 1; time.Now().Before(end); victim = victim%3 + 1 {
		pause(d, min(every, time.Until(end)))
		if time.Now().Before(end) {
			old := d.PID(victim)
			d.kill(victim)
			d.Await(30*time.Second, "the dead node is back", func() bool { return d.PID(victim) != old })
		}
	}
	close(over)
	wg.Wait()
	d.healthy(60 * time.Second)
	d.Await(10*time.Second, "no lock is left behind", func() bool { return d.lockOf("alice") == "" })
	r.check(t)
	p := login(t, d.Addr(1, POP3), "alice", "secret")
	left := p.count()
	p.quit()
	require.LessOrEqual(t, left, 400-len(r.deleted), "what was answered +OK is deleted")
	require.GreaterOrEqual(t, left, 400-len(r.deleted)-len(r.maybe), "and nothing else is")
	t.Logf("%d sessions held the mailbox, %d ended in +OK; %d messages deleted, %d perhaps, %d left; refusals: %v",
		len(r.tenures), r.quits, len(r.deleted), len(r.maybe), left, r.answers)
	d.verify()
}

// session is one try to get the mailbox at a node, and what a client does who has it.
func (r *ring) session(addr string, n int) {
	m, err := open(addr, "alice", "secret")
	if err != nil {
		kind := "connection"
		if text := err.Error(); strings.HasPrefix(text, "-ERR") {
			kind, _, _ = strings.Cut(text, "]")
		}
		r.note(func() { r.answers[kind]++ })
		return
	}
	defer m.close()
	mine := tenure{client: n, from: time.Now()}
	mine.to = mine.from
	var victim string
	uids, err := m.uidl()
	for i := 0; err == nil && i < 2; i++ {
		mine.to = time.Now()
		_, err = m.say("NOOP")
	}
	if err == nil && len(uids) > 0 && rand.IntN(4) == 0 {
		i := rand.IntN(len(uids))
		if _, err = m.say("DELE " + itoa(i+1)); err == nil {
			victim = uids[i]
		}
	}
	if err == nil {
		mine.to = time.Now()
		_, err = m.say("QUIT")
	}
	r.note(func() {
		r.tenures = append(r.tenures, mine)
		switch {
		case err == nil && victim != "":
			r.deleted[victim]++
		case victim != "":
			r.maybe[victim]++
		}
		if err == nil {
			r.quits++
		}
	})
}

func (r *ring) check(t *testing.T) {
	slices.SortFunc(r.tenures, func(a, b tenure) int { return a.from.Compare(b.from) })
	var last tenure
	for _, one := range r.tenures {
		require.False(t, last.to.After(one.from), "two holders: client %d until %s, client %d from %s",
			last.client, last.to.Format("05.000000"), one.client, one.from.Format("05.000000"))
		if one.to.After(last.to) {
			last = one
		}
	}
	for uid, n := range r.deleted {
		require.Equal(t, 1, n, "message %s was deleted more than once", uid)
	}
	require.NotZero(t, r.quits)
	require.NotContains(t, r.answers, "-ERR [AUTH", "a fault of ours is no wrong password")
}

// lockOf returns the node of the session that holds a mailbox, empty for none.
func (d *Dev) lockOf(user string) string {
	var box struct {
		Lock *struct{ Node, Session string }
	}
	require.NoError(d.t, json.Unmarshal([]byte(d.Ctl("mailbox", "show", user+"@example.test", "-o", "json")), &box))
	if box.Lock == nil {
		return ""
	}
	return box.Lock.Node
}
