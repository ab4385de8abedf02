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

func TestRecipientsByTwoOperators(t *testing.T) {
	w := newWorld(t)
	var all sync.WaitGroup
	for _, name := range []string{"a", "b"} {
		file := filepath.Join(t.TempDir(), name)
		require.NoError(t, os.WriteFile(file, []byte(name+"\n"), 0o600))
		all.Go(func() {
			_, stderr, code := w.ctl(t, "", "route", "recipients", "set", "x.example", file)
			if code != 0 {
				assert.Contains(t, stderr, "somebody else changes it")
			}
		})
	}
	all.Wait()
}
