package log

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A machine that is paused in the middle of a write, for longer than a write may
// hang, goes on afterwards. Another process is stopped here, with SIGSTOP.
func TestPauseOfTheMachineIsNoHang(t *testing.T) {
	t.Parallel()
	if os.Getenv("PAUSED") != "" {
		writeSlowly(t)
		return
	}
	other := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	other.Env = append(os.Environ(), "PAUSED=1")
	in, err := other.StdinPipe()
	require.NoError(t, err)
	out, err := other.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, other.Start())
	lines := bufio.NewScanner(out)
	require.True(t, lines.Scan())
	require.Equal(t, "writing", lines.Text())
	require.NoError(t, other.Process.Signal(syscall.SIGSTOP))
	<-time.After(2 * stallOfPaused) // the pause
	require.NoError(t, other.Process.Signal(syscall.SIGCONT))
	_, err = fmt.Fprintln(in, "go on")
	require.NoError(t, err)
	require.True(t, lines.Scan())
	require.Equal(t, "written: <nil>", lines.Text())
	require.NoError(t, other.Wait())
}

const stallOfPaused = 2 * time.Second

// writeSlowly writes to the log, and is told by its standard input when the disk
// is done.
func writeSlowly(t *testing.T) {
	disk := &forgetful{}
	l := openLog(t, filepath.Join(t.TempDir(), "log"), func(o *Options) {
		o.openSegment, o.StallAfter = disk.open, stallOfPaused
		o.Fatal = func(err error) { fmt.Println(strings.ReplaceAll(err.Error(), "\n", " ")) }
	})
	disk.hang = func() {
		fmt.Println("writing")
		bufio.NewScanner(os.Stdin).Scan()
		disk.hang = nil
	}
	fmt.Println("written:", l.StoreLogs(entries(1, 1, 3)))
}

func TestWatchdogTellsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told atomic.Int32
		w := watch(10*time.Second, func() { told.Add(1) })
		time.Sleep(10*time.Second - time.Millisecond)
		synctest.Wait()
		require.Zero(t, told.Load())
		time.Sleep(time.Minute)
		synctest.Wait()
		require.EqualValues(t, 1, told.Load())
		w.stop()
		w = watch(10*time.Second, func() { told.Add(1) })
		time.Sleep(9 * time.Second)
		w.stop()
		time.Sleep(time.Minute)
		require.EqualValues(t, 1, told.Load())
	})
}
