// Package disk keeps the spool and its bodies across restarts: the state store
// and its snapshots on Pebble, and the raft log on bbolt. The raft log is the
// write-ahead log of the store, so applying a command syncs nothing. No other
// package touches mail files. DESIGN.md tells what may be on the disk when, and
// why a crash at any instant is safe.
package disk
