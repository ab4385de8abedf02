package operator

import (
	"cmp"
	"context"
	"maps"
	"math"
	"slices"
	"time"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
	"relay/node/operator/ids"
	"relay/node/rule"
	"relay/node/statelog"
	"relay/queue"
)

// Bounds of Stats. Up to statsExact recipients the matrix of ages is counted;
// a longer queue is sampled. statsSizes bounds the message records read for
// sizes, statsRows the destinations shown.
const (
	statsExact = 50000
	statsSlice = 250 // records read from each slice of a sampled queue
	statsParts = 16  // slices of each column
	statsDepth = 2   // how often the rest of a slice is cut again
	statsSizes = 8000
	statsRows  = 1000
	statsLive  = 5000 // active recipients looked up for their state
)

// Stats implements admin.Queue. Totals, states, owners and each destination's
// total, deferred and parked are the counters' and exact. The columns of ages
// are exact up to statsExact recipients. Beyond, every column is cut into
// slices of time, the beginning of each slice is read, its density stands for
// the rest of it, and each row is scaled so that it adds up to the
// destination's exact total, as are the classes of failures to what is deferred. Sizes and last replies come from what
// was read.
// The busiest statsRows destinations are shown.
func (o *Operator) Stats(ctx context.Context) (*admin.QueueStats, error) {
	active := o.trying(ctx)
	stats := &admin.QueueStats{States: map[string]uint64{}, Ages: admin.QueueAges(), Owners: map[string]uint64{},
		Destinations: []admin.Destination{}}
	err := o.Replica.Frozen(func(v spool.View, _ uint64) error {
		if err := queueTotals(v, &stats.Total); err != nil {
			return err
		}
		if err := ownerCounts(v, stats.Owners); err != nil {
			return err
		}
		set, err := readRules(v, nil)
		if err != nil {
			return err
		}
		rows, err := destinationRows(v, stats.States, func(domain string) *pb.Rule { return set.Whole(domain, o.Now()) })
		if err != nil {
			return err
		}
		if err := activeStates(v, active, stats.States); err != nil {
			return err
		}
		m := &ageMatrix{rules: newRuleCounts(set, o.Now()), now: o.Now(), ages: stats.Ages, rows: map[string]*ageRow{},
			all: make([]float64, len(stats.Ages)+1)}
		if m.classes.table, err = replyTable(v); err != nil {
			return err
		}
		if err := m.fill(ctx, v, stats.Total.Recipients); err != nil {
			return err
		}
		m.rules.tell(stats)
		slices.SortFunc(rows, func(a, b *admin.Destination) int {
			return cmp.Or(cmp.Compare(b.Total, a.Total), cmp.Compare(a.Domain, b.Domain))
		})
		for _, d := range rows[:min(len(rows), statsRows)] {
			m.finish(d)
			if o.Site != nil {
				d.Site = o.Site(d.Domain)
			}
			stats.Destinations = append(stats.Destinations, *d)
		}
		deferred := uint64(0)
		for _, d := range rows {
			deferred += d.Deferred
		}
		stats.Classes = m.allClasses.scaled(deferred)
		settings, err := v.Settings()
		if err != nil {
			return err
		}
		stats.Advice = reactions(stats.Classes, settings)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return stats, nil
}

func queueTotals(v spool.View, t *admin.QueueTotals) error {
	for name, into := range map[string]*uint64{
		spool.CountQueueMessages: &t.Messages, spool.CountQueueRecipients: &t.Recipients, spool.CountQueueBytes: &t.Bytes,
	} {
		n, err := v.Counter(name)
		if err != nil {
			return err
		}
		*into = uint64(max(n, 0))
	}
	return nil
}

// ownerCounts counts the recipients of each node; those without one under "".
func ownerCounts(v spool.View, into map[string]uint64) error {
	all, err := v.Owners()
	if err != nil {
		return err
	}
	counts, err := v.OwnedCounts()
	for epoch, n := range counts {
		if n > 0 {
			into[all.Node(epoch)] += uint64(n)
		}
	}
	return err
}

// destinationRows makes the rows as far as counters know them, and counts states.
// A destination that a rule holds or suspends as a whole counts so, too.
func destinationRows(v spool.View, states map[string]uint64,
	ruled func(domain string) *pb.Rule) ([]*admin.Destination, error) {
	all, err := v.Destinations()
	if err != nil {
		return nil, err
	}
	rows := map[string]*admin.Destination{}
	for _, d := range all {
		if d.Count <= 0 {
			continue
		}
		row := rows[d.Domain]
		if row == nil {
			row = &admin.Destination{Domain: d.Domain}
			rows[d.Domain] = row
		}
		n := uint64(d.Count)
		row.Total += n
		if r := ruled(d.Domain); r != nil && rule.Parks(r) && (d.State == pb.State_QUEUED || d.State == pb.State_DEFERRED) {
			if d.State = pb.State_SUSPENDED; r.Action == pb.RuleAction_RULE_HOLD {
				d.State = pb.State_HELD
			}
		}
		states[statelog.StateWord(d.State)] += n
		switch d.State {
		case pb.State_DEFERRED:
			row.Deferred += n
		case pb.State_HELD, pb.State_SUSPENDED:
			row.Parked += n
		}
	}
	return slices.Collect(maps.Values(rows)), nil
}

// activeStates moves what is being tried from its state's count to active's.
func activeStates(v spool.View, active map[queue.Ref]string, states map[string]uint64) error {
	looked := 0
	for ref := range active {
		if looked++; looked > statsLive {
			break
		}
		r, ok, err := v.Recipient(spool.ID(ref.ID), ref.Recipient)
		if err != nil {
			return err
		}
		state := statelog.StateWord(r.GetState())
		if !ok || states[state] == 0 || state != admin.StateQueued && state != admin.StateDeferred {
			continue
		}
		states[admin.StateActive]++
		if states[state]--; states[state] == 0 {
			delete(states, state)
		}
	}
	return nil
}

// ageMatrix counts, or estimates, recipients by destination and age.
type ageMatrix struct {
	now   time.Time
	ages  []int64
	rows  map[string]*ageRow
	all   []float64 // all destinations by column
	read  int
	every int // read the size of every so manyth record

	lastID   spool.ID // whose size is known
	lastSize uint64
	sizes    uint64 // sum and number of all sizes read
	sized    uint64

	rules      *ruleCounts
	classes    classes
	allClasses classCounts // all destinations
}

type ageRow struct {
	ages   []float64
	sizes  uint64
	sized  uint64
	lastMs int64
	last   string

	classes classCounts
}

func (m *ageMatrix) fill(ctx context.Context, v spool.View, recipients uint64) error {
	m.every = 1 + int(min(recipients, uint64(statsExact))/statsSizes)
	if recipients <= statsExact {
		return m.slice(ctx, v, spool.ID{}, ids.Last(), math.MaxInt, 0)
	}
	return m.sample(ctx, v, statsSlice)
}

// sample reads the first records of each slice, statsParts slices to a column.
func (m *ageMatrix) sample(ctx context.Context, v spool.View, most int) error {
	var oldest spool.ID
	if err := v.Queue(spool.ID{},
		func(id spool.ID, _ uint32, _ *pb.Recipient) bool { oldest = id; return false }); err != nil {
		return err
	}
	young := m.now
	for i := range len(m.ages) + 1 {
		old := ids.Time(oldest)
		if i < len(m.ages) {
			if edge := m.now.Add(-time.Duration(m.ages[i]) * time.Second); edge.After(old) {
				old = edge
			}
		}
		for part := range statsParts {
			width := young.Sub(old)
			lo := ids.At(old.Add(width * time.Duration(part) / statsParts))
			hi := ids.At(old.Add(width * time.Duration(part+1) / statsParts))
			if i == 0 && part == statsParts-1 {
				hi = ids.Last()
			}
			if lo.Compare(hi) >= 0 {
				continue
			}
			if err := m.slice(ctx, v, lo, hi, most, statsDepth); err != nil {
				return err
			}
		}
		if young = old; !young.After(ids.Time(oldest)) {
			break
		}
	}
	return nil
}

// slice counts at most about most records of [lo, hi). If there are more,
// the rest is cut in two and each half read in the same way, depth times; at
// last those it read stand for the rest by the time they span.
func (m *ageMatrix) slice(ctx context.Context, v spool.View, lo, hi spool.ID, most, depth int) error {
	counts, failures := map[ageCell]int{}, map[string]*classCounts{}
	ruled := map[ruledCell]int{}
	var unread error
	var sizes []sizeWanted
	seen, last, cut := 0, lo, false
	err := v.Queue(lo, func(id spool.ID, _ uint32, r *pb.Recipient) bool {
		if id.Compare(hi) >= 0 || seen%4096 == 4095 && ctx.Err() != nil {
			return false
		}
		if cut = seen >= most && id != last; cut {
			last = id
			return false
		}
		seen++
		last = id
		domain := spool.DomainOf(r.Address)
		counts[ageCell{domain, m.column(id)}]++
		m.reply(domain, r)
		m.failed(failures, domain, r)
		if unread = m.rules.count(v, ruled, id, r); unread != nil {
			return false
		}
		if m.read++; m.read%m.every == 0 {
			sizes = append(sizes, sizeWanted{domain, id})
		}
		return true
	})
	if err = cmp.Or(err, unread, ctx.Err()); err != nil {
		return err
	}
	end := min(hi.Time(), max(lo.Time(), uint64(max(m.now.UnixMilli(), 0))))
	deeper := cut && depth > 0 && end > last.Time()+1
	weight := 1.0
	if cut && !deeper {
		weight = max(1, float64(end-lo.Time())/float64(last.Time()-lo.Time()+1))
	}
	for c, n := range counts {
		m.row(c.domain).ages[c.column] += weight * float64(n)
		m.all[c.column] += weight * float64(n)
	}
	m.weigh(failures, weight)
	m.rules.add(ruled, weight)
	if err := m.readSizes(v, sizes); err != nil || !deeper {
		return err
	}
	var middle spool.ID
	_ = middle.SetTime(last.Time() + (end-last.Time()+1)/2)
	if err := m.slice(ctx, v, last, middle, most/2, depth-1); err != nil {
		return err
	}
	return m.slice(ctx, v, middle, hi, most/2, depth-1)
}

type ageCell struct {
	domain string
	column int
}

type sizeWanted struct {
	domain string
	id     spool.ID
}

func (m *ageMatrix) readSizes(v spool.View, sizes []sizeWanted) error {
	for _, w := range sizes {
		if w.id != m.lastID {
			msg, ok, err := v.Message(w.id)
			if err != nil {
				return err
			}
			if !ok {
				continue
			}
			m.lastID, m.lastSize = w.id, msg.Size
		}
		row := m.row(w.domain)
		row.sizes += m.lastSize
		row.sized++
		m.sizes += m.lastSize
		m.sized++
	}
	return nil
}

func (m *ageMatrix) row(domain string) *ageRow {
	row := m.rows[domain]
	if row == nil {
		row = &ageRow{ages: make([]float64, len(m.ages)+1)}
		m.rows[domain] = row
	}
	return row
}

func (m *ageMatrix) reply(domain string, r *pb.Recipient) {
	if r.LastReply == "" {
		return
	}
	if row := m.row(domain); r.LastMs >= row.lastMs {
		row.lastMs, row.last = r.LastMs, r.LastReply
	}
}

// column is the column of ages that an id falls into.
func (m *ageMatrix) column(id spool.ID) int {
	age := (m.now.UnixMilli() - int64(id.Time())) / 1000
	for i, bound := range m.ages {
		if age < bound {
			return i
		}
	}
	return len(m.ages)
}

// finish fills in what the matrix knows of a destination. One that no sample
// met is given the ages and sizes of the whole.
func (m *ageMatrix) finish(d *admin.Destination) {
	row := m.rows[d.Domain]
	if row == nil {
		row = &ageRow{ages: m.all}
	}
	d.Ages = apportion(row.ages, d.Total)
	d.LastReply, d.Class = row.last, m.classes.table.Of(row.last).String()
	d.Classes = row.classes.scaled(d.Deferred)
	sizes, sized := row.sizes, row.sized
	if sized == 0 {
		sizes, sized = m.sizes, m.sized
	}
	if sized > 0 {
		d.Bytes = uint64(math.Round(float64(sizes) / float64(sized) * float64(d.Total)))
	}
}

// apportion scales shares to whole numbers that add up to total, by largest
// remainders.
func apportion(shares []float64, total uint64) []uint64 {
	out := make([]uint64, len(shares))
	sum := 0.0
	for _, s := range shares {
		sum += s
	}
	if sum <= 0 {
		if len(out) > 0 {
			out[0] = total
		}
		return out
	}
	rest := make([]float64, len(shares))
	var given uint64
	for i, s := range shares {
		exact := s / sum * float64(total)
		out[i] = uint64(exact)
		rest[i] = exact - float64(out[i])
		given += out[i]
	}
	for ; given < total; given++ {
		best := 0
		for i := range rest {
			if rest[i] > rest[best] {
				best = i
			}
		}
		out[best]++
		rest[best] = -1
	}
	return out
}
