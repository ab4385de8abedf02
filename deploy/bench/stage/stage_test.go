package stage

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const traces = `File: relayd
Type: cpu
Duration: 5s, Total samples = 40ms ( 0.80%)
-----------+-------------------------------------------------------
      20ms   internal/runtime/syscall.Syscall6
             syscall.pwrite
             relay/cluster/disk/log.(*Log).StoreLogs
             github.com/hashicorp/raft.(*Raft).dispatchLogs
             github.com/hashicorp/raft.(*Raft).leaderLoop
-----------+-------------------------------------------------------
      10ms   runtime.memmove (inline)
             relay/cluster/spool.Encode
             relay/node/inbound.(*intake).propose
             relay/smtp.(*conn).serve
-----------+-------------------------------------------------------
    pebble:  flush
       5ms   runtime.futex
             runtime.mcall
-----------+-------------------------------------------------------
       5ms   main.main
`

func TestShares(t *testing.T) {
	all, err := Read(strings.NewReader(traces))
	require.NoError(t, err)
	require.Len(t, all, 4)
	require.Equal(t, Sample{Stack: []string{"runtime.futex", "runtime.mcall"}, CPU: 5 * time.Millisecond}, all[2])
	require.Equal(t, map[Stage]float64{Log: 0.5, Propose: 0.25, Scheduler: 0.125, Rest: 0.125}, Shares(all))
	_, err = Read(strings.NewReader("-----------+---\n  what is this\n"))
	require.ErrorContains(t, err, "no begin of a stack")
}

// A stack belongs to the goroutine that does one thing, and to the part of a session that
// is furthest on.
func TestOf(t *testing.T) {
	for want, stack := range map[Stage]string{
		Session:    "bufio.(*Reader).fill relay/smtp.(*conn).readLine relay/smtp.(*conn).serve",
		Data:       "bytes.IndexByte relay/smtp.(*dotReader).next relay/node/inbound.(*intake).take relay/smtp.(*conn).serve",
		Propose:    "runtime.chansend relay/cluster/propose.(*Batcher).submit relay/node/inbound.(*intake).propose",
		Apply:      "relay/node/outbound.(*feed).changed github.com/hashicorp/raft.(*Raft).runFSM",
		Replicate:  "crypto/tls.(*Conn).Write github.com/hashicorp/raft.(*NetworkTransport).AppendEntries",
		Compaction: "runtime.memmove github.com/cockroachdb/pebble/v2.(*DB).compact1",
		Delivery:   "relay/smtp.(*Client).Send relay/queue/remote.(*Agent).deliver relay/queue.(*Manager).work",
		Settle:     "relay/cluster/propose.(*Proposer).Propose relay/queue.(*Manager).commit relay/queue.(*Manager).settler",
		Collector:  "runtime.scanobject runtime.gcBgMarkWorker",
		Scheduler:  "runtime.futex runtime.findRunnable runtime.mcall",
		Rest:       "net/http.(*conn).serve",
	} {
		require.Equal(t, want, Of(strings.Fields(stack)), stack)
	}
}
