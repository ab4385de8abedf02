package main

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestLateWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		w := newLateWriter(&out)
		write := func(line string) {
			n, err := w.Write([]byte(line))
			require.NoError(t, err)
			require.Equal(t, len(line), n)
		}
		text := func() string {
			w.mu.Lock()
			defer w.mu.Unlock()
			defer out.Reset()
			return out.String()
		}
		for range 3 { // the timer is armed again behind each flush
			write("first\n")
			time.Sleep(lateMost / 2)
			write("second\n")
			require.Empty(t, text())
			time.Sleep(lateMost / 2)
			synctest.Wait()
			require.Equal(t, "first\nsecond\n", text())
		}
		write("held\n")
		write(strings.Repeat("x", lateSize-2) + "\n")
		require.Equal(t, "held\n", text(), "lines stay whole")
		require.NoError(t, w.Sync())
		require.Len(t, text(), lateSize-1)
	})
}
