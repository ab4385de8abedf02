// Command bench runs the same load against a three-node cluster and against
// the peers (Postfix, Dovecot) on the same machine in the same run, in turns,
// and prints a table of ratios. It needs Debian's postfix (smtp-source,
// smtp-sink) and dovecot-pop3d; rows whose programs are missing are left out
// and said to be.
//
//	go run ./deploy/bench -n 3000 -rounds 3
//
// With -idle it shows instead what many idle connections to one node cost, in
// memory and to the busy ones beside them:
//
//	go run ./deploy/bench -idle 5000 -busy 200 -n 6000
//
// and with -idle-pop3 what idle POP3 connections to one node cost, before and
// after login, in the clear and over TLS; each end needs a file descriptor for
// each of them (ulimit -n):
//
//	go run ./deploy/bench -idle-pop3 10000
//
// With -large it fills one mailbox, reads and empties it in one session, and says
// how long other users of all nodes waited meanwhile:
//
//	go run ./deploy/bench -large 100000
package main
