package spool

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	pb "relay/cluster/spool/spoolpb"
)

func appendUvarint(n uint64) []byte { return binary.AppendUvarint(nil, n) }

func (t *tx) unmarshal(k, v []byte, into proto.Message) bool {
	if err := proto.Unmarshal(v, into); err != nil {
		t.fail(fmt.Errorf("record %q is corrupt: %w", k, err))
		return false
	}
	return true
}

func (t *tx) audit(adm *pb.Admin, what string) {
	if adm.GetQuiet() {
		return
	}
	if adm.GetNote() != "" {
		what += ": " + adm.Note
	}
	line := &pb.Audit{
		AtMs: t.clock, Who: adm.GetWho(), Why: adm.GetWhy(), Node: adm.GetNode(), What: what, Index: t.index,
	}
	n := t.write(keyAudit(t.index), line)
	if t.watching() {
		t.changes.Happened = append(t.changes.Happened, Happening{Index: t.index, Audit: line})
	}
	t.count(CountAuditBytes, int64(n))
}

// describe says in a line what an admin command does, in the words of the cluster's version.
func (t *tx) describe(h proto.Message) string {
	if put, ok := h.(*pb.PutAccount); ok && put.Create && t.at(2) {
		return "user add " + put.GetAccount().GetAddress()
	}
	return describe(h)
}

// describe says in a line what an admin command does. Secrets stay out of it.
func describe(h proto.Message) string {
	switch h := h.(type) {
	case *pb.PutAccount:
		return "user set " + h.GetAccount().GetAddress()
	case *pb.DropAccount:
		return "user rm " + h.Address
	case *pb.PutDomain:
		if h.Update {
			return "domain set " + h.GetDomain().GetName()
		}
		return "domain add " + h.GetDomain().GetName()
	case *pb.DropDomain:
		return "domain rm " + h.Name
	case *pb.PutAlias:
		return "alias set " + h.GetAlias().GetAddress() + " " + strings.Join(h.GetAlias().GetTargets(), " ")
	case *pb.DropAlias:
		return "alias rm " + h.Address
	case *pb.PutRoute:
		return "route set " + h.GetRoute().GetDomain() + " " + h.GetRoute().GetTarget() + whose(h.Route)
	case *pb.DropRoute:
		return "route rm " + h.Domain + whose(h)
	case *pb.PutRecipients:
		return recipientWords(h)
	case *pb.PutSettings:
		return "settings set"
	case *pb.PutRule:
		return "rule add " + ruleWords(h.Rule)
	case *pb.DropRule:
		return fmt.Sprintf("rule rm %d", h.Id)
	case *pb.PutSuppressed:
		return "suppress add " + h.GetSuppressed().GetAddress() + " for senders of " + h.GetSuppressed().GetDomain()
	case *pb.DropSuppressed:
		return "suppress rm " + h.Address + " for senders of " + h.Domain
	case *pb.Manage:
		n := len(h.Ids) + len(h.Bouncing)
		if h.Admin.GetCount() > 0 {
			n = int(h.Admin.Count)
		}
		return fmt.Sprintf("queue %s of %d messages", strings.ToLower(h.Action.String()), n)
	case *pb.Adopt:
		return fmt.Sprintf("queue of session %d moved", h.From)
	case *pb.Drain:
		if h.Off {
			return "node undrain " + h.Node
		}
		return "node drain " + h.Node
	case *pb.BreakLock:
		return "mailbox unlock " + h.Mailbox
	}
	return describeCluster(h)
}

// describeCluster is describe for what changes the nodes and the keys.
func describeCluster(h proto.Message) string {
	switch h := h.(type) {
	case *pb.PutToken:
		return "node token"
	case *pb.UseToken:
		return "node join " + h.Node
	case *pb.DropMember:
		return "node rm " + h.Id
	case *pb.PutCert:
		if h.Name == UpgradeHold && len(h.Data) > 0 {
			return "cluster upgrade hold"
		} else if h.Name == UpgradeHold {
			return "cluster upgrade release"
		}
		return "cert set " + h.Name
	case *pb.Reseal:
		return "sealed secrets renewed: " + strconv.Itoa(len(h.Items))
	case *pb.PutSecret:
		return "cluster secret made"
	case *pb.PutCa:
		return fmt.Sprintf("cluster rotate-ca, step %d to %d", h.FromStep, h.ToStep)
	case *pb.PutDkim:
		if h.Activate {
			return "dkim activate " + h.GetKey().GetDomain() + " " + h.GetKey().GetSelector()
		}
		return "dkim set " + h.GetKey().GetDomain() + " " + h.GetKey().GetSelector()
	case *pb.DropDkim:
		return "dkim rm " + h.Domain + " " + h.Selector
	}
	return string(h.ProtoReflect().Descriptor().Name())
}

