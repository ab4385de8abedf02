// Package disk keeps the spool and its bodies across restarts: the state store
// and its snapshots on Pebble, and the raft log on bbolt. The raft log is the
// write-ahead log of the store, so applying a command syncs nothing. No other
// package touches mail files. DESIGN.md tells what may be on the disk when, and
// why a crash at any instant is safe.
//
// One error is the end: Fatal is told once, every later call returns the error. Pebble
// would retry a failed flush for ever, and raft would go on voting over a log it can
// not write. Damage that a read finds counts as well. A write to the log that hangs is
// not given up but ends the process while it hangs, because it may still land.
// Log.Close does not wait for it either: it leaves the files open. Calls that overlap with
// Close, and fail because the files are closed, answer ErrClosed. A failure while
// receiving is no such error: the leader sends it again.
//
// Every open file of bodies is checked before Pebble sees it: Pebble v2.1.7 panics at
// one that is gone or has a damaged footer, on its own goroutines, too. A write hangs
// when it has taken 40 ticks of the process (watchdog.go), not a time on the clock: a
// machine that was paused in the middle of a write has had one tick.
package disk
