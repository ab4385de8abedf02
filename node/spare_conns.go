package node

import (
	"net"
	"net/http"
	"sync"
)

// spareConns closes idle connections of an HTTP server while most of those that
// its limit allows are open, so that clients that keep theirs, or forget them,
// keep nobody out. Its hook is called by any goroutine.
type spareConns struct {
	most int // open ones from which on none may be idle
	mu   sync.Mutex
	open int
	idle map[net.Conn]struct{}
}

func newSpareConns(limit int) *spareConns {
	return &spareConns{most: limit * 3 / 4, idle: map[net.Conn]struct{}{}}
}

// hook is the server's ConnState.
func (s *spareConns) hook(c net.Conn, state http.ConnState) {
	if old := s.note(c, state); old != nil {
		_ = old.Close()
	}
}

// note counts, and returns a connection to close.
func (s *spareConns) note(c net.Conn, state http.ConnState) net.Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch state {
	case http.StateNew:
		s.open++
	case http.StateIdle:
		s.idle[c] = struct{}{}
	case http.StateActive:
		delete(s.idle, c)
	case http.StateClosed, http.StateHijacked:
		delete(s.idle, c)
		s.open--
	}
	if s.open < s.most {
		return nil
	}
	for old := range s.idle {
		delete(s.idle, old)
		return old
	}
	return nil
}
