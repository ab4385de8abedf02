package smtp

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"relay/smtp/admission"
)

// These bound the memory and the pace of strangers' messages while they come in.
const (
	holdBase = 40 << 10  // the connection's buffers, whatever the message
	holdMost = 256 << 10 // of what has come, where the Session does not say what it keeps

	holdFirst = holdBase + 3*holdMost // of one message with its header section and a part of it on its way

	slowRate  = 4 << 10 // octets a second, under pressure
	slowGrace = 10 * time.Second
)

var replyTooMany = NewReply(451, "4.3.1", "Too many messages at once, try again later")

// holds count what strangers' messages under way hold, in all and by network. Above
// half of the limit they have to come at a minimum rate and a network has its share.
// The last eighth is kept for networks that hold nothing, and at the limit no more begin.
type holds struct {
	limit int64 // 0: none
	held  atomic.Int64
	swept atomic.Int64

	mu sync.Mutex
	by map[netip.Prefix]int64
}

// share is what one network may hold where others want room: an eighth, and in any
// case one message with its header section and one part of it on its way.
func (h *holds) share() int64 { return max(h.limit/8, holdFirst) }

// full reports whether no message of a client's network may begin.
func (h *holds) full(client netip.Addr) bool {
	switch {
	case !h.pressed():
		return false
	case h.held.Load() >= h.limit:
		return true
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	held := h.by[admission.Block(client)]
	return held >= h.share() || held > 0 && h.held.Load() >= h.common()
}

// common is what is left of the limit without the part for networks that hold nothing:
// those who fill the room from many networks must not keep the others out.
func (h *holds) common() int64 { return h.limit - h.limit/8 }

// add counts n octets more for a network, and reports whether there was no room.
func (h *holds) add(block netip.Prefix, n int64) (crowded bool) {
	held := h.held.Add(n)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.by[block] += n; h.by[block] == 0 {
		delete(h.by, block)
	}
	most := h.share()
	if held > h.common() {
		most = min(most, holdFirst)
	}
	return n > 0 && (held > h.limit || h.pressed() && h.by[block] > most)
}

func (h *holds) pressed() bool { return h.limit > 0 && h.held.Load() >= h.limit/2 }

// sweep reports whether those that are slow should be looked for: once a second.
func (h *holds) sweep(now time.Time) bool {
	last := h.swept.Load()
	return h.pressed() && now.UnixNano()-last >= int64(time.Second) && h.swept.CompareAndSwap(last, now.UnixNano())
}

// Holder is the reader that Session.Data is given, where the memory of strangers'
// messages has a limit. A Session that says what it has allocated for the message is
// counted with that; one that does not, with the first 256 KiB of what has come.
type Holder interface {
	// Holds says how many octets the Session keeps of the message now, in all: the
	// capacity of its buffers, and not their length. It belongs to the goroutine that
	// reads. A message whose growth exceeds Limits.Held ends in 451 at the next Read.
	// room is false above half of Limits.Held: whoever can wait does not grow then.
	Holds(octets int) (room bool)
}

// Holds implements Holder.
func (m *message) Holds(octets int) (room bool) {
	m.kept = true
	m.hold(int64(octets))
	return m.c.inner() || !m.c.srv.meters.holds.pressed()
}

// hold counts what a stranger's message takes beside the connection's buffers.
func (m *message) hold(octets int64) {
	holds := &m.c.srv.meters.holds
	grow := holdBase + octets - m.held
	if m.c.inner() || holds.limit == 0 || grow == 0 {
		return
	}
	if m.held == 0 {
		m.block = admission.Block(m.c.peer.Remote.Addr())
	}
	m.held += grow
	m.crowded = holds.add(m.block, grow)
	if now := time.Now(); holds.sweep(now) {
		m.c.srv.meters.each(func(s *Server) { s.dropSlow(now) })
	}
}

// release takes back what hold has counted.
func (m *message) release() {
	if m.held > 0 {
		m.c.srv.meters.holds.add(m.block, -m.held)
		m.held = 0
	}
}

// pace is by when more of the message has to come at the minimum rate.
func (m *message) pace() time.Time {
	return m.began.Add(slowGrace + time.Duration(m.size)*time.Second/slowRate)
}

// dropSlow ends strangers' messages that come too slowly for the room there is.
func (s *Server) dropSlow(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.mu.Lock()
		if !c.pace.IsZero() && c.pace.Before(now) {
			_ = c.raw.SetReadDeadline(time.Unix(1, 0))
		}
		c.mu.Unlock()
	}
}
