package operator

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
	"relay/node/operator/edit"
	"relay/node/operator/ids"
	"relay/node/operator/records"
	"relay/node/statelog"
	"relay/node/wording"
	"relay/smtp/printable"
)

// Bounds of one Manage command, so that it stays far below a frame and its
// Apply does not hold up mail.
const (
	manageIDs        = 2000
	manageRecipients = 5000
	manageInFlight   = 8
	manageShown      = 1000
)

// bulkAction is one QueueAction under way.
type bulkAction struct {
	*Operator
	by        admin.By
	what      admin.QueueAction
	verb      pb.Action
	queueScan *queueScan
	result    *admin.QueueActionResult
	told      telling
	end       spool.ID // with all: behind the last message that is meant

	mu      sync.Mutex
	changed int
	reports map[spool.ID]bool // written by this action, and before end
}

// Manage implements admin.Queue. Ids and filters pick recipients: where a
// filter picks only some of a message's recipients, only those are changed.
// With All, mail that is accepted meanwhile may be among it.
func (o *Operator) Manage(ctx context.Context, by admin.By, a admin.QueueAction) (*admin.QueueActionResult, error) {
	m := &bulkAction{Operator: o, by: by, what: a, result: &admin.QueueActionResult{
		Action: a.Action, DryRun: a.DryRun, Messages: []admin.QueueMessage{}, Refused: []admin.QueueRefusal{},
	}}
	if err := m.prepare(); err != nil {
		return nil, err
	}
	if !a.DryRun {
		if err := o.edit.Current(ctx); err != nil {
			return nil, err
		}
	}
	var err error
	if m.queueScan, err = o.newScan(ctx, m.what.Filter); err != nil {
		return nil, err
	}
	if a.All {
		err = m.all(ctx)
	} else {
		err = m.named(ctx)
	}
	m.result.Changed = m.changed
	if err != nil {
		return nil, m.partly(err)
	}
	return m.result, nil
}

// prepare checks what is asked for.
func (m *bulkAction) prepare() error {
	a := &m.what
	verbs := map[string]pb.Action{
		admin.ActionRetry: pb.Action_RETRY, admin.ActionHold: pb.Action_HOLD, admin.ActionRelease: pb.Action_RELEASE,
		admin.ActionRemove: pb.Action_DELETE, admin.ActionReroute: pb.Action_REROUTE, admin.ActionBounce: pb.Action_BOUNCE,
	}
	verb, ok := verbs[a.Action]
	switch {
	case !ok:
		return admin.Invalid("there is no action %q: give retry, hold, release, rm, bounce or reroute",
			printable.Text(a.Action, 64))
	case a.All && len(a.IDs) > 0:
		return admin.Invalid("give ids, or a filter with all, not both")
	case !a.All && len(a.IDs) == 0:
		return admin.Invalid("no message is named: give ids, or a filter with all")
	case !a.All && !a.Filter.Empty():
		return admin.Invalid("a filter goes with all, not with ids")
	case a.Reason != "" && verb != pb.Action_BOUNCE:
		return admin.Invalid("a reason goes with bounce only")
	case a.Route != "" && verb != pb.Action_REROUTE:
		return admin.Invalid("a route goes with reroute only")
	}
	m.verb = verb
	if verb == pb.Action_REROUTE {
		route, err := records.RouteTarget(a.Route)
		if err != nil {
			return err
		}
		a.Route = route
	}
	return nil
}

// partly adds to an error what was done before it.
func (m *bulkAction) partly(err error) error {
	var p *admin.Error
	if m.changed == 0 || !errors.As(err, &p) {
		return err
	}
	more := *p
	more.Detail = fmt.Sprintf("%s were changed, then it stopped: %s", wording.Counted(uint64(m.changed), "message"),
		p.Detail)
	return &more
}

// all acts on what the filter picks, a stretch of the queue at a time.
func (m *bulkAction) all(ctx context.Context) error {
	none, err := m.matchesNone(m.queueScan)
	if err != nil || none {
		return err
	}
	m.end = ids.At(m.queueScan.now.Add(time.Minute)) // new mail must not keep it busy for ever
	surveyed := m.what.DryRun
	return m.stretches(ctx, spool.ID{}, func(found []*waitingMail, behind spool.ID, more bool) error {
		defer m.readLess()
		if surveyed {
			return m.act(ctx, found)
		}
		surveyed = true
		last := behind
		tell := func(found []*waitingMail, _ spool.ID, _ bool) error {
			m.tell(found)
			if len(found) > 0 {
				last = ids.After(found[len(found)-1].id)
			}
			return nil
		}
		_ = tell(found, behind, more)
		if more {
			m.queueScan.whole = m.queueScan.byMessage() // it counts
			if err := m.stretches(ctx, behind, tell); err != nil {
				return err
			}
		}
		m.end = last
		return m.act(ctx, found)
	})
}