func (t *tx) putAccount(h *pb.PutAccount) *pb.Result {
	a := h.GetAccount()
	if a.GetAddress() == "" {
		return t.refuse(pb.Code_INVALID, "an account needs an address")
	}
	var old pb.Account
	exists := t.read(key(kAccount, a.Address), &old)
	switch {
	case exists && h.Create:
		return t.refuse(pb.Code_EXISTS, "user %s exists", a.Address)
	case !exists && h.Update:
		return t.refuse(pb.Code_MISSING, "there is no user %s", a.Address)
	case !exists && h.Create && t.hides(a.Address):
		return t.refuse(pb.Code_INVALID, "%s is an alias, and its mail would not reach the new mailbox: remove it with "+
			"'relayctl alias rm %s' first, or name %s among its targets, too", a.Address, a.Address, a.Address)
	case h.ExpectChanged != 0 && old.Changed != h.ExpectChanged:
		return t.refuse(pb.Code_STALE, "user %s was changed by somebody else meanwhile: look at it and try again", a.Address)
	case !exists && t.get(key(kDomain, DomainOf(a.Address))) == nil:
		return t.refuse(pb.Code_INVALID, "domain %s is not local: add it with 'relayctl domain add %s' first",
			DomainOf(a.Address), DomainOf(a.Address))
	}
	a.Changed = t.index
	if exists {
		a.Box, a.CreatedMs = old.Box, old.CreatedMs
	} else {
		a.Box, a.CreatedMs = t.index, t.clock
		t.write(key(kBox, a.Address), &pb.Mailbox{Box: t.index, NextUid: 1})
	}
	t.write(key(kAccount, a.Address), a)
	t.keeps(a.Address, old.RetentionMs, a.RetentionMs)
	t.changes.Directory = true
	return t.ok()
}

// dropAccount ends an account. Its mail is swept in steps afterwards; a new
// account of the same name gets another box, so that no UID comes back.
func (t *tx) dropAccount(h *pb.DropAccount) *pb.Result {
	var box pb.Mailbox
	if t.get(key(kAccount, h.Address)) == nil {
		return t.refuse(pb.Code_MISSING, "there is no user %s", h.Address)
	}
	t.read(key(kBox, h.Address), &box)
	t.del(key(kAccount, h.Address))
	t.keeps(h.Address, 1, 0)
	t.del(key(kBox, h.Address))
	if t.at(2) {
		t.write(keyBox(kGarbage, box.Box), &pb.Garbage{Mailbox: h.Address, Who: h.Admin.GetWho(), Why: h.Admin.GetWhy()})
	} else {
		t.set(keyBox(kGarbage, box.Box), []byte{1})
	}
	var held pb.Lock
	if t.locked(h.Address, &held) {
		t.dropLock(h.Address, &held, nil)
	}
	t.changes.Directory = true
	res := t.ok()
	res.Count = uint32(box.Messages)
	return res
}

func (t *tx) putDomain(h *pb.PutDomain) *pb.Result {
	d := h.GetDomain()
	if d.GetName() == "" {
		return t.refuse(pb.Code_INVALID, "a domain needs a name")
	}
	var old pb.Domain
	exists := t.read(key(kDomain, d.Name), &old)
	switch {
	case exists && h.Create:
		return t.refuse(pb.Code_EXISTS, "domain %s exists", d.Name)
	case !exists && h.Update:
		return t.refuse(pb.Code_MISSING, "there is no domain %s", d.Name)
	case h.Update && old.Changed != h.ExpectChanged:
		return t.refuse(pb.Code_STALE, "domain %s was changed by somebody else meanwhile: look at it and try again", d.Name)
	}
	d.CreatedMs, d.Changed = t.clock, t.index
	if exists {
		d.CreatedMs = old.CreatedMs
	}
	t.write(key(kDomain, d.Name), d)
	if t.settings.DefaultDomain == "" {
		t.settings.DefaultDomain = d.Name
		t.writeSettings()
	}
	t.changes.Directory = true
	return t.ok()
}

