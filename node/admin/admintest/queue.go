package admintest

import (
	"cmp"
	"context"
	"slices"
	"sort"
	"strings"

	"relay/node/admin"
)

// Queue implements admin.Queue.
func (f *Fake) Queue(_ context.Context, p admin.QueuePage) ([]admin.QueueMessage, string, error) {
	unlock, err := f.ask("Queue")
	if err != nil {
		return nil, "", err
	}
	defer unlock()
	all := f.picked(p.Filter)
	order(all, p.Sort)
	from := 0
	if p.After != "" {
		from = 1 + slices.IndexFunc(all, func(m admin.QueueMessage) bool { return m.ID == p.After })
	}
	all = all[from:]
	if len(all) <= p.Limit {
		return all, "", nil
	}
	return all[:p.Limit], all[p.Limit-1].ID, nil
}

func (f *Fake) picked(filter admin.QueueFilter) []admin.QueueMessage {
	var all []admin.QueueMessage
	for _, m := range f.queue {
		if m, ok := filter.Pick(m); ok {
			m.Recipients = slices.Clone(m.Recipients)
			for i := range m.Recipients {
				m.Recipients[i].Class = "" // not in lists
			}
			all = append(all, m)
		}
	}
	return all
}

func order(all []admin.QueueMessage, by string) {
	name, down := strings.CutPrefix(by, "-")
	slices.SortStableFunc(all, func(a, b admin.QueueMessage) int {
		if down {
			a, b = b, a
		}
		switch name {
		case "size":
			return cmp.Compare(a.Size, b.Size)
		case "sender":
			return cmp.Compare(a.Sender, b.Sender)
		case "attempts":
			return cmp.Compare(a.Recipients[0].Attempts, b.Recipients[0].Attempts)
		case "domain":
			return cmp.Compare(a.Recipients[0].Domain, b.Recipients[0].Domain)
		}
		return cmp.Compare(a.ID, b.ID)
	})
}

// CountQueue implements admin.Queue.
func (f *Fake) CountQueue(_ context.Context, filter admin.QueueFilter) (*admin.Count, error) {
	unlock, err := f.ask("CountQueue")
	if err != nil {
		return nil, err
	}
	defer unlock()
	return &admin.Count{Count: uint64(len(f.picked(filter)))}, nil
}

// whole returns the id that is meant by its end.
func (f *Fake) whole(id string) (string, error) {
	ending, ok := admin.IDEnding(id)
	if !ok {
		return id, nil
	}
	var found []string
	add := func(one string) {
		if strings.HasSuffix(one, ending) && !slices.Contains(found, one) {
			found = append(found, one)
		}
	}
	for _, m := range f.queue {
		add(m.ID)
	}
	for _, t := range f.traces {
		add(t.ID)
	}
	switch len(found) {
	case 0:
		return id, nil
	case 1:
		return found[0], nil
	}
	return "", admin.Ambiguous(ending, len(found), found[:min(len(found), 5)])
}

// Message implements admin.Queue.
func (f *Fake) Message(_ context.Context, id string) (*admin.QueueDetail, error) {
	unlock, err := f.ask("Message")
	if err != nil {
		return nil, err
	}
	defer unlock()
	if id, err = f.whole(id); err != nil {
		return nil, err
	}
	for _, m := range f.queue {
		if m.ID != id {
			continue
		}
		d := &admin.QueueDetail{QueueMessage: m, MessageID: "abc@example.test", Expires: admin.At(m.Created.AddDate(0, 0, 5)),
			Client:   admin.Origin{Node: "n1", Address: "127.0.0.1:4242", Helo: "client", Protocol: "ESMTP"},
			Replicas: []string{"n1", "n2", "n3"}}
		for _, r := range m.Recipients {
			d.Route, d.LastHost = append(d.Route, "mx"), append(d.LastHost, "")
			d.Why = append(d.Why, r.Address+" is "+r.State)
		}
		return d, nil
	}
	return nil, admin.NotFound("waiting message", id)
}

// Stats implements admin.Queue.
func (f *Fake) Stats(context.Context) (*admin.QueueStats, error) {
	unlock, err := f.ask("Stats")
	if err != nil {
		return nil, err
	}
	defer unlock()
	s := &admin.QueueStats{
		Total: f.totals(), States: map[string]uint64{}, Ages: admin.QueueAges(), Owners: map[string]uint64{},
	}
	rows := map[string]*admin.Destination{}
	for _, m := range f.queue {
		column := sort.Search(len(s.Ages), func(i int) bool { return m.AgeSeconds <= s.Ages[i] })
		for _, r := range m.Recipients {
			row := rows[r.Domain]
			if row == nil {
				row = &admin.Destination{Domain: r.Domain, Ages: make([]uint64, len(s.Ages)+1)}
				rows[r.Domain] = row
			}
			row.Total++
			row.Bytes += m.Size
			row.Ages[column]++
			row.LastReply, row.Class = cmp.Or(r.LastReply, row.LastReply), cmp.Or(r.Class, row.Class)
			switch r.State {
			case admin.StateDeferred:
				row.Deferred++
				if r.Class != "" {
					row.Classes, s.Classes = addClass(row.Classes, r.Class), addClass(s.Classes, r.Class)
				}
			case admin.StateHeld, admin.StateSuspended:
				row.Parked++
			}
			s.States[r.State]++
			s.Owners[m.Owner]++
			f.countRule(s, r.Domain)
		}
	}
	for _, row := range values(rows) {
		s.Destinations = append(s.Destinations, *row)
	}
	slices.SortStableFunc(s.Destinations, func(a, b admin.Destination) int { return cmp.Compare(b.Total, a.Total) })
	return s, nil
}

