// Command bench runs the same load against a cluster and against the peers
// (Postfix, Exim, Dovecot) on the same machine in the same run, in turns, and prints a
// table of medians and ratios, in Markdown, with its best row and its worst. It needs root
// and Debian's postfix (smtp-source, smtp-sink) and dovecot-pop3d; Exim, which can not be
// installed beside Postfix, it unpacks for itself (apt-get download exim4-daemon-light).
// It leaves out columns whose programs are missing, and says so.
//
//	go run ./deploy/bench -n 3000 -rounds 3 -nodes 3,1
//
// Ratios are those of the first column to the best peer of each row. Behind each rate
// stands the CPU time that all processes of that side used, in seconds per 1,000 messages
// (POP3: messages or sessions), user and system, read from /proc. It counts until the
// side's queue is empty, so it includes the relaying also in rows that only accept. The
// unit of /proc is 10 ms: choose -n so that a round uses a second. On a machine that
// others use, CPU time is steadier than the rate, but not independent of it: a side that
// gets little of the CPU puts fewer messages into a group.
//
// With -with it compares this build with a former one in place of the peers. Both
// clusters run all the time, one of them idle. This is how a change shows that it
// costs nothing: the CPU ratio (this build's through the former one's, median of
// the rounds' ratios) must not be above 1.03. A build against itself gives 0.98 to
// 1.02 with seven rounds of 3,000 messages.
//
//	git worktree add /tmp/former COMMIT
//	(cd /tmp/former && CGO_ENABLED=0 go build -o /tmp/relayd-former ./cmd/relayd)
//	go run ./deploy/bench -with /tmp/relayd-former -n 3000 -rows accept
//
// -nodes 1 runs clusters of one node, 3,1 has a column for each size, -rows some of the
// rows, by a part of their names. A single session meets the leader, wherever that is.
//
// -mail real has rows of their own, from 4 KiB to 1 MiB: they send what package realmail
// makes, prose, HTML, pictures and PDF, where filler is all alike.
//
// With -history the clusters begin with so many messages that were delivered within ten
// minutes, wait for twelve until these may go, and sweep a window of a minute each minute
// while the loads run, which must be over in nine. -with empty runs a cluster without
// history in turns:
//
//	go run ./deploy/bench -history 1000000 -with empty -rows '64 KiB' -n 2000
//
// With -waiting it says what so many waiting messages cost: the next ones, restarts,
// memory, and operators' looks, beside a cluster with a short queue:
//
//	go run ./deploy/bench -waiting 1000000 -nodes 1
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
//
// With -steady it says what mail costs while as much history is swept as comes, as it is
// with a cluster that is older than it keeps history; also beside a former build. It
// raises the cluster version first:
//
//	go run ./deploy/bench -steady -n 10000
//
// With -huge it says how much more memory the nodes take while so many messages of 50 MB
// come in at once; heap profiles from near the peak stay in -dir:
//
//	go run ./deploy/bench -huge 20
//
// With -stages it says what each stage of a message costs the leader, the accepting node
// and the other followers, in CPU, octets and syncs, by profiles of all nodes; the profiles
// stay in -dir. With -cpus each node gets a share of the processors, by control groups, as
// if it had a smaller machine of its own; that goes with every other flag, and the load's
// own processes have no limit. cluster/SCALING.md has what both say:
//
//	go run ./deploy/bench -stages -rows 'of 4 KiB'
//	go run ./deploy/bench -stages -rows 'all nodes' -cpus 0.25
package main
