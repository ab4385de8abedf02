package operator

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"relay/cluster/spool"
	"relay/node/admin"
	"relay/smtp/printable"
)

// Orders of a page of the queue.
const (
	orderCreated  = "created"
	orderSize     = "size"
	orderAttempts = "attempts"
	orderNext     = "next_attempt"
	orderSender   = "sender"
	orderDomain   = "domain"
)

// queueOrder is a parsed QueuePage.Sort.
type queueOrder struct {
	key  string
	down bool
}

func parseOrder(text string) (queueOrder, error) {
	key, down := strings.CutPrefix(text, "-")
	switch key {
	case "":
		key = orderCreated
	case orderCreated, orderSize, orderAttempts, orderNext, orderSender, orderDomain:
	default:
		return queueOrder{},
			admin.Invalid("the queue can not be sorted by %s: give created, size, attempts, next_attempt, sender or domain, "+
				"with - in front to turn it round", printable.Text(key, 64))
	}
	return queueOrder{key, down}, nil
}

// rank is a message's place in an order: by number, then by text, then, always
// upward, by id.
type rank struct {
	Number int64    `json:"n,omitempty"`
	Text   string   `json:"s,omitempty"`
	ID     spool.ID `json:"i"`
}

func (o queueOrder) rank(one *waitingMail) rank {
	r := rank{ID: one.id}
	all := one.mail.Recipients
	switch o.key {
	case orderSize:
		r.Number = int64(one.mail.Size)
	case orderAttempts:
		for i := range all {
			r.Number = max(r.Number, int64(all[i].Attempts))
		}
	case orderNext:
		r.Number = math.MaxInt64
		for i := range all {
			r.Number = min(r.Number, all[i].NextAttempt.UnixMilli())
		}
	case orderSender:
		r.Text = strings.ToLower(one.mail.Sender)
	case orderDomain:
		r.Text = all[0].Domain
	}
	return r
}

func (o queueOrder) compare(a, b rank) int {
	c := cmp.Or(cmp.Compare(a.Number, b.Number), cmp.Compare(a.Text, b.Text))
	if o.key == orderCreated {
		c = a.ID.Compare(b.ID)
	}
	if o.down {
		c = -c
	}
	return cmp.Or(c, a.ID.Compare(b.ID))
}

// selection keeps the first messages of an order behind a cursor.
type selection struct {
	order queueOrder
	after cursor
	limit int
	kept  []ranked
	bound *rank // nothing from here on is wanted
}

type ranked struct {
	rank
	one *waitingMail
}

func (s *selection) offer(one *waitingMail) { s.offerRank(s.order.rank(one), one) }

// offerRank is offer of a message of which only the rank need be known.
func (s *selection) offerRank(r rank, one *waitingMail) {
	if s.after.set && s.order.compare(r, s.after.rank) <= 0 || s.bound != nil && s.order.compare(r, *s.bound) > 0 {
		return
	}
	if s.kept = append(s.kept, ranked{r, one}); len(s.kept) >= 2*s.limit+64 {
		s.prune()
	}
}

// prune keeps one more than the limit, which tells that there is a next page.
func (s *selection) prune() {
	slices.SortFunc(s.kept, func(a, b ranked) int { return s.order.compare(a.rank, b.rank) })
	if len(s.kept) > s.limit {
		clear(s.kept[s.limit+1:])
		s.kept = s.kept[:s.limit+1]
		bound := s.kept[s.limit].rank
		s.bound = &bound
	}
}

func (s *selection) page() (page []*waitingMail, next string) {
	s.prune()
	if len(s.kept) > s.limit {
		s.kept = s.kept[:s.limit]
		next = cursor{rank: s.kept[s.limit-1].rank, ranked: true}.String()
	}
	for _, k := range s.kept {
		page = append(page, k.one)
	}
	return page, next
}

// cursor is where a page ended: for orders by time an id to go on at, else the
// rank of the last message shown.
type cursor struct {
	set    bool
	id     spool.ID
	ranked bool
	rank   rank
}

func (c cursor) String() string {
	if !c.ranked {
		return c.id.String()
	}
	b, _ := json.Marshal(c.rank) // numbers and texts: can not fail
	return base64.RawURLEncoding.EncodeToString(b)
}

// parseCursor reads a cursor. byRank says which kind the page makes.
func parseCursor(text string, byRank bool) (c cursor, err error) {
	if text == "" {
		return c, nil
	}
	c.set, c.ranked = true, byRank
	if byRank {
		var b []byte
		if b, err = base64.RawURLEncoding.DecodeString(text); err == nil {
			err = json.Unmarshal(b, &c.rank)
		}
	} else {
		c.id, err = ulid.ParseStrict(text)
	}
	if err != nil {
		return c, admin.Invalid("%s is not a cursor of this list: begin without one", printable.Text(text, 64))
	}
	return c, nil
}

// Bounds of one stretch of backward: so many records are wanted in one, and
// read at most.
const (
	stretchFew  = 500
	stretchMany = 5000
)

// backward visits stretches of ids from hi (not included) down to floor, the
// newest first, although the store reads upward only. visit reads [lo, hi) and
// returns how many records it saw, and whether to go on; where it would see
// over most it reads no further, returns more than most, and the stretch is
// cut. backward ends at the floor, or when visit or ctx says so.
func backward(ctx context.Context, now time.Time, floor, hi spool.ID, visit func(lo, hi spool.ID,
	most int) (seen int, more bool, err error)) error {
	edge := min(hi.Time(), uint64(max(now.UnixMilli(), 0)))
	for width := uint64(1000); floor.Compare(hi) < 0; {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		lo, most := spool.ID{}, stretchMany
		if edge > width {
			_ = lo.SetTime(edge - width)
		}
		if lo.Compare(floor) < 0 {
			lo = floor
		}
		if width == 1 {
			most = math.MaxInt
		}
		seen, more, err := visit(lo, hi, most)
		if err != nil {
			return err
		}
		switch {
		case seen > most:
			width = max(width/8, 1)
			continue
		case !more:
			return nil
		case seen == 0:
			width *= 4
		case seen < stretchFew:
			width *= 2
		}
		hi = lo
		edge = lo.Time()
	}
	return nil
}
