package spool

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	pb "relay/cluster/spool/spoolpb"
)

// The cluster version is part of the state: a Raise sets it, and Apply of an
// entry follows the version in the state at that entry, never the build. Under
// each number stands one line for each change of what Apply does, or of what a
// command may hold.
//
// Version 2:
//   - Raise sets the cluster version, in Cluster.raised.
//     It is refused while the record UpgradeHold is there. A PutCert may name an admin, for the audit log.
//   - It begins the chain of sums (sum.go) anew. Renew leaves the node's newest anchor in its session.
//   - A Register of a build that does not know the cluster version, or does not say what it knows, is refused.
//   - Register and Renew say how long they hold (lease_ms). A Renew whose seq is not above the session's is
//     DUPLICATE and changes nothing; an Expire that comes too late is told the session's renewal.
//   - Register records serial and key of the node's certificate where none is on record, and keeps what is; Certify
//     replaces them. PutCa takes the steps of a rotation of the CA; Renew says how far a node is (ca).
//   - Outside of Apply: term and vote have checksums (log.Log.SealPromises).
//   - Register and Renew leave the node's wall clock in its session.
//   - Generation begins the cluster's life after a recovery: no member has a certificate on record then.
//   - A PutRoute names EHLO keywords that do not count (no_ehlo), and how TLS is used (tls, implicit_tls, fingerprints,
//     tls_ca), as whom to log in (user, password, oauth), where else mail goes (more, weights, fallback), from where
//     (sources), what hosts are shown (client_cert, client_key), that anyone may send there (callout, recipients), and
//     whose mail it is for (from, login), which a DropRoute names, too.
//   - PutRecipients lists the recipients of routed domains.
//   - Settings say what becomes of accounts' mail from others' addresses (from_check); a new cluster begins with
//     refuse. They have the site's own rules of what replies mean (reply_rules) and of when to try again (retry_rules),
//     the age and text of notices (delay_notice_ms, notice_template), how reverse-paths are rewritten (srs_domain,
//     srs_generation), limits and names of receivers (limits, sites), and which replies slow a destination down
//     (slow_classes), all of which Apply only keeps.
//   - Settings have the index of their last change (changed); a PutSettings that expects another is STALE
//     (expect_changed).
//   - PutSecret gives the cluster a secret. Outside of Apply: the salts that SCRAM tells of nobody are made of it, and
//     no more of the CA's key.
//   - Reseal puts sealed secrets of routes into their records under another key.
//   - A Register must know the nonce of the one before, and names the session whose place it takes; Register and
//     Renew say how far the node's log goes.
//   - A Drain marks the member's record, too (drain_ms), so that the mark outlives the session; it is refused where
//     no other node would be left to take the work. An end of a drain needs no session.
//   - DropMember leaves a Tomb with the certificates that count no more.
//   - A stamp more than 60 s ahead does not move the clock, a Clock makes it jump (TimeState). Sweep deletes by
//     age only where it says so (ages) and no jump is recent. A record dated in the future happened before the clock
//     was set back. Recipients, shards, entries and messages carry the index they were written at, and
//     maybe_duplicate goes by it. Dedup keys that were written before the clock was set back count when it comes
//     there again.
//   - The audit line of a command has the note of its Admin behind it. Of an action that takes several commands one
//     leaves a line (quiet), with the number of messages of all (count).
//   - PutDkim has a key that is there sign in place of the others (activate).
//   - A Recipient has the address that the client gave, for reports (addressed), and its message's size (size).
//   - Import puts old mail into mailboxes, each message once in 30 days by its key. A Drop and its Entry may have a
//     unique id of their own (uidl).
//   - Of a Message whose body does not end with CRLF (unended) a mailbox counts two octets more, as POP3 sends them.
//   - A DropAccount says in the mailbox's mark whose it was (Garbage), and a Sweep answers what it took out of
//     mailboxes.
//   - History goes by windows (apply_history.go), and up to 11 minutes later than before.
//   - History may have 4 GiB where no setting says otherwise; 1 GiB before.
//   - The audit line of a PutAccount that creates says "user add", as relayctl does.
//   - A BreakLock says which lock the operator saw (token), and leaves later ones.
//   - A Notice of a Settle says whom it reports on (recipients), and exists only if one of their verdicts was taken.
//   - PutSuppressed, DropSuppressed and verdicts (suppress) keep the suppression list, of which a Sweep takes what is
//     past its time. A Domain says for how long addresses are on it (suppress_ms).
//   - PutRule and DropRule keep standing rules, and a Sweep ends those whose time is over. A Manage that releases lets
//     mail pass rules (pass).
//   - PutPolicy keeps MTA-STS policies of other domains, a bounded number. PutTls and DropTls keep counts for TLS-RPT.
const (
	MinVersion = 1 // the oldest cluster version whose entries this build applies
	MaxVersion = 2 // the newest
)

