package mtasts

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
)

// world is DNS, web servers and store of a Finder, for one domain.
type world struct {
	mu      sync.Mutex
	records []string
	dns     error
	policy  *Policy
	web     error
	kept    map[string]Kept
	keep    error
	asked   int // for the record
	fetched int
	slow    time.Duration
}

func (w *world) Load(domain string) (Kept, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	k, ok := w.kept[domain]
	return k, ok
}

func (w *world) Keep(_ context.Context, domain string, k Kept) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.keep == nil {
		w.kept[domain] = k
	}
	return w.keep
}

func (w *world) All(each func(string, Kept)) error {
	w.mu.Lock()
	all := maps.Clone(w.kept)
	w.mu.Unlock()
	for domain, k := range all {
		each(domain, k)
	}
	return nil
}

func (w *world) TXT(_ context.Context, name string) ([]string, error) {
	if name != "_mta-sts.x.example" {
		return nil, fmt.Errorf("asked for %s", name)
	}
	time.Sleep(w.slow)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked++
	return w.records, w.dns
}

func (w *world) Fetch(context.Context, string) (*Policy, error) {
	time.Sleep(w.slow)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fetched++
	if w.web != nil {
		return nil, w.web
	}
	p := *w.policy
	return &p, nil
}

func newWorld(t *testing.T) (*world, *Finder) {
	t.Helper()
	w := &world{kept: map[string]Kept{}, records: []string{"v=STSv1; id=1"},
		policy: &Policy{Mode: Enforce, MaxAge: 7 * 24 * time.Hour, MX: []string{"mx.x.example"}}}
	return w, w.finder(t)
}

// finder is another node with the same world.
func (w *world) finder(t *testing.T) *Finder {
	f := NewFinder(Config{TXT: w.TXT, Fetch: w.Fetch, Store: w, Log: zap.NewNop()})
	t.Cleanup(func() { require.NoError(t, f.Close()) })
	return f
}

const domain = "x.example"

func TestAPolicyIsFoundOnceAndKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, f := newWorld(t)
		for range 100 {
			require.Equal(t, "1", f.Find(t.Context(), domain).ID)
		}
		require.Equal(t, []int{1, 1}, []int{w.asked, w.fetched})
		require.Equal(t, "1", w.finder(t).Find(t.Context(), domain).ID)
		require.Equal(t, []int{2, 1}, []int{w.asked, w.fetched}, "another node fetches nothing")
		time.Sleep(lookEvery)
		w.records = []string{"v=STSv1; id=2"}
		w.policy.Mode = Testing
		require.Equal(t, "1", f.Find(t.Context(), domain).ID, "it is looked at beside")
		synctest.Wait()
		require.Equal(t, "2", f.Find(t.Context(), domain).ID)
		require.Equal(t, Testing, w.kept[domain].Policy.Mode)
		w.policy.Mode = None
		w.records[0] = "v=STSv1; id=3"
		time.Sleep(lookEvery)
		f.Find(t.Context(), domain)
		synctest.Wait()
		require.Nil(t, f.Find(t.Context(), domain), "the policy is that there is none")
	})
}

func TestNoPolicyIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, f := newWorld(t)
		w.records = nil
		for range 10 {
			require.Nil(t, f.Find(t.Context(), domain))
		}
		require.Equal(t, 1, w.asked)
		time.Sleep(lookEvery)
		w.dns = errors.New("no answer")
		require.Nil(t, f.Find(t.Context(), domain))
		require.Nil(t, f.Find(t.Context(), domain))
		require.Equal(t, 2, w.asked)
		time.Sleep(retryAfter)
		w.dns, w.records, w.web = nil, []string{"v=STSv1; id=1"}, errors.New("no web server")
		require.Nil(t, f.Find(t.Context(), domain))
		require.Nil(t, f.Find(t.Context(), domain))
		require.Equal(t, []int{3, 1}, []int{w.asked, w.fetched})
		time.Sleep(retryAfter)
		w.web = nil
		require.NotNil(t, f.Find(t.Context(), domain))
	})
}

// TestNobodyTakesAPolicyAway: it counts to its end though record or web server are cut off, and no longer.
func TestNobodyTakesAPolicyAway(t *testing.T) {
	for name, cut := range map[string]func(*world){
		"no DNS":    func(w *world) { w.dns = errors.New("no answer") },
		"no record": func(w *world) { w.records = nil },
		"no web":    func(w *world) { w.web, w.records = errors.New("no answer"), []string{"v=STSv1; id=2"} },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, f := newWorld(t)
				require.NotNil(t, f.Find(t.Context(), domain))
				cut(w)
				for range 7*24 - 1 {
					time.Sleep(time.Hour)
					require.NotNil(t, f.Find(t.Context(), domain))
					synctest.Wait()
				}
				require.NotNil(t, w.finder(t).Find(t.Context(), domain), "at a node that starts")
				time.Sleep(time.Hour)
				require.Nil(t, f.Find(t.Context(), domain))
			})
		})
	}
}

func TestRenew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, f := newWorld(t)
		require.NotNil(t, f.Find(t.Context(), domain))
		f.Renew(t.Context())
		require.Equal(t, 1, w.fetched, "it is fresh")
		time.Sleep(84 * time.Hour)
		f.Renew(t.Context())
		require.Equal(t, 2, w.fetched)
		require.Equal(t, time.Now().Add(7*24*time.Hour), w.kept[domain].Expires)
		time.Sleep(8 * 24 * time.Hour)
		f.Renew(t.Context())
		require.Equal(t, 2, w.fetched, "what has ended is left alone")
	})
}

// TestOneLookForAll: those who ask at the same time share it; who gives up does not end it.
func TestOneLookForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, f := newWorld(t)
		w.slow, w.keep = time.Second, errors.New("no leader")
		short, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		var all sync.WaitGroup
		found := make(chan *Policy, 50)
		for range 50 {
			all.Go(func() { found <- f.Find(t.Context(), domain) })
		}
		require.Nil(t, f.Find(short, domain))
		all.Wait()
		for range 50 {
			require.NotNil(t, <-found)
		}
		require.Equal(t, []int{1, 1}, []int{w.asked, w.fetched})
		require.Empty(t, w.kept)
		require.NotNil(t, f.Find(short, domain), "this node knows it nevertheless")
		require.NoError(t, f.Close())
		require.Nil(t, f.Find(t.Context(), "y.example"))
	})
}

// TestPoliciesWithoutALife: a policy of no age counts for a moment.
func TestPoliciesWithoutALife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, f := newWorld(t)
		w.policy.MaxAge = 0
		require.NotNil(t, f.Find(t.Context(), domain))
		require.NotNil(t, f.Find(t.Context(), domain))
		time.Sleep(leastAge)
		w.records = nil
		require.Nil(t, f.Find(t.Context(), domain))
	})
}
