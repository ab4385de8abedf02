package log

import (
	"encoding/binary"
	"errors"
	"sort"
	"time"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"
)

// ledger knows which entries the log holds and how large each is. Indexes rise
// by one, except that there may be a gap where a snapshot was installed.
//
// It is made at start from the entries, which also tell which segments have their data.
// Bounds in octets become bounds in entries by way of Average.
type ledger struct {
	all   []line
	head  int // entries before it were deleted
	bytes int64
}

// line is an entry. In a packed log it says where the entry is, too.
type line struct {
	index           uint64
	segment, offset uint32
	size            uint32
}

// read fills the ledger from raft.db, with the sizes of what is there.
func (g *ledger) read(path string) error {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		return err
	}
	err = db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte("logs"))
		if b == nil {
			return nil // made, but not used yet
		}
		return b.ForEach(func(k, v []byte) error {
			if len(k) != 8 {
				return errors.New("odd key in the log")
			}
			g.put(binary.BigEndian.Uint64(k), uint32(len(v)))
			return nil
		})
	})
	return errors.Join(err, db.Close())
}

func (g *ledger) lines() []line { return g.all[g.head:] }

func (g *ledger) len() int { return len(g.all) - g.head }

func (g *ledger) first() uint64 {
	if g.len() == 0 {
		return 0
	}
	return g.all[g.head].index
}

func (g *ledger) last() uint64 {
	if g.len() == 0 {
		return 0
	}
	return g.all[len(g.all)-1].index
}

// find returns the place of the first entry not before index.
func (g *ledger) find(index uint64) int {
	l := g.lines()
	return g.head + sort.Search(len(l), func(i int) bool { return l[i].index >= index })
}

func (g *ledger) has(index uint64) bool {
	at := g.find(index)
	return at < len(g.all) && g.all[at].index == index
}

func (g *ledger) put(index uint64, size uint32) {
	g.set(line{index: index, size: size})
}

// set puts an entry in, in place of the one with its index.
func (g *ledger) set(l line) {
	if g.len() == 0 || l.index > g.last() {
		g.all = append(g.all, l)
		g.bytes += int64(l.size)
		return
	}
	at := g.find(l.index)
	if g.all[at].index != l.index {
		g.all = append(g.all, line{})
		copy(g.all[at+1:], g.all[at:])
		g.all[at] = line{}
	}
	g.bytes += int64(l.size) - int64(g.all[at].size)
	g.all[at] = l
}

func (g *ledger) get(index uint64) (line, bool) {
	at := g.find(index)
	if at == len(g.all) || g.all[at].index != index {
		return line{}, false
	}
	return g.all[at], true
}

// lowest returns the lowest segment of an entry outside of a range; 0: there is none.
func (g *ledger) lowest(gone indexes) uint64 {
	var found uint32
	for _, l := range g.lines() {
		if (l.index < gone.lo || l.index > gone.hi) && (found == 0 || l.segment < found) {
			found = l.segment
		}
	}
	return uint64(found)
}

// of returns the entries of a segment.
func (g *ledger) of(segment uint64) []line {
	var all []line
	for _, l := range g.lines() {
		if uint64(l.segment) == segment {
			all = append(all, l)
		}
	}
	return all
}

func (g *ledger) remove(lo, hi uint64) {
	from, to := g.find(lo), g.find(hi+1)
	for _, l := range g.all[from:to] {
		g.bytes -= int64(l.size)
	}
	if from == g.head {
		g.head = to
	} else {
		g.all = append(g.all[:from], g.all[to:]...)
	}
	if g.head > len(g.all)/2 {
		g.all = append([]line(nil), g.lines()...)
		g.head = 0
	}
}

// step returns the range of the n oldest entries up to hi; 0 where there is none.
func (g *ledger) step(n int, hi uint64) (lo, to uint64) {
	l := g.lines()
	if len(l) == 0 || l[0].index > hi {
		return 0, 0
	}
	l = l[:min(n, len(l), g.find(hi+1)-g.head)]
	return l[0].index, l[len(l)-1].index
}

// entryCache keeps the newest entries of the log, up to a number of octets:
// what followers ask for and what raft applies next. They are contiguous.
//
// Behind a load, they are memory that nobody asks for: with keep, older ones are
// forgotten when others come, as some do each second.
type entryCache struct {
	ring        []raft.Log // entry i is at i modulo its length, a power of two
	first, next uint64     // [first, next) is cached
	bytes       int64
	limit       int64

	keep   time.Duration // 0: for ever
	mark   uint64        // next, when age was called at marked
	marked time.Time
}

const leastRing = 64

func (c *entryCache) at(i uint64) *raft.Log { return &c.ring[i&uint64(len(c.ring)-1)] }

func (c *entryCache) get(index uint64, to *raft.Log) bool {
	if index < c.first || index >= c.next {
		return false
	}
	*to = *c.at(index)
	return true
}

func (c *entryCache) add(e *raft.Log, size uint32) {
	if e.Index != c.next || c.first == c.next {
		c.remove(0, c.next)
		c.first, c.next = e.Index, e.Index
	}
	if c.next-c.first == uint64(len(c.ring)) {
		c.resize(max(leastRing, 2*len(c.ring)))
	}
	*c.at(e.Index) = *e
	c.next++
	c.bytes += int64(size)
	for c.bytes > c.limit && c.first < c.next {
		c.drop(c.first)
		c.first++
	}
}

func (c *entryCache) drop(i uint64) {
	e := c.at(i)
	c.bytes -= int64(entrySize(e))
	*e = raft.Log{}
}

// age forgets entries that have been there for keep, and up to twice as long.
func (c *entryCache) age(now time.Time) {
	if c.keep == 0 || now.Sub(c.marked) < c.keep {
		return
	}
	for c.first < c.next && c.first < c.mark {
		c.drop(c.first)
		c.first++
	}
	c.mark, c.marked = c.next, now
	if n := c.next - c.first; len(c.ring) > leastRing && n < leastRing {
		c.resize(leastRing)
	}
}

func (c *entryCache) resize(n int) {
	old := *c
	c.ring = make([]raft.Log, n)
	for i := old.first; i < old.next; i++ {
		*c.at(i) = *old.at(i)
	}
}

// remove forgets a range; of what is cached on both sides of it, it keeps the
// older one.
func (c *entryCache) remove(lo, hi uint64) {
	if lo > c.first {
		for c.first < c.next && lo < c.next {
			c.next--
			c.drop(c.next)
		}
		return
	}
	for c.first < c.next && c.first <= hi {
		c.drop(c.first)
		c.first++
	}
}
