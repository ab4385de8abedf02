package disk

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
)

func hotH(o *Options) { o.Cached = func(key []byte) bool { return key[0] == 'h' } }

// look may be called on any goroutine.
func look(t testing.TB, s *Store, key string) (value string, ok bool) {
	assert.NoError(t, s.View(func(v spool.View) error {
		b, err := v.R.Get([]byte(key))
		value, ok = string(b), b != nil
		return err
	}))
	return value, ok
}

// A reader that has an answer to a write reads it, or something newer, while others
// read the same keys all the time.
func TestHotKeysAreNeverStale(t *testing.T) {
	s := openStore(t, vfs.NewMem(), "s", hotH)
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			last := map[string]int{}
			for {
				select {
				case <-stop:
					return
				default:
				}
				key := "h" + strconv.Itoa(rand.IntN(5))
				if v, ok := look(t, s, key); ok {
					n, _ := strconv.Atoi(v)
					if n < last[key] {
						t.Errorf("%s was %d and is %d", key, last[key], n)
						return
					}
					last[key] = n
				}
			}
		})
	}
	for n := range 3000 {
		key := "h" + strconv.Itoa(rand.IntN(5))
		if rand.IntN(4) == 0 {
			apply(t, s, "del "+key)
			_, ok := look(t, s, key)
			require.False(t, ok)
			continue
		}
		apply(t, s, fmt.Sprintf("set %s %d", key, n))
		v, ok := look(t, s, key)
		require.True(t, ok)
		require.Equal(t, strconv.Itoa(n), v)
	}
	close(stop)
	readers.Wait()
}

// A reader that has seen something of a commit does not read the state before it.
func TestHotKeysAreNotBehindOthers(t *testing.T) {
	s := openStore(t, vfs.NewMem(), "s", hotH)
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				err := s.View(func(v spool.View) error {
					b, err := v.R.Get([]byte("x"))
					seen, _ := strconv.Atoi(string(b))
					if err == nil {
						b, err = v.R.Get([]byte("h"))
					}
					if n, _ := strconv.Atoi(string(b)); n < seen {
						return fmt.Errorf("x was %d, and h is %d", seen, n)
					}
					return err
				})
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for n := range 20000 {
		apply(t, s, fmt.Sprintf("set x %d;set h %d", n+1, n+1))
	}
	close(stop)
	readers.Wait()
}

func TestHotKeysAreBounded(t *testing.T) {
	s := openStore(t, vfs.NewMem(), "s", hotH)
	apply(t, s, "body hlarge 20000")
	h, err := s.acquire()
	require.NoError(t, err)
	defer h.release()
	for i := range cachedKeys + 10 {
		_, ok := look(t, s, fmt.Sprint("h", i))
		require.False(t, ok)
		_, _ = look(t, s, fmt.Sprint("x", i))
		require.LessOrEqual(t, len(h.cache.all), cachedKeys)
	}
	v, ok := look(t, s, "hlarge")
	require.True(t, ok)
	require.Len(t, v, 20000)
	require.Len(t, h.cache.all, 10, "neither other keys nor large values")
}
