package main

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestLimitsByTwoOperators(t *testing.T) {
	w := newWorld(t)
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			_, stderr, code := w.ctl(t, "", "limit", "set", fmt.Sprintf("domain:p%d.test", i), "--rate", "1/s")
			assert.Zero(t, code, stderr)
		})
	}
	all.Go(func() {
		_, stderr, code := w.ctl(t, "", "settings", "set", "--slow-on", "rate")
		assert.Zero(t, code, stderr)
	})
	all.Wait()
	s, err := w.Settings(t.Context())
	require.NoError(t, err)
	require.Len(t, s.Limits, 4)
	require.Equal(t, []string{"rate"}, s.SlowClasses)
}

// TestRecipientsByTwoOperators: a list that somebody else replaces in the middle is made what the file has; before,
// both were told that it was changed, and it was empty.
func TestRecipientsByTwoOperators(t *testing.T) {
	w := newWorld(t)
	file := func(name string) string {
		path := filepath.Join(t.TempDir(), name)
		require.NoError(t, os.WriteFile(path, []byte(name+"\n"), 0o600))
		return path
	}
	set := func(path string) {
		_, stderr, code := w.ctl(t, "", "route", "recipients", "set", "x.example", path)
		assert.Zero(t, code, stderr)
	}
	a, b := file("a"), file("b")
	set(file("old"))
	calls := 0
	w.Fail = func(call string) error {
		if call == "ChangeRecipients" {
			if calls++; calls == 1 {
				set(b)
			}
		}
		return nil
	}
	set(a)
	require.Greater(t, calls, 1, "the other one came in between")
	out, _, code := w.ctl(t, "", "route", "recipients", "ls", "x.example")
	require.Zero(t, code)
	require.Equal(t, "RECIPIENT\na@x.example\n", out)
}
