// Package danger says which settings do more than they seem to.
package danger

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"relay/cmd/internal/wording"
	"relay/node/admin"
)

// Below or above these a setting does what hardly anybody wants.
const (
	shortLife    = 4 * 3600 // of the queue; RFC 5321 §4.5.4.1 wants 4 to 5 days
	shortRetry   = 10       // between tries
	shortHistory = 3600     // of a message
	shortAudit   = 30 * 24 * 3600
	longGreylist = 3600
	shortGrey    = 24 * 3600 // memory of who passed the greylist
	smallBound   = 1 << 20
	shortKeep    = 24 * 3600 // of mail in a mailbox
	longDelay    = 3600      // between logins
)

// Settings says what settings do that were just made and do more than they seem to.
// Set reports whether a flag was given.
func Settings(s *admin.Settings, set func(flag string) bool) (words []string) {
	life, firstTry, longest := orElse(s.ExpireSeconds, 5*24*3600), orElse(s.RetryFirstSeconds, 300),
		orElse(s.RetryMaxSeconds, 4*3600)
	for _, one := range []struct {
		flag string
		when bool
		text string
	}{
		{"expire", life < shortLife, fmt.Sprintf("mail that is not delivered within %s is given back to its sender, also "+
			"what waits now; hosts that are down for longer get none", seconds(life))},
		{"expire", life < firstTry, fmt.Sprintf("mail is tried only once: the first retry comes after %s",
			seconds(firstTry))},
		{"retry-first", firstTry < shortRetry, fmt.Sprintf("a host that does not answer is tried again after %s; some "+
			"block who comes that often", seconds(firstTry))},
		{"retry-first", life < firstTry, fmt.Sprintf("mail is tried only once: it is given up after %s", seconds(life))},
		{"retry-max", longest < shortRetry, fmt.Sprintf("a host that does not answer is tried every %s; some block who "+
			"comes that often", seconds(longest))},
		{"retry-max", longest > life,
			fmt.Sprintf("mail is given up after %s, before the longest wait is over", seconds(life))},
		{"history", short(s.HistorySeconds, shortHistory), fmt.Sprintf("'relayctl trace' no longer finds what was "+
			"delivered or given back more than %s ago; what is older is deleted", seconds(s.HistorySeconds))},
		{"history-bytes", short(s.HistoryBytes, smallBound), fmt.Sprintf("'relayctl trace' finds only the newest messages, "+
			"as %s of history are kept; what is older is deleted", wording.Size(s.HistoryBytes))},
		{"audit", short(s.AuditSeconds, shortAudit), fmt.Sprintf("entries of the audit log that are older than %s are "+
			"deleted", seconds(s.AuditSeconds))},
		{"audit-bytes", short(s.AuditBytes, smallBound), fmt.Sprintf("%s of the audit log are kept; what is older is "+
			"deleted", wording.Size(s.AuditBytes))},
		{"greylist", s.Greylist > longGreylist, fmt.Sprintf("the first mail of every stranger waits for %s or longer, and "+
			"some senders give up before", seconds(s.Greylist))},
		{"greylist-life", short(s.GreylistLife, shortGrey), fmt.Sprintf("who has not written for %s is a stranger again, "+
			"and waits", seconds(s.GreylistLife))},
		{"from-check", s.FromCheck == "off", "every account may write any address into From"},
		{"default-domain", s.DefaultDomain != "", "logins and addresses without a domain mean " + s.DefaultDomain +
			" from now on"},
		{"default-domain", s.DefaultDomain == "", "logins and addresses without a domain are refused from now on"},
		{"greylist-exempt", slices.ContainsFunc(s.GreylistExempt, func(n string) bool { return strings.HasSuffix(n, "/0") }),
			"everybody is exempt, and nobody is greylisted"},
	} {
		if one.when && set(one.flag) {
			words = append(words, one.text)
		}
	}
	return words
}

// short reports whether a value that was given is below a bound; 0 is the default.
func short[N int64 | uint64](n, bound N) bool { return n > 0 && n < bound }

func orElse(n, other int64) int64 {
	if n == 0 {
		return other
	}
	return n
}

// User is Settings for the settings of one account.
func User(address string, s admin.UserSet) (words []string) {
	if s.Retention != nil && short(*s.Retention, shortKeep) {
		words = append(words, fmt.Sprintf("mail of %s that is older than %s is deleted, read or not", address,
			wording.Age(time.Duration(*s.Retention)*time.Second)))
	}
	if s.LoginDelay != nil && *s.LoginDelay > longDelay {
		words = append(words, fmt.Sprintf("%s can log in by POP3 once in %s only", address, seconds(*s.LoginDelay)))
	}
	return words
}

func seconds(n int64) string { return wording.Age(time.Duration(n) * time.Second) }
