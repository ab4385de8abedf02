package admintest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"relay/node/admin"
)

// Change is one change that the fake was asked for.
type Change struct {
	By   admin.By
	What string
}

// Fake holds everything in maps. Its clock stands still. It may be used
// concurrently; set the exported fields before.
type Fake struct {
	Now time.Time
	// Fail, where set, is asked before each call and its error returned.
	Fail func(call string) error
	// Found is what is not well, by the doctor.
	Found []admin.Condition

	mu        sync.Mutex
	status    admin.Status
	domains   map[string]admin.Domain
	users     map[string]admin.User
	passwords map[string]string
	aliases   map[string]admin.Alias
	routes    map[string]admin.Route
	listed    map[string]map[string]bool // recipients by routed domain
	signers   []admin.Signer
	rules     []admin.Rule
	settings  admin.Settings
	changed   uint64 // how often the settings were
	queue     []admin.QueueMessage
	imported  map[string]bool
	bodies    map[string]string
	traces    []admin.Trace
	mailboxes map[string]*admin.MailboxDetail
	audit     []admin.AuditEntry
	happened  []admin.StreamEvent
	changes   []Change
	seen      map[string]bool
	sent      int

	suppressed []admin.Suppressed
}

// New returns a fake of a healthy three-node cluster with the domain
// example.test, the users alice and bob, and nothing in the queue.
func New() *Fake {
	f := &Fake{
		Now:     time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC),
		domains: map[string]admin.Domain{}, users: map[string]admin.User{}, passwords: map[string]string{},
		aliases: map[string]admin.Alias{}, routes: map[string]admin.Route{}, bodies: map[string]string{},
		mailboxes: map[string]*admin.MailboxDetail{}, seen: map[string]bool{},
	}
	f.status = admin.Status{Cluster: "dev", Healthy: true, Leader: "n1", Term: 3, Node: "n1", FailoverSeconds: 5,
		MayFail: 1, ClusterVersion: 1, HistorySpan: 50 * 3600, HistoryLasts: 3 * 24 * 3600,
		Upgrade: "cluster version 1, all nodes can 2: raised in 43 min; no way back after that"}
	for i, role := range []string{admin.RoleLeader, admin.RoleFollower, admin.RoleFollower} {
		f.status.Nodes = append(f.status.Nodes, admin.Node{
			ID: fmt.Sprintf("n%d", i+1), State: admin.NodeAlive, Role: role, Applied: 4711, Version: "1.0.0",
			Hostname: fmt.Sprintf("mx%d.example.test", i+1), Address: fmt.Sprintf("127.0.0.1:12%d70", i+1),
			Admin: fmt.Sprintf("http://127.0.0.1:12%d80", i+1), DiskFree: 40 << 30, DiskTotal: 100 << 30,
			UptimeSeconds: 3600, LastSeen: admin.At(f.Now),
		})
	}
	f.domains["example.test"] = admin.Domain{Name: "example.test", Created: f.at(-time.Hour), AuthPolicy: admin.AuthTag}
	for _, name := range []string{"alice", "bob"} {
		address := name + "@example.test"
		f.users[address] = admin.User{Address: address, Created: f.at(-time.Hour)}
		f.mailboxes[address] = &admin.MailboxDetail{Mailbox: admin.Mailbox{User: address}}
	}
	f.aliases["postmaster@example.test"] = admin.Alias{
		Address: "postmaster@example.test", Targets: []string{"alice@example.test"},
	}
	return f
}

// Ports returns the fake as all ports.
func (f *Fake) Ports() admin.Ports {
	return admin.Ports{Cluster: f, Domains: f, Users: f, Aliases: f, Signers: f, Routes: f, Rules: f, Policy: f, Queue: f,
		History: f, Mailboxes: f, Content: f, Mail: f, Audit: f, Doctor: f, Events: f, Suppressions: f}
}

func (f *Fake) at(d time.Duration) admin.Time { return admin.At(f.Now.Add(d)) }