// since says from which version on a kind of command may be used; kinds that
// are not here are of version 1. A Raise is of version 1: it leads to version 2.
var since = map[Kind]uint32{
	KindClock:      2,
	KindGeneration: 2,
	KindCertify:    2,
	KindPutCa:      2,
	KindPutSecret:  2,
	KindReseal:     2,
	KindImport:     2,
	KindPutRule:    2,
	KindDropRule:   2,

	KindPutRecipients: 2,
	KindPutPolicy:     2,
	KindPutTls:        2,
	KindDropTls:       2,

	KindPutSuppressed:  2,
	KindDropSuppressed: 2,
}

// sinceMessage says it of messages that came whole, and sinceField of fields
// that came later than their message. A field or message in neither is of version 1.
// Encode reads here which version a command needs, nested records included.
var (
	sinceMessage = map[string]uint32{
		"Tomb": 2, "TimeState": 2, "TimeState.Jump": 2,
		"Raise": 1,
		"Clock": 2, "Generation": 2, "Certify": 2, "PutCa": 2, "PutSecret": 2,
		"Reseal": 2, "Reseal.Item": 2,
		"Import": 2, "Old": 2, "Uidl": 2,
		"Garbage": 2, "Removed": 2, "Window": 2,
		"Rule": 2, "PutRule": 2, "DropRule": 2, "PutRecipients": 2,
		"Policy": 2, "PutPolicy": 2, "Tls": 2, "PutTls": 2, "DropTls": 2,
		"Suppressed": 2, "PutSuppressed": 2, "DropSuppressed": 2,
	}
	sinceField = map[string]uint32{
		"Recipient.changed": 2, "Recipient.addressed": 2, "Recipient.pass": 2, "Manage.pass": 2, "Recipient.size": 2,
		"Entry.index": 2, "Message.index": 2, "Message.unended": 2,
		"Route.no_ehlo": 2, "Route.tls": 2, "Route.implicit_tls": 2, "Route.fingerprints": 2, "Route.tls_ca": 2,
		"Route.user": 2, "Route.password": 2,
		"Route.more": 2, "Route.weights": 2, "Route.fallback": 2, "Route.sources": 2, "Route.client_cert": 2,
		"Route.client_key": 2, "Route.oauth": 2, "Route.callout": 2, "Route.from": 2, "Route.login": 2, "Route.recipients": 2,
		"DropRoute.from": 2, "DropRoute.login": 2,
		"Notice.recipients": 2,
		"Verdict.suppress":  2, "Domain.suppress_ms": 2,
		"Settings.from_check": 2, "Settings.reply_rules": 2,
		"Settings.retry_rules": 2, "Settings.delay_notice_ms": 2, "Settings.notice_template": 2,
		"Settings.srs_domain": 2, "Settings.srs_generation": 2,
		"Settings.limits": 2, "Settings.sites": 2,
		"Settings.slow_classes": 2, "Settings.changed": 2, "PutSettings.expect_changed": 2,
		"Admin.note": 2, "Admin.count": 2, "Admin.quiet": 2,
		"PutDkim.activate": 2, "BreakLock.token": 2,
		"Refs.late": 2, "Drop.uidl": 2, "Entry.uidl": 2,
		"Session.wall_ms": 2, "Session.lease_ms": 2, "Session.term": 2, "Session.last": 2, "Session.sum_index": 2,
		"Session.sum": 2, "Session.seq": 2, "Session.ca": 2,
		"Member.nonce": 2, "Member.serial": 2, "Member.old_serial": 2, "Member.issued_ms": 2, "Member.ca": 2,
		"Member.term": 2, "Member.last": 2, "Member.registered": 2, "Member.log": 2, "Member.key": 2, "Member.old_key": 2,
		"Member.drain_ms": 2, "Drain.notice_ms": 2,
		"Cluster.next_cert": 2, "Cluster.next_key": 2, "Cluster.cross_cert": 2, "Cluster.ca_step": 2,
		"Cluster.generation": 2, "Cluster.raised": 2, "Cluster.secret": 2,
		"JoinToken.made_ms": 2,
		"PutCert.admin":     2,
		"Shard.adopted":     2,
		"Result.renewed":    2, "Result.removed": 2,
		"Register.wall_ms": 2, "Register.previous": 2, "Register.over_epoch": 2, "Register.over_renewed": 2,
		"Register.lease_ms": 2, "Register.term": 2, "Register.last": 2,
		"Renew.wall_ms": 2, "Renew.lease_ms": 2, "Renew.term": 2, "Renew.last": 2, "Renew.seq": 2, "Renew.sum_index": 2,
		"Renew.sum": 2, "Renew.ca": 2,
		"Sweep.ages": 2, "Sweep.orphans_age_ms": 2,
	}
)

