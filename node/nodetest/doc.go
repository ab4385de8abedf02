// Package nodetest runs whole clusters of relays in one process, on real raft,
// Pebble, files and TCP, breaks them, and compares what is left.
package nodetest