// dropDomain refuses a domain that still has users: their mail would be
// unreachable.
func (t *tx) dropDomain(h *pb.DropDomain) *pb.Result {
	if t.get(key(kDomain, h.Name)) == nil {
		return t.refuse(pb.Code_MISSING, "there is no domain %s", h.Name)
	}
	var users []string
	t.fail(t.b.Scan([]byte{kAccount}, after([]byte{kAccount}), func(k, _ []byte) bool {
		if address := string(k[1:]); DomainOf(address) == h.Name {
			users = append(users, address)
		}
		return len(users) < 3
	}))
	if len(users) > 0 {
		return t.refuse(pb.Code_INVALID, "domain %s still has users (%s): remove them with 'relayctl user rm' first", h.Name,
			strings.Join(users, ", "))
	}
	t.del(key(kDomain, h.Name))
	if t.settings.DefaultDomain == h.Name {
		t.settings.DefaultDomain = ""
		t.writeSettings()
	}
	t.changes.Directory = true
	return t.ok()
}

func (t *tx) putAlias(h *pb.PutAlias) *pb.Result {
	a := h.GetAlias()
	if a.GetAddress() == "" || len(a.Targets) == 0 {
		return t.refuse(pb.Code_INVALID, "an alias needs an address and a target")
	}
	if t.get(key(kDomain, DomainOf(a.Address))) == nil {
		return t.refuse(pb.Code_INVALID, "domain %s is not local: add it with 'relayctl domain add %s' first",
			DomainOf(a.Address), DomainOf(a.Address))
	}
	if !h.Replace && !slices.Contains(a.Targets, a.Address) && t.get(key(kAccount, a.Address)) != nil {
		return t.refuse(pb.Code_INVALID, "%s is an account, and its mail would no longer reach its mailbox: name %s among "+
			"the targets, too, to keep a copy there, or say --replace", a.Address, a.Address)
	}
	t.write(key(kAlias, a.Address), a)
	t.changes.Directory = true
	return t.ok()
}

// hides reports whether an alias keeps mail from a mailbox of its name.
func (t *tx) hides(address string) bool {
	var a pb.Alias
	return t.read(key(kAlias, address), &a) && !slices.Contains(a.Targets, address)
}

func (t *tx) dropRecord(k []byte, what, name string) *pb.Result {
	if t.get(k) == nil {
		return t.refuse(pb.Code_MISSING, "there is no %s %s", what, name)
	}
	t.del(k)
	t.changes.Directory = true
	return t.ok()
}

// writeSettings keeps what the settings are now.
func (t *tx) writeSettings() {
	if t.at(2) {
		t.settings.Changed = t.index
	}
	t.write(key(kMeta, "settings"), t.settings)
}

func (t *tx) putSettings(h *pb.PutSettings) *pb.Result {
	if h.GetSettings() == nil {
		return t.refuse(pb.Code_INVALID, "no settings given")
	}
	if t.at(2) && h.ExpectChanged != nil && h.GetExpectChanged() != t.settings.GetChanged() {
		return t.refuse(pb.Code_STALE, "the settings were changed by somebody else meanwhile: look at them and try again")
	}
	t.settings = h.Settings
	t.writeSettings()
	t.changes.Directory = true
	return t.ok()
}

func (t *tx) putCluster(h *pb.PutCluster) *pb.Result {
	if h.GetCluster().GetId() == "" {
		return t.refuse(pb.Code_INVALID, "a cluster needs an id")
	}
	if t.cluster.GetId() != "" && t.cluster.Id != h.GetCluster().GetId() {
		return t.refuse(pb.Code_EXISTS, "this is cluster %s", t.cluster.Id)
	}
	if t.cluster.GetId() != "" && h.Cluster.Version <= t.cluster.Version {
		return t.refuse(pb.Code_DUPLICATE, "done before")
	}
	h.Cluster.CreatedMs = t.clock
	if now := VersionOf(t.cluster); now > 1 {
		h.Cluster.Raised = now
	} else if now == 0 && h.Cluster.Version > 1 {
		h.Cluster.Raised = h.Cluster.Version
	}
	t.cluster = h.Cluster
	t.write(key(kMeta, "cluster"), t.cluster)
	t.changes.Version = VersionOf(t.cluster)
	return t.ok()
}

func (t *tx) useToken(h *pb.UseToken) *pb.Result {
	var one pb.JoinToken
	k := key(kJoinToken, string(h.GetHash()))
	if !t.read(k, &one) {
		return t.refuse(pb.Code_MISSING, "the join token is unknown or used up: make one with 'relayctl node token'")
	}
	if one.ExpiresMs <= t.clock || t.at(2) && one.MadeMs > t.clock+maxTick {
		t.del(k)
		return t.refuse(pb.Code_STALE, "the join token has expired: make one with 'relayctl node token'")
	}
	if one.Uses--; one.Uses == 0 {
		t.del(k)
	} else {
		t.write(k, &one)
	}
	return t.ok()
}

