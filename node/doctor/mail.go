package doctor

import (
	"fmt"
	"strings"
	"time"
)

// Bounds of the conditions of mail.
const (
	queueOld   = day
	heldLong   = 3 * day
	growLeast  = 1000 // recipients
	growOver   = 10 * time.Minute
	refuseLong = time.Hour
	refuseMost = 3 // attempts
	repliesLow = 10
	lockLong   = time.Hour
)

func mailConditions() []condition {
	return []condition{
		{
			"queue-old", "no message waits for long",
			"a message has waited for more than a day",
			"relayctl queue stats", judgeOld,
		},
		{"queue-grows", "the queue does not grow", "the queue grows", "relayctl queue stats", judgeGrowth},
		{
			"queue-unowned", "every recipient in the queue has a node that delivers to it",
			"recipients wait without a node that delivers to them",
			"relayctl status", judgeUnowned,
		},
		{
			"queue-held", "no message is held for long",
			"messages have been held for long",
			"relayctl queue ls --state held", judgeHeld,
		},
		{
			"destination-refuses", "no destination refuses all its mail",
			"a destination takes none of the mail that waits for it",
			"relayctl queue ls", judgeRefusing,
		},
		{
			"delivery-replies", "other hosts do not refuse mail for what this relay is",
			"other hosts refuse mail for the reputation of this relay, or for a proof of identity that fails",
			"relayctl queue stats", judgeReplies,
		},
		{
			"route-login", "no host refuses the login of a route",
			"a host refuses the login of a route, whose mail waits",
			"relayctl route set --help", judgeLogins,
		},
		{
			"mailbox-lock", "no mailbox is locked for long",
			"a mailbox has been locked for long: nobody else can read it",
			"relayctl mailbox ls", judgeLocks,
		},
		{
			"mailbox-quota", "no mailbox is near its quota",
			"a mailbox is near its quota or past it",
			"relayctl mailbox ls", judgeQuota,
		},
		{
			"postmaster", "every local domain has a postmaster",
			"a local domain has no postmaster (RFC 5321 §4.5.1)",
			"relayctl alias set", judgePostmaster,
		},
		{
			"outward", "other mail systems can be reached",
			"mail hosts can not be reached: port 25 may be closed on the way out",
			"ask the provider to open port 25, or send by its host: relayctl route set '*' smtp:HOST:587 --help", judgeOutward,
		},
	}
}

func judgeOld(f *Facts, v *verdict) {
	q, ok := need(v, f.Queue)
	if !ok {
		return
	}
	age := f.Now.Sub(q.Oldest)
	switch {
	case q.Oldest.IsZero():
		v.note("nothing waits for a delivery")
	case age > queueOld:
		v.add(Warning, "the oldest of %s waits for %s: %s", counted(int(q.Recipients), "recipient"), span(age), q.OldestID)
		v.next("relayctl queue show %s", q.OldestID)
	default:
		v.note("the oldest of %s waits for %s", counted(int(q.Recipients), "recipient"), span(age))
	}
}

func judgeGrowth(f *Facts, v *verdict) {
	g, ok := need(v, f.Growth)
	if !ok {
		return
	}
	severity := OK
	switch {
	case g.Over < growOver && g.Now >= growLeast:
		severity = Unknown
	case g.Now >= growLeast && g.Now > g.Before+g.Before/2:
		severity = Warning
	}
	v.add(severity, "%d recipients now, %d were there %s ago", g.Now, g.Before, span(g.Over))
}

func judgeUnowned(f *Facts, v *verdict) {
	if q, ok := need(v, f.Queue); ok && q.Unowned > 0 {
		v.add(Warning, "%s", counted(int(q.Unowned), "recipient"))
	}
}

func judgeHeld(f *Facts, v *verdict) {
	q, ok := need(v, f.Queue)
	age := f.Now.Sub(q.OldestHeld)
	switch {
	case !ok || q.Held == 0:
	case q.OldestHeld.IsZero():
		v.add(Unknown, "%s held, and the queue is too long to look for how long", counted(int(q.Held), "recipient"))
	case age > heldLong:
		v.add(Warning, "the oldest of %s was taken in %s ago: %s", counted(int(q.Held), "recipient"), span(age), q.HeldID)
		v.next("relayctl queue show %s", q.HeldID)
	default:
		v.note("%s held", counted(int(q.Held), "recipient"))
	}
}

