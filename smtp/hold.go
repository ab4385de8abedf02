package smtp

import (
	"sync/atomic"
	"time"
)

// These bound the memory and the pace of strangers' messages while they come in.
const (
	holdBase = 40 << 10  // buffers, whatever the message
	holdMost = 256 << 10 // of what has come; backends pass more on before the end

	slowRate  = 4 << 10 // octets a second, under pressure
	slowGrace = 10 * time.Second
)

var replyTooMany = NewReply(451, "4.3.1", "Too many messages at once, try again later")

// holds count what strangers' messages under way hold, in all. Above half of the
// limit they have to come at a minimum rate, and at the limit no more begin.
type holds struct {
	limit int64 // 0: none
	held  atomic.Int64
	swept atomic.Int64
}

func (h *holds) full() bool    { return h.limit > 0 && h.held.Load() >= h.limit }
func (h *holds) over() bool    { return h.limit > 0 && h.held.Load() > h.limit }
func (h *holds) pressed() bool { return h.limit > 0 && h.held.Load() >= h.limit/2 }

// sweep reports whether those that are slow should be looked for: once a second.
func (h *holds) sweep(now time.Time) bool {
	last := h.swept.Load()
	return h.pressed() && now.UnixNano()-last >= int64(time.Second) && h.swept.CompareAndSwap(last, now.UnixNano())
}

// hold counts what has come of a stranger's message.
func (m *message) hold(n int) {
	if m.c.inner() {
		return
	}
	meters := m.c.srv.meters
	grow := min(int64(n), holdBase+holdMost-m.held)
	if m.held == 0 {
		grow = holdBase
	}
	if grow <= 0 || meters.holds.limit == 0 {
		return
	}
	m.held += grow
	meters.holds.held.Add(grow)
	if now := time.Now(); meters.holds.sweep(now) {
		meters.each(func(s *Server) { s.dropSlow(now) })
	}
}

// release takes back what hold has counted.
func (m *message) release() {
	if m.held > 0 {
		m.c.srv.meters.holds.held.Add(-m.held)
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