// manage changes queue entries by an operator's word.
func (t *tx) manage(h *pb.Manage) *pb.Result {
	if h.Action == pb.Action_BOUNCE {
		return t.bounceAll(h)
	}
	res := t.ok()
	for _, raw := range h.Ids {
		id, ok := toID(raw)
		if !ok {
			continue
		}
		var m pb.Message
		if !t.read(keyID(kMessage, id), &m) {
			continue
		}
		for n := range m.Recipients {
			var r pb.Recipient
			if !t.read(keyRecipient(id, n), &r) || h.Recipient != "" && h.Recipient != r.Address {
				continue
			}
			if h.Domain != "" && (h.Domain != DomainOf(r.Address) || r.State != pb.State_DEFERRED) {
				continue
			}
			if t.manageOne(h, id, n, &r, m.Size) {
				res.Count++
			}
		}
	}
	if res.Count == 0 {
		res.Code, res.Text = pb.Code_MISSING, "no queue entry was changed: 'relayctl queue ls' shows what waits"
	}
	return res
}

func (t *tx) manageOne(h *pb.Manage, id ID, n uint32, r *pb.Recipient, size uint64) bool {
	e := &pb.Event{Recipient: r.Address, Node: h.Admin.GetNode(), Who: h.Admin.GetWho(), Why: h.Admin.GetWhy()}
	was := r.State
	switch h.Action {
	case pb.Action_DELETE:
		e.What, e.Number = "deleted", n+1
		t.settled(id, n, r, pb.State_DELETED, e)
		return true
	case pb.Action_HOLD:
		if r.State == pb.State_HELD {
			return false
		}
		e.What, r.State = "held", pb.State_HELD
	case pb.Action_RELEASE:
		if r.State != pb.State_HELD && !h.Pass {
			return false
		}
		e.What, r.NextMs = "released", t.clock
		if h.Pass {
			r.Pass = t.index
		}
		if r.State = pb.State_QUEUED; r.Attempts > 0 {
			r.State = pb.State_DEFERRED
		}
	case pb.Action_RETRY:
		if r.State == pb.State_HELD || r.State == pb.State_SUSPENDED {
			return false
		}
		e.What, r.NextMs = "retried", t.clock
	case pb.Action_REROUTE:
		e.What, e.Detail = "rerouted", "to "+h.Route
		r.Route, r.NextMs = h.Route, t.clock
	default:
		return false
	}
	domain := DomainOf(r.Address)
	t.count(destinationCounter(domain, was), -1)
	t.count(destinationCounter(domain, r.State), 1)
	e.NextMs = r.NextMs
	t.putRecipient(id, n, r)
	t.history(id, e)
	t.changed(id, n, r, size, t.owner(r.Home, bucketOf(id)))
	return true
}

// Defaults of settings that are zero.
const (
	DefaultHistoryMs    = 3 * 24 * 3600 * 1000
	DefaultHistoryBytes = 4 << 30                // three days of two million messages each
	historyBytesV1      = 1 << 30                // before cluster version 2
	DefaultAuditMs      = 400 * 24 * 3600 * 1000 // a year, and what it takes to look back at it
	DefaultAuditBytes   = 64 << 20
	minHistoryMs        = 10 * 60 * 1000 // a retried Accept must still meet its message
	seenMs              = 3600 * 1000    // how long an admin request is remembered
)

// sweep deletes what is past its time, a bounded piece at once. Count is how much was
// deleted, and the limit at least where more history is due: the proposer comes back
// while it is at the limit.
func (t *tx) sweep(h *pb.Sweep) *pb.Result {
	limit := int(min(max(h.GetLimit(), 1), 10000))
	res := t.ok()
	ages := t.ages(h)
	t.sweepHistory(limit, ages, res)
	t.scan([]byte{kOrphan}, limit, func(k, v []byte) {
		var orphan pb.Orphan
		if t.unmarshal(k, v, &orphan) && t.forsaken(h, &orphan, ages) {
			id, _ := toID(k[1:])
			t.dropOrphan(id, &orphan)
			res.Count++
		}
	})
	for _, step := range [...]struct {
		aged bool // it goes by age alone
		do   func(limit int, res *pb.Result)
	}{
		{true, t.sweepRequests},
		{false, func(limit int, res *pb.Result) { t.sweepAudit(limit, ages, res) }},
		{true, t.sweepFailures}, {true, t.sweepRetention},
		{false, t.sweepBoxes}, {false, t.sweepTombstones},
		{true, t.sweepDedup}, {true, t.sweepOld}, {true, t.sweepGrey}, {true, t.sweepCerts}, {true, t.sweepJoinTokens},
		{true, t.sweepRules}, {true, t.sweepSuppressions},
	} {
		if ages || !step.aged {
			step.do(limit, res)
		}
	}
	return res
}

