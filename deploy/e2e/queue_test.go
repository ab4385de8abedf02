package e2e

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/smtp"
)

// takeoverWithin is how soon others must deliver what a dead node left.
const takeoverWithin = 6 * time.Second

// TestQueueOfDeadNode: mail that waits on a node that dies is delivered by the
// others, when it is due and with the attempts it had.
func TestQueueOfDeadNode(t *testing.T) {
	for _, leads := range []bool{false, true} {
		name := "follower"
		if leads {
			name = "leader"
		}
		t.Run(name, func(t *testing.T) { ownerDies(t, leads) })
	}
}

// waiting is one message that waits on the node that is about to die.
type waiting struct {
	id       string
	to       string
	attempts uint32
	due      time.Time
}

func ownerDies(t *testing.T, leads bool) {
	const owner = 1
	h := startHop(t)
	h.answer(&smtp.Reply{Code: 451, Enhanced: "4.7.1", Text: "Greylisted, come back"})
	d := Start(t, "--relay", h.addr, "--restart-after", "0")
	d.settings(map[string]any{"retry_first_seconds": 10})
	if leads {
		d.lead(owner)
	} else {
		d.lead(3)
	}
	const each = 25
	began := time.Now()
	soon := fill(t, d, owner, "soon", each)
	// These are due when the others have taken over long since.
	pause(d, time.Until(began.Add(7*time.Second)))
	later := fill(t, d, owner, "later", each)
	all := append(soon, later...)
	for _, w := range all {
		d.Await(5*time.Second, w.id+" was tried",
			func() bool { return d.look(w, owner) && w.attempts == 1 && !w.due.IsZero() })
	}
	require.Empty(t, h.taken())

	dead := d.kill(owner)
	h.answer(nil)
	d.Await(40*time.Second, "everything is delivered", func() bool { return len(h.taken()) == len(all) })
	taken := h.taken()
	var last, early, late time.Duration
	for _, w := range all {
		require.Len(t, taken[w.id], 1, "%s was delivered twice", w.id)
		at := taken[w.id][0].at
		last = max(last, at.Sub(dead))
		bound := dead.Add(takeoverWithin)
		if w.due.After(bound) {
			bound = w.due.Add(time.Second)
		}
		if at.After(bound) {
			t.Errorf("%s, due %s after the kill, came %s after it", w.id, seconds(w.due.Sub(dead)), seconds(at.Sub(dead)))
		}
		early = max(early, w.due.Sub(at))
		late = max(late, at.Sub(w.due))
	}
	firstOf, lastOf := span(soon, taken)
	t.Logf("%d messages due at the kill or soon after: delivered %s to %s after it", each, seconds(firstOf.Sub(dead)),
		seconds(lastOf.Sub(dead)))
	firstOf, lastOf = span(later, taken)
	t.Logf("%d messages due later: delivered %s to %s after it; earliest %s before, latest %s after the due time",
		each, seconds(firstOf.Sub(dead)), seconds(lastOf.Sub(dead)), seconds(early), seconds(late))
	require.LessOrEqual(t, early, 50*time.Millisecond, "the due time is kept")
	for _, w := range all {
		checkHistory(t, d, w)
	}
	d.drained(2, 10*time.Second)
}

// fill has mail to the outside wait on one node.
func fill(t *testing.T, d *Dev, node int, name string, n int) (all []*waiting) {
	c, err := dialSMTP(d.Addr(node, SMTP), 10*time.Second)
	require.NoError(t, err)
	defer c.close()
	for i := range n {
		to := fmt.Sprintf("%s%d@example.net", name, i)
		id, err := c.send("alice@example.test", []string{to}, message(fmt.Sprintf("%s-%d", name, i)))
		require.NoError(t, err)
		all = append(all, &waiting{id: id, to: to})
	}
	return all
}

// look reads from a node how a message stands.
func (d *Dev) look(w *waiting, node int) bool {
	d.t.Helper()
	var line timeline
	if err := d.call(node, http.MethodGet, "/v1/trace/"+w.id, nil, &line); err != nil || len(line.Recipients) != 1 {
		return false
	}
	r := line.Recipients[0]
	w.attempts = r.Attempts
	if r.NextAttempt != nil {
		w.due = *r.NextAttempt
	}
	return r.State == "deferred" && line.Owner == fmt.Sprintf("n%d", node)
}

func span(all []*waiting, taken map[string][]arrival) (first, last time.Time) {
	for _, w := range all {
		at := taken[w.id][0].at
		if first.IsZero() || at.Before(first) {
			first = at
		}
		if at.After(last) {
			last = at
		}
	}
	return first, last
}

// checkHistory: the second attempt was the second, and another node's.
func checkHistory(t *testing.T, d *Dev, w *waiting) {
	var line timeline
	d.Await(10*time.Second, w.id+" is settled", func() bool {
		return d.call(2, http.MethodGet, "/v1/trace/"+w.id, nil, &line) == nil && line.Recipients[0].State == "delivered"
	})
	deferred, delivered := 0, 0
	for _, e := range line.Events {
		switch e.What {
		case "deferred":
			deferred++
			require.Equal(t, "n1", e.Node)
			require.EqualValues(t, 1, e.Attempt)
		case "delivered":
			delivered++
			require.NotEqual(t, "n1", e.Node)
			require.EqualValues(t, 2, e.Attempt, "attempts are kept: %+v", line.Events)
		}
	}
	require.Equal(t, [2]int{1, 1}, [2]int{deferred, delivered}, "%+v", line.Events)
}