func judgeRefusing(f *Facts, v *verdict) {
	q, ok := need(v, f.Queue)
	if !ok {
		return
	}
	var all []Destination
	for _, d := range q.Refusing {
		if d.Attempts >= refuseMost && f.Now.Sub(d.Oldest) > refuseLong {
			all = append(all, d)
		}
	}
	some(v, all, func(d Destination) {
		v.add(Warning, "%s: %s for %s, %s: %s", d.Domain, counted(int(d.Waiting), "recipient"), span(f.Now.Sub(d.Oldest)),
			counted(int(d.Attempts), "attempt"), d.LastReply)
		v.next("relayctl queue ls --domain %s", d.Domain)
	})
	if len(all) == 0 && q.Partial {
		v.add(Unknown, "the queue is too long to read all of it")
	}
}

func judgeReplies(f *Facts, v *verdict) {
	r, ok := need(v, f.Replies)
	if !ok {
		return
	}
	for _, c := range r.Classes {
		switch {
		case c.Count >= repliesLow:
			v.add(Warning, "%s of class %s within %s: %s", counted(int(c.Count), "failed attempt"), c.Name, span(r.Over),
				c.Advice)
		case c.Count > 0:
			v.note("%s of class %s within %s", counted(int(c.Count), "failed attempt"), c.Name, span(r.Over))
		}
	}
}

func judgeLogins(f *Facts, v *verdict) {
	all, ok := need(v, f.Logins)
	if !ok {
		return
	}
	some(v, all, func(l Login) {
		v.add(Error, "route %s: %s refused %s %s ago: %s", l.Route, l.Host, l.User, span(f.Now.Sub(l.At)), l.Reply)
		domain, senders := routeNamed(l.Route)
		v.next("give the right password: relayctl route set '%s' TARGET%s --user '%s' --password-stdin", domain, senders,
			l.User)
	})
}

// routeNamed takes the name of a route apart: its domain, and the options that say for whose mail it is.
func routeNamed(name string) (domain, senders string) {
	domain, rest, _ := strings.Cut(name, " ")
	for _, option := range []string{"login", "from"} {
		if i := strings.LastIndex(" "+rest, " "+option+" "); i >= 0 {
			senders = fmt.Sprintf(" --%s '%s'", option, rest[i+len(option)+1:]) + senders
			rest = strings.TrimRight(rest[:i], " ")
		}
	}
	return domain, senders
}

func judgeLocks(f *Facts, v *verdict) {
	locks, ok := need(v, f.Locks)
	if !ok {
		return
	}
	var all []Lock
	for _, l := range locks {
		if f.Now.Sub(l.Since) > lockLong {
			all = append(all, l)
		}
	}
	some(v, all, func(l Lock) {
		v.add(Warning, "%s: for %s by %s at node %s", l.User, span(f.Now.Sub(l.Since)), l.Remote, l.Node)
		v.next("if that session is none of yours: relayctl mailbox unlock %s", l.User)
	})
	if len(all) == 0 {
		v.note("%s", counted(len(locks), "lock"))
	}
}

func judgeQuota(f *Facts, v *verdict) {
	all, ok := need(v, f.Mailboxes)
	if !ok {
		return
	}
	some(v, all, func(m Mailbox) {
		what := "is nearly full"
		if m.Full() {
			what = "is full and takes no mail"
			v.next("relayctl user set %s --quota SIZE", m.User)
		}
		if m.Quota > 0 {
			v.add(Warning, "%s %s: %s of %s", m.User, what, octets(m.Bytes), octets(m.Quota))
			return
		}
		v.add(Warning, "%s %s: %d of %d messages", m.User, what, m.Messages, m.Limit)
	})
}

func judgePostmaster(f *Facts, v *verdict) {
	all, ok := need(v, f.Postmasters)
	if !ok {
		return
	}
	some(v, all, func(domain string) {
		v.add(Warning, "%s", domain)
		v.next("relayctl alias set postmaster@%s ADDRESS", domain)
	})
}

func judgeOutward(f *Facts, v *verdict) {
	all, ok := need(v, f.Outward)
	if !ok {
		return
	}
	failed := 0
	for _, r := range all {
		if r.Error == "" {
			v.note("%s can be reached", r.Host)
			continue
		}
		failed++
		v.note("%s: %s", r.Host, r.Error)
	}
	if len(all) > 0 && failed == len(all) {
		v.Severity = Warning
	}
}