// forsaken reports whether nobody will claim a body any more.
func (t *tx) forsaken(h *pb.Sweep, orphan *pb.Orphan, ages bool) bool {
	if !t.at(2) {
		return orphan.CreatedMs < h.OrphansBeforeMs
	}
	return ages && h.OrphansAgeMs > 0 && t.since(orphan.CreatedMs) > h.OrphansAgeMs
}

func (t *tx) sweepRequests(limit int, res *pb.Result) {
	t.scan([]byte{kRequest}, limit, func(k, v []byte) {
		var seen pb.Seen
		if t.unmarshal(k, v, &seen) && t.since(seen.AtMs) > seenMs {
			t.del(k)
			res.Count++
		}
	})
}

func (t *tx) sweepJoinTokens(limit int, res *pb.Result) {
	t.scan([]byte{kJoinToken}, limit, func(k, v []byte) {
		var token pb.JoinToken
		if t.unmarshal(k, v, &token) && token.ExpiresMs < t.clock {
			t.del(k)
			res.Count++
		}
	})
}

// sweepAudit forgets the oldest lines of the audit log: what is past its time,
// or more than its bound in octets.
func (t *tx) sweepAudit(limit int, ages bool, res *pb.Result) {
	keep, bound := t.settings.AuditMs, int64(min(t.settings.AuditBytes, 1<<62))
	if keep <= 0 {
		keep = DefaultAuditMs
	}
	if bound == 0 {
		bound = DefaultAuditBytes
	}
	var old [][]byte
	size := t.counters[CountAuditBytes]
	t.fail(t.b.Scan([]byte{kAudit}, after([]byte{kAudit}), func(k, v []byte) bool {
		var line pb.Audit
		if !t.unmarshal(k, v, &line) || !(ages && t.age(line.AtMs, line.Index) > keep) && size <= bound || len(old) == limit {
			return false // lines stand in the order of time
		}
		old = append(old, slices.Clone(k))
		size -= int64(len(v))
		return true
	}))
	for _, k := range old {
		t.del(k)
		res.Count++
	}
	t.count(CountAuditBytes, max(size, 0)-t.counters[CountAuditBytes])
}

// boxesPerSweep is how many boxes without an account one Sweep looks at.
const boxesPerSweep = 100

// sweepBoxes empties boxes without an account, at most limit entries in all.
func (t *tx) sweepBoxes(limit int, res *pb.Result) {
	t.scan([]byte{kGarbage}, boxesPerSweep, func(k, mark []byte) {
		if limit > 0 {
			gone := t.sweepBox(k, mark, limit)
			t.reportRemoved(res, gone)
			limit -= len(gone.GetIds()) / idOctets
		}
	})
}

// sweepBox deletes entries of a dropped account, and the mark when none is left.
// It returns what it deleted.
func (t *tx) sweepBox(mark, value []byte, limit int) *pb.Removed {
	box := numberOf(mark)
	var of pb.Garbage
	if !bytes.Equal(value, []byte{1}) && !t.unmarshal(mark, value, &of) {
		return nil
	}
	gone := &pb.Removed{Mailbox: of.Mailbox, Who: of.Who, Why: "account dropped"}
	if of.Why != "" {
		gone.Why += ": " + of.Why
	}
	t.scan(keyBox(kEntry, box), limit, func(k, v []byte) {
		var entry pb.Entry
		if t.unmarshal(k, v, &entry) {
			t.dropEntry(box, uidOf(k), &entry)
			t.unreference(&entry, &pb.Event{What: "removed", Detail: "account dropped", Who: of.Who, Why: of.Why})
			gone.Ids = append(gone.Ids, entry.Id...)
		}
	})
	if len(gone.Ids) < limit*idOctets {
		t.del(mark)
	}
	return gone
}

// idOctets is the size of a message's id.
const idOctets = len(ID{})

// reportRemoved counts what a Sweep took out of a mailbox, and has its answer name it.
func (t *tx) reportRemoved(res *pb.Result, gone *pb.Removed) {
	if len(gone.GetIds()) == 0 {
		return
	}
	res.Count += uint32(len(gone.Ids) / idOctets)
	if t.at(2) {
		res.Removed = append(res.Removed, gone)
	}
}
