// Package log is raft's log and stable store on one node's disk: entries in segments,
// term and vote in raft.db, and until the raise to cluster version 2 entries there, too.
// It knows nothing of what an entry says. DESIGN.md tells what may be on the disk when.
//
// One error is the end: Fatal is told once, every later call returns the error. Raft
// would go on voting over a log it can not write. Damage that a read finds counts as
// well. A write that hangs is not given up but ends the process while it hangs, because
// it may still land. Close does not wait for it either: it leaves the files open. Calls
// that overlap with Close, and fail because the files are closed, answer ErrClosed.
//
// A write hangs when it has taken 40 ticks of the process (watchdog.go), not a time on
// the clock: a machine that was paused in the middle of a write has had one tick.
package log