func addClass(to map[string]uint64, class string) map[string]uint64 {
	if to == nil {
		to = map[string]uint64{}
	}
	to[class]++
	return to
}

// Manage implements admin.Queue.
func (f *Fake) Manage(_ context.Context, by admin.By, a admin.QueueAction) (*admin.QueueActionResult, error) {
	out := &admin.QueueActionResult{Action: a.Action, DryRun: a.DryRun}
	unlock, _, err := f.change("Manage", by, "queue %s dry=%v", a.Action, a.DryRun)
	if err != nil {
		return nil, err
	}
	defer unlock()
	for i, id := range a.IDs {
		if a.IDs[i], err = f.whole(id); err != nil {
			return nil, err
		}
	}
	chosen := f.picked(a.Filter)
	if !a.All {
		chosen = slices.DeleteFunc(chosen, func(m admin.QueueMessage) bool { return !slices.Contains(a.IDs, m.ID) })
		for _, id := range a.IDs {
			if !slices.ContainsFunc(chosen, func(m admin.QueueMessage) bool { return m.ID == id }) {
				out.Refused = append(out.Refused, admin.QueueRefusal{ID: id, Why: "it is not in the queue"})
			}
		}
	}
	out.Matched = len(chosen) + len(out.Refused)
	chosen = slices.DeleteFunc(chosen, func(m admin.QueueMessage) bool {
		so := isSo(a.Action, m)
		if so {
			out.Already++
		}
		return so
	})
	out.Changed, out.Messages = len(chosen), chosen
	if a.DryRun {
		return out, nil
	}
	for _, m := range chosen {
		f.act(m.ID, a)
	}
	return out, nil
}

// isSo reports whether a message is as an action would have it.
func isSo(action string, m admin.QueueMessage) bool {
	held := func(r admin.QueueRecipient) bool { return r.State == admin.StateHeld }
	switch action {
	case admin.ActionHold:
		return !slices.ContainsFunc(m.Recipients, func(r admin.QueueRecipient) bool { return !held(r) })
	case admin.ActionRelease:
		return !slices.ContainsFunc(m.Recipients, held)
	}
	return false
}

func (f *Fake) act(id string, a admin.QueueAction) {
	at := slices.IndexFunc(f.queue, func(m admin.QueueMessage) bool { return m.ID == id })
	if a.Action == admin.ActionRemove || a.Action == admin.ActionBounce {
		f.queue = slices.Delete(f.queue, at, at+1)
		return
	}
	recipients := slices.Clone(f.queue[at].Recipients)
	for i := range recipients {
		switch a.Action {
		case admin.ActionHold:
			recipients[i].State, recipients[i].NextAttempt = admin.StateHeld, admin.Time{}
		case admin.ActionRelease, admin.ActionRetry, admin.ActionReroute:
			recipients[i].State, recipients[i].NextAttempt = admin.StateQueued, f.at(0)
		}
	}
	f.queue[at].Recipients = recipients
}

// Trace implements admin.History.
func (f *Fake) Trace(_ context.Context, id string) (*admin.Trace, error) {
	unlock, err := f.ask("Trace")
	if err != nil {
		return nil, err
	}
	defer unlock()
	if id, err = f.whole(id); err != nil {
		return nil, err
	}
	for _, t := range f.traces {
		if t.ID == id {
			return &t, nil
		}
	}
	return nil, admin.NotFound("message", id)
}

// Find implements admin.History.
func (f *Fake) Find(_ context.Context, q admin.TraceQuery) ([]admin.Trace, error) {
	unlock, err := f.ask("Find")
	if err != nil {
		return nil, err
	}
	defer unlock()
	return f.find(q), nil
}

// CountFound implements admin.History.
func (f *Fake) CountFound(_ context.Context, q admin.TraceQuery) (*admin.Count, error) {
	unlock, err := f.ask("CountFound")
	if err != nil {
		return nil, err
	}
	defer unlock()
	q.Limit, q.Before = len(f.traces), ""
	return &admin.Count{Count: uint64(len(f.find(q)))}, nil
}

func (f *Fake) find(q admin.TraceQuery) (found []admin.Trace) {
	behind := q.Before == ""
	for _, t := range slices.Backward(f.traces) {
		if !behind {
			behind = t.ID == q.Before
			continue
		}
		to := q.To == "" ||
			slices.ContainsFunc(t.Recipients, func(r admin.QueueRecipient) bool { return admin.MatchAddress(q.To, r.Address) })
		from := q.From == "" || admin.MatchAddress(q.From, t.Sender)
		if to && from && (q.User == "" || admin.MatchUser(q.User, t.Client.User)) &&
			(q.Client == "" || admin.MatchClient(q.Client, t.Client.Address)) &&
			(q.Until.IsZero() || t.Created.Before(q.Until.Time)) &&
			(q.Helo == "" || q.Helo == t.Client.Helo) && (q.MessageID == "" || q.MessageID == t.MessageID) &&
			!t.Created.Before(q.Since.Time) && len(found) < q.Limit {
			found = append(found, t)
		}
	}
	return found
}