// Cluster changes the status that the fake reports.
func (f *Fake) Cluster(change func(*admin.Status)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(&f.status)
}

// Enqueue adds a waiting message with a body.
func (f *Fake) Enqueue(m admin.QueueMessage, body string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m.AgeSeconds == 0 {
		m.AgeSeconds = int64(f.Now.Sub(m.Created.Time).Seconds())
	}
	f.queue = append(f.queue, m)
	f.bodies[m.ID] = body
}

// AddTrace adds a timeline.
func (f *Fake) AddTrace(t admin.Trace) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.traces = append(f.traces, t)
}

// Lock locks a maildrop.
func (f *Fake) Lock(user string, l admin.Lock) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mailboxes[user].Lock = &l
}

// Changes returns what was asked for so far.
func (f *Fake) Changes() []Change {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.changes)
}

// Password returns a user's password.
func (f *Fake) Password(address string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.passwords[address]
}

// ask begins a read.
func (f *Fake) ask(call string) (unlock func(), err error) {
	if f.Fail != nil {
		if err := f.Fail(call); err != nil {
			return nil, err
		}
	}
	f.mu.Lock()
	return f.mu.Unlock, nil
}

// change begins a change; repeated says that the same request was seen.
func (f *Fake) change(call string, by admin.By, format string, args ...any) (unlock func(), repeated bool, err error) {
	unlock, err = f.ask(call)
	if err != nil {
		return nil, false, err
	}
	if f.seen[by.Request] {
		return unlock, true, nil
	}
	f.seen[by.Request] = true
	what := fmt.Sprintf(format, args...)
	f.changes = append(f.changes, Change{by, what})
	f.audit = append(f.audit, admin.AuditEntry{
		At: f.at(0), Who: by.Who, Why: by.Why, What: what, Node: "n1", Index: uint64(100 + len(f.audit)),
	})
	return unlock, false, nil
}

// Status implements admin.Cluster.
func (f *Fake) Status(context.Context) (*admin.Status, error) {
	unlock, err := f.ask("Status")
	if err != nil {
		return nil, err
	}
	defer unlock()
	s := f.status
	s.Nodes = slices.Clone(s.Nodes)
	s.Queue = f.totals()
	return &s, nil
}

func (f *Fake) totals() (t admin.QueueTotals) {
	for _, m := range f.queue {
		t.Messages++
		t.Recipients += uint64(len(m.Recipients))
		t.Bytes += m.Size
	}
	return t
}

// Token implements admin.Cluster.
func (f *Fake) Token(_ context.Context, by admin.By, r admin.TokenRequest) (*admin.Token, error) {
	unlock, _, err := f.change("Token", by, "node token")
	if err != nil {
		return nil, err
	}
	defer unlock()
	return &admin.Token{Token: "join-secret", Expires: f.at(time.Duration(r.TTLSeconds) * time.Second), Uses: r.Uses,
		Address: "127.0.0.1:12170"}, nil
}

func (f *Fake) node(id string) (*admin.Node, error) {
	for i := range f.status.Nodes {
		if f.status.Nodes[i].ID == id {
			return &f.status.Nodes[i], nil
		}
	}
	return nil, admin.NotFound("node", id)
}

