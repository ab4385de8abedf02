// Package disk keeps the spool and its bodies across restarts: the state store
// and its snapshots on Pebble. The raft log, package log below it, is the
// write-ahead log of the store, so applying a command syncs nothing. No other
// package touches mail files. DESIGN.md tells what may be on the disk when, and
// why a crash at any instant is safe.
//
// One error is the end: Fatal is told once, every later call returns the error. Pebble
// would retry a failed flush for ever. Damage that a read finds counts as well. Calls
// that overlap with Close, and fail because the files are closed, answer ErrClosed. A
// failure while receiving is no such error: the leader sends it again.
//
// Every open file of bodies is checked before Pebble sees it: Pebble v2.1.7 panics at
// one that is gone or has a damaged footer, on its own goroutines, too.
package disk
