// Package clustertest runs whole clusters in one process, on real disks and
// real connections, breaks them, and compares what is left. RELAY_LOCK_HISTORY
// (a duration) makes the fight for mailbox locks longer whose history is checked
// for linearizability; RELAY_FAR makes the time longer during which nodes behind
// slow links and on slow disks must keep their sessions.
package clustertest