// Remove implements admin.Cluster.
func (f *Fake) Remove(_ context.Context, by admin.By, id string, o admin.RemoveOptions) (*admin.NodeChange, error) {
	unlock, _, err := f.change("Remove", by, "node rm %s", id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	n, err := f.node(id)
	if err != nil {
		return nil, err
	}
	effects := []string{"node " + id + " leaves the cluster for good"}
	leads := n.Role == admin.RoleLeader
	if leads {
		effects = append(effects, "the leadership moves to another node first")
	}
	if !o.DryRun {
		f.status.Nodes = slices.DeleteFunc(f.status.Nodes, func(n admin.Node) bool { return n.ID == id })
		if leads && len(f.status.Nodes) > 0 {
			f.status.Nodes[0].Role = admin.RoleLeader
		}
	}
	return &admin.NodeChange{ID: id, DryRun: o.DryRun, Effects: effects}, nil
}

// Drain implements admin.Cluster.
func (f *Fake) Drain(_ context.Context, by admin.By, id string, o admin.DrainOptions) (*admin.NodeChange, error) {
	unlock, _, err := f.change("Drain", by, "node drain %s off=%v", id, o.Off)
	if err != nil {
		return nil, err
	}
	defer unlock()
	n, err := f.node(id)
	if err != nil {
		return nil, err
	}
	effect := id + " takes no new work"
	if o.Off {
		effect = id + " takes work again"
	}
	if !o.DryRun {
		n.State, n.Drained = admin.NodeDrained, true
		if o.Off {
			n.State, n.Drained = admin.NodeAlive, false
		}
	}
	return &admin.NodeChange{ID: id, DryRun: o.DryRun, Effects: []string{effect}}, nil
}

// Upgrade implements admin.Cluster.
func (f *Fake) Upgrade(_ context.Context, by admin.By, o admin.UpgradeOptions) (*admin.NodeChange, error) {
	unlock, _, err := f.change("Upgrade", by, "cluster upgrade hold=%t release=%t dry=%t", o.Hold, o.Release, o.DryRun)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if !o.DryRun && !o.Hold && !o.Release {
		f.status.ClusterVersion, f.status.Upgrade = 2, ""
	}
	return &admin.NodeChange{DryRun: o.DryRun, Effects: []string{"the cluster version rises from 1 to 2"}}, nil
}

// RotateCA implements admin.Cluster.
func (f *Fake) RotateCA(_ context.Context, by admin.By, o admin.RotateOptions) (*admin.NodeChange, error) {
	unlock, _, err := f.change("RotateCA", by, "cluster rotate-ca without=%v dry=%t", o.Without, o.DryRun)
	if err != nil {
		return nil, err
	}
	defer unlock()
	change := &admin.NodeChange{DryRun: o.DryRun, Effects: []string{}}
	for _, id := range o.Without {
		if _, err := f.node(id); err != nil {
			return nil, err
		}
		change.Effects = append(change.Effects, id+" is removed")
	}
	change.Effects = append(change.Effects, "the CA changes")
	if !o.DryRun {
		f.status.Rotation = "the CA changes, step 1 of 2"
	}
	return change, nil
}

// Transfer implements admin.Cluster.
func (f *Fake) Transfer(_ context.Context, by admin.By, to string) (*admin.NodeChange, error) {
	unlock, _, err := f.change("Transfer", by, "node transfer %s", to)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if to == "" {
		to = "n2"
	}
	n, err := f.node(to)
	if err != nil {
		return nil, err
	}
	for i := range f.status.Nodes {
		f.status.Nodes[i].Role = admin.RoleFollower
	}
	n.Role, f.status.Leader = admin.RoleLeader, to
	return &admin.NodeChange{ID: to, Effects: []string{to + " leads the cluster"}}, nil
}

// Verify implements admin.Cluster.
func (f *Fake) Verify(_ context.Context, o admin.VerifyOptions) (*admin.Verification, error) {
	unlock, err := f.ask("Verify")
	if err != nil {
		return nil, err
	}
	defer unlock()
	v := &admin.Verification{
		OK: f.status.Healthy, Index: 4711, Checked: admin.VerifyCounts{Messages: uint64(len(f.queue))},
	}
	for _, n := range f.status.Nodes {
		v.Nodes = append(v.Nodes, admin.NodeHash{ID: n.ID, Hash: "c0ffee"})
	}
	if o.Bodies {
		v.Checked.Bodies = uint64(len(f.bodies))
	}
	if !v.OK {
		v.Findings = []string{"n3 differs from n1 at index 4711"}
	}
	return v, nil
}

// Examine implements admin.Doctor.
func (f *Fake) Examine(_ context.Context, o admin.ExamineOptions) (*admin.Examination, error) {
	unlock, err := f.ask("Examine")
	if err != nil {
		return nil, err
	}
	defer unlock()
	x := &admin.Examination{OK: true, Node: "n1", At: admin.At(f.Now), Conditions: f.Found}
	for _, c := range f.Found {
		x.OK = x.OK && c.Severity != admin.SeverityWarning && c.Severity != admin.SeverityError
	}
	x.Conditions = append(x.Conditions, admin.Condition{
		Name: "quorum", Severity: admin.SeverityOK, Summary: "a majority of the nodes is up and has a leader",
		Evidence: []string{"3 of 3 voting nodes answer"},
	})
	if o.Outward {
		x.Conditions = append(x.Conditions, admin.Condition{
			Name: "outward", Severity: admin.SeverityOK, Summary: "other mail systems can be reached",
			Evidence: []string{"mx.far.test can be reached"},
		})
	}
	return x, nil
}

func values[V any](m map[string]V) []V {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	all := make([]V, 0, len(m))
	for _, k := range keys {
		all = append(all, m[k])
	}
	return all
}

// Domains implements admin.Domains.
func (f *Fake) Domains(context.Context) ([]admin.Domain, error) {
	unlock, err := f.ask("Domains")
	if err != nil {
		return nil, err
	}
	defer unlock()
	all := values(f.domains)
	for i := range all {
		for address := range f.users {
			if strings.HasSuffix(address, "@"+all[i].Name) {
				all[i].Users++
			}
		}
	}
	return all, nil
}

// AddDomain implements admin.Domains.
func (f *Fake) AddDomain(_ context.Context, by admin.By, d admin.Domain) error {
	unlock, repeated, err := f.change("AddDomain", by, "domain add %s", d.Name)
	if err != nil {
		return err
	}
	defer unlock()
	if repeated {
		return nil
	}
	if _, ok := f.domains[d.Name]; ok {
		return admin.Exists("domain", d.Name)
	}
	d.Created = f.at(0)
	d.AuthPolicy = cmp.Or(d.AuthPolicy, admin.AuthTag)
	f.domains[d.Name] = d
	return nil
}

// SetDomain implements admin.Domains.
func (f *Fake) SetDomain(_ context.Context, by admin.By, name string, s admin.DomainSet) error {
	unlock, _, err := f.change("SetDomain", by, "domain set %s", name)
	if err != nil {
		return err
	}
	defer unlock()
	d, ok := f.domains[name]
	if !ok {
		return admin.NotFound("domain", name)
	}
	apply(&d.CatchAll, s.CatchAll)
	apply(&d.AuthPolicy, s.AuthPolicy)
	apply(&d.Suppress, s.Suppress)
	if s.Greylist != nil {
		if d.Greylist = s.Greylist; *s.Greylist < 0 {
			d.Greylist = nil
		}
	}
	f.domains[name] = d
	return nil
}

// RemoveDomain implements admin.Domains.
func (f *Fake) RemoveDomain(_ context.Context, by admin.By, name string, o admin.DropOptions) (*admin.Removed, error) {
	unlock, _, err := f.change("RemoveDomain", by, "domain rm %s", name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if _, ok := f.domains[name]; !ok {
		return nil, admin.NotFound("domain", name)
	}
	for address := range f.users {
		if strings.HasSuffix(address, "@"+name) {
			return nil, admin.Conflict("the domain "+name+" still has users",
				"remove them first: relayctl user ls --domain "+name)
		}
	}
	if !o.DryRun {
		delete(f.domains, name)
	}
	return &admin.Removed{
		DryRun: o.DryRun, Name: name, Effects: []string{"mail to " + name + " is remote from now on"},
	}, nil
}

// Users implements admin.Users.
func (f *Fake) Users(_ context.Context, domain string) ([]admin.User, error) {
	unlock, err := f.ask("Users")
	if err != nil {
		return nil, err
	}
	defer unlock()
	return slices.DeleteFunc(values(f.users), func(u admin.User) bool {
		return domain != "" && !strings.HasSuffix(u.Address, "@"+domain)
	}), nil
}

// User implements admin.Users.
func (f *Fake) User(_ context.Context, address string) (*admin.User, error) {
	unlock, err := f.ask("User")
	if err != nil {
		return nil, err
	}
	defer unlock()
	u, ok := f.users[address]
	if !ok {
		return nil, admin.NotFound("user", address)
	}
	for _, a := range values(f.aliases) {
		if slices.Contains(a.Targets, address) {
			u.Aliases = append(u.Aliases, a.Address)
		}
	}
	return &u, nil
}

// AddUser implements admin.Users.
func (f *Fake) AddUser(_ context.Context, by admin.By, u admin.UserAdd) error {
	unlock, repeated, err := f.change("AddUser", by, "user add %s", u.Address)
	if err != nil {
		return err
	}
	defer unlock()
	_, domain, _ := strings.Cut(u.Address, "@")
	switch _, ok := f.users[u.Address]; {
	case repeated:
		return nil
	case ok:
		return admin.Exists("user", u.Address)
	case f.domains[domain].Name == "":
		return notLocal(domain)
	}
	f.users[u.Address] = admin.User{
		Address: u.Address, Name: u.Name, QuotaBytes: u.QuotaBytes, QuotaMessages: u.QuotaMessages, Created: f.at(0),
	}
	f.passwords[u.Address] = u.Password
	f.mailboxes[u.Address] = &admin.MailboxDetail{
		Mailbox: admin.Mailbox{User: u.Address, QuotaBytes: u.QuotaBytes, QuotaMessages: u.QuotaMessages},
	}
	return nil
}

func apply[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

// SetUser implements admin.Users.
func (f *Fake) SetUser(_ context.Context, by admin.By, address string, s admin.UserSet) error {
	unlock, _, err := f.change("SetUser", by, "user set %s", address)
	if err != nil {
		return err
	}
	defer unlock()
	u, ok := f.users[address]
	if !ok {
		return admin.NotFound("user", address)
	}
	apply(&u.Name, s.Name)
	apply(&u.Disabled, s.Disabled)
	apply(&u.QuotaBytes, s.QuotaBytes)
	apply(&u.QuotaMessages, s.QuotaMessages)
	apply(&u.Shared, s.Shared)
	apply(&u.Senders, s.Senders)
	apply(&u.SendLimitDay, s.SendLimitDay)
	apply(&u.Retention, s.Retention)
	apply(&u.LoginDelay, s.LoginDelay)
	f.users[address] = u
	if s.Password != nil {
		f.passwords[address] = *s.Password
	}
	return nil
}

// RemoveUser implements admin.Users.
func (f *Fake) RemoveUser(_ context.Context, by admin.By, address string, o admin.DropOptions) (*admin.Removed, error) {
	unlock, _, err := f.change("RemoveUser", by, "user rm %s", address)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if _, ok := f.users[address]; !ok {
		return nil, admin.NotFound("user", address)
	}
	box := f.mailboxes[address]
	out := &admin.Removed{DryRun: o.DryRun, Name: address, Messages: box.Messages, Bytes: box.Bytes,
		Effects: []string{fmt.Sprintf("the mailbox with %d messages is deleted", box.Messages)}}
	if !o.DryRun {
		delete(f.users, address)
		delete(f.mailboxes, address)
	}
	return out, nil
}

// Aliases implements admin.Aliases.
func (f *Fake) Aliases(context.Context) ([]admin.Alias, error) {
	unlock, err := f.ask("Aliases")
	if err != nil {
		return nil, err
	}
	defer unlock()
	return values(f.aliases), nil
}

// SetAlias implements admin.Aliases.
func (f *Fake) SetAlias(_ context.Context, by admin.By, a admin.Alias) error {
	unlock, _, err := f.change("SetAlias", by, "alias set %s %s", a.Address, strings.Join(a.Targets, " "))
	if err != nil {
		return err
	}
	defer unlock()
	f.aliases[a.Address] = a
	return nil
}

// RemoveAlias implements admin.Aliases.
func (f *Fake) RemoveAlias(_ context.Context, by admin.By, address string) error {
	unlock, _, err := f.change("RemoveAlias", by, "alias rm %s", address)
	if err != nil {
		return err
	}
	defer unlock()
	if _, ok := f.aliases[address]; !ok {
		return admin.NotFound("alias", address)
	}
	delete(f.aliases, address)
	return nil
}

// Settings implements admin.Policy.
func (f *Fake) Settings(context.Context) (*admin.Settings, error) {
	unlock, err := f.ask("Settings")
	if err != nil {
		return nil, err
	}
	defer unlock()
	s, changed := f.settings, f.changed
	s.Changed = &changed
	return &s, nil
}

// SetSettings implements admin.Policy.
func (f *Fake) SetSettings(_ context.Context, by admin.By, s admin.Settings) error {
	unlock, _, err := f.change("SetSettings", by, "settings")
	if err != nil {
		return err
	}
	defer unlock()
	if s.Changed != nil && *s.Changed != f.changed {
		return admin.Conflict("the settings were changed by somebody else meanwhile", "look at them and try again")
	}
	f.changed++
	f.settings = s
	return nil
}

// Mailboxes implements admin.Mailboxes.
func (f *Fake) Mailboxes(context.Context) ([]admin.Mailbox, error) {
	unlock, err := f.ask("Mailboxes")
	if err != nil {
		return nil, err
	}
	defer unlock()
	var all []admin.Mailbox
	for _, m := range values(f.mailboxes) {
		all = append(all, m.Mailbox)
	}
	return all, nil
}

// Mailbox implements admin.Mailboxes.
func (f *Fake) Mailbox(_ context.Context, user string) (*admin.MailboxDetail, error) {
	unlock, err := f.ask("Mailbox")
	if err != nil {
		return nil, err
	}
	defer unlock()
	m, ok := f.mailboxes[user]
	if !ok {
		return nil, admin.NotFound("mailbox", user)
	}
	copied := *m
	copied.Content = slices.Clone(m.Content)
	return &copied, nil
}

// Unlock implements admin.Mailboxes.
func (f *Fake) Unlock(_ context.Context, by admin.By, user string, token uint64) (*admin.Unlocked, error) {
	unlock, _, err := f.change("Unlock", by, "mailbox unlock %s", user)
	if err != nil {
		return nil, err
	}
	defer unlock()
	m, ok := f.mailboxes[user]
	if !ok {
		return nil, admin.NotFound("mailbox", user)
	}
	was := m.Lock
	if was != nil && token != 0 && was.Token > token {
		return nil, admin.Conflict("mailbox "+user+" is held by another session by now",
			"look who has it with 'relayctl mailbox show "+user+"'")
	}
	m.Lock = nil
	return &admin.Unlocked{User: user, Lock: was}, nil
}

// TakeOut takes a message out of a mailbox, as its user does.
func (f *Fake) TakeOut(user string, uid uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m, ok := f.mailboxes[user]; ok {
		m.Content = slices.DeleteFunc(slices.Clone(m.Content), func(one admin.MailboxMessage) bool { return one.UID == uid })
	}
}

// Grow makes the messages of a mailbox count for so many octets more than are
// stored, as those do whose last line end POP3 adds.
func (f *Fake) Grow(user string, octets uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.mailboxes[user].Content {
		f.mailboxes[user].Content[i].Size += octets
	}
}

// OpenMail implements admin.Content.
func (f *Fake) OpenMail(_ context.Context, user string, uid uint64) (io.ReadCloser, int64, error) {
	unlock, err := f.ask("OpenMail")
	if err != nil {
		return nil, 0, err
	}
	defer unlock()
	if m, ok := f.mailboxes[user]; ok {
		for _, one := range m.Content {
			if one.UID == uid {
				body := f.bodies[one.ID]
				return io.NopCloser(strings.NewReader(body)), int64(len(body)), nil
			}
		}
	}
	return nil, 0, admin.NotFound("message", fmt.Sprintf("%d in %s", uid, user))
}

// PutMail implements admin.Content.
func (f *Fake) PutMail(_ context.Context, by admin.By, user string, received admin.Time,
	message io.Reader) (string, error) {
	data, err := io.ReadAll(message)
	if err != nil {
		return "", err
	}
	unlock, _, err := f.change("PutMail", by, "mailbox import %s", user)
	if err != nil {
		return "", err
	}
	defer unlock()
	m, ok := f.mailboxes[user]
	if !ok {
		return "", admin.NotFound("mailbox", user)
	}
	id := f.nextID()
	f.bodies[id] = string(data)
	m.Messages++
	m.Bytes += uint64(len(data))
	m.Content = append(m.Content, admin.MailboxMessage{
		UID: m.Messages, ID: id, Size: uint64(len(data)), Received: received, Recipient: user,
	})
	return id, nil
}

// ImportMail implements admin.Content. It knows what came before, unique ids and
// the quota in messages.
func (f *Fake) ImportMail(_ context.Context, by admin.By, user string, o admin.ImportOptions,
	next func() (*admin.OldMessage, error)) (*admin.ImportResult, error) {
	unlock, _, err := f.change("ImportMail", by, "mailbox import %s", user)
	if err != nil {
		return nil, err
	}
	defer unlock()
	m, ok := f.mailboxes[user]
	if !ok {
		return nil, admin.NotFound("mailbox", user)
	}
	res := &admin.ImportResult{Messages: []admin.ImportedMessage{}, Line: max(o.Line, 1)}
	for {
		one, err := next()
		if errors.Is(err, io.EOF) {
			return res, nil
		}
		if err != nil {
			return nil, err
		}
		data, err := io.ReadAll(one.Content)
		if err != nil {
			return nil, err
		}
		if m.QuotaMessages > 0 && m.Messages >= m.QuotaMessages && !o.OverQuota {
			res.Stopped = admin.Conflict("mailbox "+user+" is full", "")
			return res, nil
		}
		res.Messages = append(res.Messages, f.importOne(m, user, one, data, o.DryRun))
	}
}

func (f *Fake) importOne(m *admin.MailboxDetail, user string, one *admin.OldMessage, data []byte,
	dry bool) admin.ImportedMessage {
	key := fmt.Sprintf("%s %x %d", user, one.Digest, one.Number)
	if f.imported[key] {
		return admin.ImportedMessage{Outcome: admin.ImportKnown}
	}
	if one.UIDL != "" && slices.ContainsFunc(m.Content, func(o admin.MailboxMessage) bool { return o.UIDL == one.UIDL }) {
		return admin.ImportedMessage{Outcome: admin.ImportTaken}
	}
	if dry {
		return admin.ImportedMessage{Outcome: admin.ImportStored}
	}
	if f.imported == nil {
		f.imported = map[string]bool{}
	}
	f.imported[key] = true
	id := f.nextID()
	f.bodies[id] = string(data)
	m.Messages++
	m.Bytes += uint64(len(data))
	m.Content = append(m.Content, admin.MailboxMessage{
		UID: m.Messages, ID: id, Size: uint64(len(data)), Received: one.Received, Recipient: user, UIDL: one.UIDL,
	})
	return admin.ImportedMessage{ID: id, Outcome: admin.ImportStored}
}

func (f *Fake) nextID() string {
	f.sent++
	return fmt.Sprintf("01KFAKE%019d", f.sent)
}

// Send implements admin.Mail: local users get the message, others are queued.
func (f *Fake) Send(_ context.Context, by admin.By, e admin.Envelope, message io.Reader) (*admin.Receipt, error) {
	data, err := io.ReadAll(message)
	if err != nil {
		return nil, err
	}
	unlock, _, err := f.change("Send", by, "send from %s to %s", e.Sender, strings.Join(e.Recipients, " "))
	if err != nil {
		return nil, err
	}
	defer unlock()
	id := f.nextID()
	f.bodies[id] = string(data)
	out := &admin.Receipt{
		ID: id, Node: "n1", Size: uint64(len(data)), Dialogue: []string{"MAIL FROM:<" + e.Sender + "> → 250 2.1.0 Ok"},
	}
	m := admin.QueueMessage{ID: id, Created: f.at(0), Size: uint64(len(data)), Sender: e.Sender, Owner: "n1"}
	for _, to := range e.Recipients {
		_, domain, _ := strings.Cut(to, "@")
		box, local := f.mailboxes[to]
		verdict := admin.ReceiptRecipient{Address: to, Accepted: true, Reply: "250 2.1.5 Ok"}
		switch {
		case local:
			box.Messages++
			box.Content = append(box.Content, admin.MailboxMessage{
				UID: box.Messages, ID: id, Size: out.Size, Received: f.at(0), Recipient: to, Sender: e.Sender,
			})
		case f.domains[domain].Name != "":
			verdict = admin.ReceiptRecipient{Address: to, Reply: "550 5.1.1 no such user"}
		default:
			m.Recipients = append(m.Recipients, admin.QueueRecipient{
				Address: to, Domain: domain, State: admin.StateQueued, NextAttempt: f.at(0),
			})
		}
		out.Recipients = append(out.Recipients, verdict)
		out.Dialogue = append(out.Dialogue, "RCPT TO:<"+to+"> → "+verdict.Reply)
	}
	if len(m.Recipients) > 0 {
		f.queue = append(f.queue, m)
	}
	return out, nil
}

// Audit implements admin.Auditor.
func (f *Fake) Audit(_ context.Context, q admin.AuditQuery) ([]admin.AuditEntry, error) {
	unlock, err := f.ask("Audit")
	if err != nil {
		return nil, err
	}
	defer unlock()
	all := f.audits(q)
	return all[:min(len(all), max(q.Limit, 1))], nil
}

// CountAudit implements admin.Auditor.
func (f *Fake) CountAudit(_ context.Context, q admin.AuditQuery) (*admin.Count, error) {
	unlock, err := f.ask("CountAudit")
	if err != nil {
		return nil, err
	}
	defer unlock()
	q.Before = 0
	return &admin.Count{Count: uint64(len(f.audits(q)))}, nil
}

func (f *Fake) audits(q admin.AuditQuery) []admin.AuditEntry {
	all := slices.Clone(f.audit)
	slices.Reverse(all)
	return slices.DeleteFunc(all, func(e admin.AuditEntry) bool {
		return e.At.Before(q.Since.Time) || q.Before > 0 && e.Index >= q.Before
	})
}

// Open implements admin.Queue.
func (f *Fake) Open(_ context.Context, id string) (io.ReadCloser, int64, error) {
	unlock, err := f.ask("Open")
	if err != nil {
		return nil, 0, err
	}
	defer unlock()
	if id, err = f.whole(id); err != nil {
		return nil, 0, err
	}
	body, ok := f.bodies[id]
	if !ok {
		return nil, 0, admin.NotFound("message", id)
	}
	return io.NopCloser(bytes.NewReader([]byte(body))), int64(len(body)), nil
}

// notLocal refuses an address or a key of a domain that is not there.
func notLocal(domain string) error {
	e := admin.Invalid("domain %s is not local", domain)
	e.Title = admin.TitleState
	e.Next = "add it with 'relayctl domain add " + domain + "' first"
	return e
}
