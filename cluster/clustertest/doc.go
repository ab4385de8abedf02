// Package clustertest runs whole clusters in one process, on real disks and
// real connections, breaks them, and compares what is left.
package clustertest
