package site

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of what is remembered.
const (
	keep = 5 * time.Minute // then the answer is looked at again
	most = 100_000
)

// Sites remembers the sites of domains. Its methods may be called concurrently.
type Sites struct {
	table atomic.Pointer[Table]

	mu    sync.RWMutex
	known map[string]found
}

type found struct {
	site  string
	hosts []string
	until time.Time
}

// New makes Sites that know no domain, with the built-in table.
func New() *Sites {
	s := &Sites{known: map[string]found{}}
	t, err := Parse(nil)
	if err != nil {
		panic(err) // what is built in is right
	}
	s.table.Store(t)
	return s
}

// SetTable replaces the table, also for the domains that are known.
func (s *Sites) SetTable(t *Table) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.table.Store(t)
	for domain, f := range s.known {
		f.site = t.Name(domain, f.hosts)
		s.known[domain] = f
	}
}

// Table returns the table.
func (s *Sites) Table() *Table { return s.table.Load() }

// Due reports whether an answer for a domain is worth a call of Learn.
func (s *Sites) Due(domain string) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return !time.Now().Before(s.known[strings.ToLower(domain)].until)
}

// Learn notes the MX hosts of a domain.
func (s *Sites) Learn(domain string, hosts []string) {
	domain = strings.ToLower(domain)
	s.mu.Lock()
	defer s.mu.Unlock()
	for other := range s.known {
		if len(s.known) < most {
			break
		}
		delete(s.known, other)
	}
	s.known[domain] = found{
		site: s.table.Load().Name(domain, hosts), hosts: slices.Clone(hosts), until: time.Now().Add(keep),
	}
}

// Of is the site of a domain; empty where its MX hosts are not known.
func (s *Sites) Of(domain string) string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.known[strings.ToLower(domain)].site
}