// Version is the version that a frame needs, 0 where it is cut short.
func (f Frame) Version() uint32 {
	if len(f) < preamble {
		return 0
	}
	return uint32(f[0])
}

// VersionOf is the cluster version that a record says; 0: there is no cluster
// yet. Builds of version 1 have a PutCluster that changes Cluster.version, and
// may use it at the start of a node that was rolled back; only a Raise counts.
func VersionOf(c *pb.Cluster) uint32 {
	if c.GetId() == "" {
		return 0
	}
	return max(1, c.Raised)
}

// at reports whether the cluster version of the state has reached v.
func (s *state) at(v uint32) bool { return VersionOf(s.cluster) >= v }

// ErrVersion says that the cluster goes on with a version that this build does
// not know: the node must end before it applies the entry.
var ErrVersion = errors.New("spool: the cluster goes on with a version that this relayd does not know")

// knows refuses a state that this build can't go on from.
func knows(c *pb.Cluster) error {
	if v := VersionOf(c); v > MaxVersion || v != 0 && v < MinVersion {
		return fmt.Errorf("%w: the data is of cluster version %d, this relayd knows %s: install one that knows it",
			ErrVersion, v, Versions())
	}
	return nil
}

// Versions says in words which cluster versions this build applies.
func Versions() string {
	if MinVersion == MaxVersion {
		return fmt.Sprint(MaxVersion)
	}
	return fmt.Sprintf("%d to %d", MinVersion, MaxVersion)
}

// UpgradeHold names the record that keeps the cluster version where it is. It is
// kept as certificates are, since builds of version 1 apply a PutCert with any
// name as this one does.
const UpgradeHold = "cluster/upgrade-hold"

// UpgradeHeld reports whether an operator wants the cluster version to stay, and
// what the record says of who wants it.
func (v View) UpgradeHeld() (by string, held bool, err error) {
	c, held, err := v.Cert(UpgradeHold)
	return string(c.GetData()), held, err
}

// raise sets the cluster version, and nothing else of the cluster's record.
func (t *tx) raise(h *pb.Raise) *pb.Result {
	now := VersionOf(t.cluster)
	switch {
	case now == 0:
		return t.refuse(pb.Code_MISSING, "there is no cluster yet")
	case h.From != now:
		return t.refuse(pb.Code_STALE, "the cluster version is %d", now)
	case h.To < h.From:
		return t.refuse(pb.Code_INVALID, "the cluster version never falls")
	case h.To > h.From && t.get(key(kCert, UpgradeHold)) != nil:
		return t.refuse(pb.Code_STALE,
			"the cluster version is held: release it first with 'relayctl cluster upgrade --release'")
	case h.To > MaxVersion:
		t.fail(fmt.Errorf("%w: it goes on with version %d, this relayd knows %s: install the newer one",
			ErrVersion, h.To, Versions()))
		return nil
	}
	t.cluster = proto.CloneOf(t.cluster)
	t.cluster.Version, t.cluster.Raised = h.To, h.To
	t.write(key(kMeta, "cluster"), t.cluster)
	if h.From < 2 && h.To >= 2 {
		t.closeWindows(windowOf(t.clock) + 1) // what has ended so far is in the expiry index
	}
	t.changes.Version = h.To
	t.audit(h.Admin, fmt.Sprintf("cluster upgrade from version %d to %d", h.From, h.To))
	return t.ok()
}