// readLess has the scan leave out the messages' records where they are shown no
// more, and neither the filter nor the action needs them.
func (m *bulkAction) readLess() {
	m.queueScan.whole = m.queueScan.byMessage() || m.verb == pb.Action_BOUNCE || len(m.result.Messages) < manageShown
}

// stretches calls fn for what the filter picks from an id on, a stretch of the
// queue at a time, with the id that is behind it and whether there is more.
func (m *bulkAction) stretches(
	ctx context.Context, from spool.ID, fn func(found []*waitingMail, behind spool.ID, more bool) error,
) error {
	for more := true; more && from.Compare(m.end) < 0; {
		if ctx.Err() != nil {
			return admin.Unknown("the request ended before the whole queue was gone through")
		}
		var found []*waitingMail
		var err error
		budget := scanStep
		if found, from, more, err = m.step(m.queueScan, from, manageIDs, &budget); err != nil {
			return err
		}
		if err := fn(found, from, more); err != nil {
			return err
		}
	}
	return nil
}

// tell counts messages for the audit line, which the first command leaves.
func (m *bulkAction) tell(found []*waitingMail) {
	for _, one := range found {
		if fit, _, _ := m.fitting(m.recipients(one)); len(fit) > 0 {
			m.told.count++
			if len(m.told.ids) < noteIDs {
				m.told.ids = append(m.told.ids, one.id)
			}
		}
	}
}

// named acts on ids.
func (m *bulkAction) named(ctx context.Context) error {
	seen := map[spool.ID]bool{}
	var found []*waitingMail
	meant, err := m.shortened(ctx)
	if err != nil {
		return err
	}
	for _, text := range m.what.IDs {
		id, err := messageID(text)
		if ending, ok := admin.IDEnding(text); ok {
			if id, ok = meant[ending]; !ok {
				m.refuse(ending, "there is no such message")
				continue
			}
		} else if err != nil {
			m.refuse(printable.Text(text, 64), "is not the id of a message")
			continue
		}
		if seen[id] {
			continue
		}
		seen[id] = true
		one, err := m.lookUp(id)
		if err != nil {
			return err
		}
		if one != nil {
			found = append(found, one)
		}
	}
	m.tell(found)
	return m.act(ctx, found)
}

// shortened finds the messages that were named by the end of their ids.
func (m *bulkAction) shortened(ctx context.Context) (map[string]spool.ID, error) {
	var want []string
	for _, text := range m.what.IDs {
		if ending, ok := admin.IDEnding(text); ok && !slices.Contains(want, ending) {
			want = append(want, ending)
		}
	}
	if len(want) == 0 {
		return nil, nil
	}
	return m.endings(ctx, want)
}

// lookUp reads a message by id, or refuses it.
func (m *bulkAction) lookUp(id spool.ID) (one *waitingMail, err error) {
	err = m.Replica.Frozen(func(v spool.View, _ uint64) error {
		if one, err = m.queueScan.pick(v, id); err != nil || one != nil {
			return err
		}
		record, known, err := v.Message(id)
		if err != nil {
			return err
		}
		done, err := m.wasDone(v, id, record)
		switch {
		case err != nil:
		case done:
			m.result.Matched++
			m.result.Already++
		case known:
			m.refuse(id.String(), "nothing of it waits any more: 'relayctl trace' shows what became of it")
		default:
			m.refuse(id.String(), "there is no such message")
		}
		return err
	})
	return one, err
}

// wasDone reports whether a message of which nothing waits any more ended as the
// action would have it end, so that the same command twice is no mistake.
func (m *bulkAction) wasDone(v spool.View, id spool.ID, record *pb.Message) (bool, error) {
	end := map[pb.Action]string{pb.Action_DELETE: admin.StateDeleted, pb.Action_BOUNCE: admin.StateBounced}[m.verb]
	if end == "" || record == nil {
		return false, nil
	}
	t, err := readTrace(v, m.queueScan, id, record)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(t.Recipients,
		func(r admin.QueueRecipient) bool { return r.State == end && m.meant(r.Address) }), nil
}

func (m *bulkAction) refuse(id, why string) {
	if len(m.result.Refused) < manageShown {
		m.result.Refused = append(m.result.Refused, admin.QueueRefusal{ID: id, Why: why})
	}
}

