package main

import (
	"bytes"
	"errors"
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

// fullDisk is a log file whose disk is full at times.
type fullDisk struct {
	bytes.Buffer
	full bool
}

func (d *fullDisk) Write(b []byte) (int, error) {
	if d.full {
		return 0, errors.New("no space left on device")
	}
	return d.Buffer.Write(b)
}

// TestTheLogComesBack: a disk that was full costs the lines of that time only.
func TestTheLogComesBack(t *testing.T) {
	long := strings.Repeat("x", 2*lateSize) + "\n"
	for _, line := range []string{"a\n", long} {
		synctest.Test(t, func(t *testing.T) {
			disk := &fullDisk{full: true}
			w := newLateWriter(disk)
			_, _ = w.Write([]byte(line))
			_ = w.Sync()
			disk.full = false
			for range 2 {
				_, err := w.Write([]byte("b\n"))
				require.NoError(t, err)
				time.Sleep(lateMost)
				synctest.Wait()
			}
			require.Equal(t, "b\nb\n", disk.String())
		})
	}
}
