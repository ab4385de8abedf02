package transport

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
)

// raftsWait is what raft 1.7.3 waits before a call, after so many failures in a row.
func raftsWait(failures int) time.Duration {
	if failures == 0 {
		return 0
	}
	return 10 * time.Millisecond << max(0, min(failures, 12)-2)
}

// TestReturnedNodeIsServedSoon: a node that was off for a minute is sent entries
// within half a second of its first answer. By raft's own rule it would wait for up
// to ten seconds.
func TestReturnedNodeIsServedSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRetry(make(chan struct{}))
		r.serves = func(node string, term uint64) bool { return node == "n2" && term == 7 }
		const off = time.Minute
		began := time.Now()
		up := func() bool { return time.Since(began) > off }
		stop := make(chan struct{})
		go func() { // heartbeats
			for {
				select {
				case <-stop:
					return
				case <-time.After(400 * time.Millisecond):
				}
				if up() {
					r.heard("n2")
				}
			}
		}()
		failures := 0
		for {
			time.Sleep(raftsWait(failures))
			if up() {
				break
			}
			r.failed("n2", 7)
			failures++
		}
		require.Less(t, time.Since(began)-off, time.Second/2)
		require.LessOrEqual(t, failures, freeFailures+1)
		r.served("n2")
		began, failures = time.Now(), 0
		r.failed("n2", 7)
		require.Zero(t, time.Since(began), "a single failure is told at once")
		close(stop)
		synctest.Wait()
	})
}

// TestFailedCallEndsWithTheTerm: a call to a node that never answers ends where
// this node leads no more, the node is removed or the transport is closed.
func TestFailedCallEndsWithTheTerm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		done := make(chan struct{})
		r := newRetry(done)
		leads := make(chan struct{})
		r.serves = func(string, uint64) bool {
			select {
			case <-leads:
				return false
			default:
				return true
			}
		}
		for range freeFailures {
			r.failed("n2", 1)
		}
		ended := make(chan error, 2)
		wait := func() {
			r.failed("n2", 1)
			ended <- errors.New("failed")
		}
		go wait()
		time.Sleep(time.Minute)
		require.Empty(t, ended)
		close(leads)
		require.Error(t, <-ended)
		leads = make(chan struct{})
		go wait()
		time.Sleep(time.Minute)
		require.Empty(t, ended)
		close(done)
		require.Error(t, <-ended)
	})
}

func TestHeartbeatsAreKnown(t *testing.T) {
	require.True(t, isHeartbeat(&raft.AppendEntriesRequest{Term: 3}))
	require.False(t, isHeartbeat(&raft.AppendEntriesRequest{Term: 3, PrevLogEntry: 1}))
	require.False(t, isHeartbeat(&raft.AppendEntriesRequest{Term: 3, Entries: []*raft.Log{{}}}))
}

// TestTwoReplicationsOfOneNode: a node that was removed and has joined anew under its name
// has the former replication, whose last call goes out, beside the new one. The answer to
// that call ends the wait of the new one; it would wait for ever for a heartbeat that is
// told to nobody.
func TestTwoReplicationsOfOneNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRetry(make(chan struct{}))
		r.serves = func(string, uint64) bool { return true }
		for range freeFailures {
			r.failed("n2", 7)
		}
		told := make(chan struct{})
		go func() {
			defer close(told)
			r.failed("n2", 7)
		}()
		synctest.Wait()
		r.served("n2")
		r.heard("n2")
		select {
		case <-told:
		case <-time.After(time.Minute):
			t.Error("the new replication waits for ever")
			r.serves = func(string, uint64) bool { return false }
			time.Sleep(retryLook)
		}
	})
}