// act changes, or would change, the given messages.
func (m *bulkAction) act(ctx context.Context, found []*waitingMail) error {
	var whole batch
	var back []*bounceAction
	parts := map[string]*batch{}
	for _, one := range found {
		picked := m.recipients(one)
		if m.what.All && (len(picked) == 0 || one.id.Compare(m.end) >= 0 || m.reports[one.id]) {
			continue
		}
		if len(picked) == 0 {
			m.refuse(one.mail.ID, fmt.Sprintf("no recipient %s of it waits", printable.Text(m.what.Recipient, records.MaxName)))
			continue
		}
		m.result.Matched++
		fit, why, so := m.fitting(picked)
		switch {
		case len(fit) > 0:
		case m.what.All || so: // the same command twice is no mistake
			m.result.Already++
			continue
		default:
			m.refuse(one.mail.ID, why)
			continue
		}
		if len(m.result.Messages) < manageShown {
			shown := one.mail
			shown.Recipients = picked
			m.result.Messages = append(m.result.Messages, shown)
		}
		if m.verb == pb.Action_BOUNCE {
			back = append(back, m.returning(one)...)
			continue
		}
		if m.what.DryRun {
			m.changed++
			continue
		}
		if len(picked) == one.open && (m.verb != pb.Action_RELEASE || len(fit) == len(picked)) {
			whole.add(one.id, fit, one.open, true)
			continue
		}
		for i, address := range fit {
			if parts[address] == nil {
				parts[address] = &batch{recipient: address}
			}
			parts[address].add(one.id, fit[i:i+1], 1, i == 0)
		}
	}
	if m.verb == pb.Action_BOUNCE {
		return m.giveBack(ctx, back)
	}
	if m.what.DryRun {
		return nil
	}
	return m.carryOut(ctx, &whole, parts)
}

// recipients are those of a message that are meant.
func (m *bulkAction) recipients(one *waitingMail) []admin.QueueRecipient {
	if m.what.Recipient == "" {
		return one.mail.Recipients
	}
	var picked []admin.QueueRecipient
	for _, r := range one.mail.Recipients {
		if m.meant(r.Address) {
			picked = append(picked, r)
		}
	}
	return picked
}

// meant reports whether an address is the one recipient asked for, if there is
// such.
func (m *bulkAction) meant(address string) bool {
	return m.what.Recipient == "" || strings.EqualFold(address, strings.TrimSpace(m.what.Recipient))
}

// fitting lists the addresses that the action can change, each once, or says
// why there are none. so: because all are as the action would have them.
func (m *bulkAction) fitting(picked []admin.QueueRecipient) (fit []string, why string, so bool) {
	seen := map[string]bool{}
	so = true
	for _, r := range picked {
		if no, already := m.unfit(r); no != "" {
			why, so = no, so && already
		} else if len(picked) == 1 || !seen[r.Address] {
			if len(picked) > 1 {
				seen[r.Address] = true
			}
			fit = append(fit, r.Address)
		}
	}
	return fit, why, so
}

// unfit says why a recipient can not be changed, and whether that is because it is so
// already. The operator can hold mail that a rule holds, too, which then stays so when the rule goes.
func (m *bulkAction) unfit(r admin.QueueRecipient) (why string, so bool) {
	state := r.State
	switch {
	case m.verb == pb.Action_HOLD && state == admin.StateHeld && r.Rule == 0:
		return "it is held already", true
	case m.verb == pb.Action_RELEASE && state != admin.StateHeld && state != admin.StateSuspended:
		return "it is not held", true
	case m.verb == pb.Action_RETRY && r.Rule != 0 && (state == admin.StateHeld || state == admin.StateSuspended):
		return fmt.Sprintf("rule %d keeps it: release it", r.Rule), false
	case m.verb == pb.Action_RETRY && state == admin.StateHeld:
		return "it is held: release it", false
	case m.verb == pb.Action_RETRY && state == admin.StateSuspended:
		return "it is suspended by a rule", false
	}
	return "", false
}

// batch is what goes into commands of one kind: whole messages, or one
// recipient of each.
type batch struct {
	recipient string
	parts     []part
}

// part is one command.
type part struct {
	ids        [][]byte
	to         [][]string // the recipients of each that are meant
	recipients int
	messages   int // counted here and not in another part
}

func (b *batch) add(id spool.ID, to []string, recipients int, counts bool) {
	last := len(b.parts) - 1
	if last < 0 || len(b.parts[last].ids) >= manageIDs || b.parts[last].recipients+recipients > manageRecipients {
		b.parts = append(b.parts, part{})
		last++
	}
	p := &b.parts[last]
	p.ids, p.to = append(p.ids, id[:]), append(p.to, to)
	p.recipients += recipients
	if counts {
		p.messages++
	}
}

// carryOut proposes all commands, a few at a time, and waits until this node
// shows them.
func (m *bulkAction) carryOut(ctx context.Context, whole *batch, parts map[string]*batch) error {
	type step struct {
		recipient string
		*part
	}
	var steps []step
	for _, b := range append([]*batch{whole}, slices.Collect(maps.Values(parts))...) {
		for i := range b.parts {
			steps = append(steps, step{b.recipient, &b.parts[i]})
		}
	}
	// The first that changes something leaves the audit line of all.
	for len(steps) > 0 && !m.told.told {
		if err := m.command(ctx, steps[0].recipient, steps[0].part); err != nil {
			return err
		}
		steps = steps[1:]
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(manageInFlight)
	for _, s := range steps {
		if gctx.Err() != nil {
			break
		}
		g.Go(func() error { return m.command(ctx, s.recipient, s.part) })
	}
	return g.Wait()
}

// telling is what the audit line of an action is about, however many commands
// that takes.
type telling struct {
	count int        // messages
	ids   []spool.ID // the first of them
	told  bool       // a command has left the line; written before others run beside it
}

// audited gives a command the line of the whole action, if it is the first.
func (m *bulkAction) audited(adm *pb.Admin) {
	adm.Quiet, adm.Count, adm.Note = m.told.told, uint32(m.told.count), m.note()
}

func (m *bulkAction) command(ctx context.Context, recipient string, p *part) error {
	content := [][]byte{[]byte(m.what.Action), []byte(recipient), []byte(m.what.Route)}
	adm, err := m.edit.Admin(m.by, append(content, p.ids...)...)
	if err != nil {
		return err
	}
	m.audited(adm)
	_, err = m.edit.Change(ctx, spool.KindManage, &pb.Manage{
		Admin: adm, Action: m.verb, Ids: p.ids, Recipient: recipient, Route: m.what.Route,
		Pass: m.verb == pb.Action_RELEASE && m.queueScan.rules.Queues(),
	})
	if errors.Is(err, admin.ErrNotFound) {
		return nil // delivered or changed by somebody else meanwhile
	}
	if err != nil {
		return err
	}
	if !m.told.told {
		m.told.told = true
	}
	var more []zap.Field
	if m.what.Route != "" {
		more = append(more, zap.String("route", m.what.Route))
	}
	for i, id := range p.ids {
		statelog.LogManaged(m.Log, m.verb, id, p.to[i], m.by, more...)
	}
	m.mu.Lock()
	m.changed += p.messages
	m.mu.Unlock()
	return nil
}

// noteIDs is how many ids of messages an audit line names.
const noteIDs = 20

// note says which messages an action on the queue is about: by which filter, to
// where, and which ids.
func (m *bulkAction) note() string {
	var all []string
	add := func(format string, value any, given bool) {
		if given {
			all = append(all, fmt.Sprintf(format, value))
		}
	}
	f := &m.what.Filter
	add("to %s", m.what.Route, m.what.Route != "")
	add("recipient %s", printable.Text(m.what.Recipient, edit.NoteValue), m.what.Recipient != "")
	add("reason %q", printable.Text(m.what.Reason, edit.NoteValue), m.what.Reason != "")
	add("%s", "all that waits", m.what.All && f.Empty())
	add("state=%s", printable.Text(f.State, edit.NoteValue), f.State != "")
	add("domain=%s", printable.Text(f.Domain, edit.NoteValue), f.Domain != "")
	add("sender=%s", printable.Text(f.Sender, edit.NoteValue), f.Sender != "")
	add("to=%s", printable.Text(f.Recipient, edit.NoteValue), f.Recipient != "")
	add("owner=%s", printable.Text(f.Owner, edit.NoteValue), f.Owner != "")
	add("error=%q", printable.Text(f.Error, edit.NoteValue), f.Error != "")
	add("older than %s", (time.Duration(f.OlderThanSeconds) * time.Second).String(), f.OlderThanSeconds > 0)
	var shown []string
	for _, id := range m.told.ids {
		shown = append(shown, id.String())
	}
	list := "ids " + strings.Join(shown, " ")
	if more := m.told.count - len(shown); more > 0 {
		list += fmt.Sprintf(" and %d more", more)
	}
	return strings.Join(append(all, list), ", ")
}
