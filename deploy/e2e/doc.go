// Package e2e holds no code, only tests that build the programs, start a trial
// cluster of real processes, and drive it with other people's mail programs.
// They run where RELAY_E2E is set:
//
//	RELAY_E2E=1 go test ./deploy/e2e
//
// Beside them stand the scenarios in which nodes die: a leader under load, the
// holder of a mailbox, the owner of a queue, a majority, a disk; and those in which
// they are not who they were: a directory is copied or restored, the CA changes, a
// node that lives is removed, or its state differs from the others'. They print
// what they measure (-v), and RELAY_E2E_RUNS says how often in a row the load
// and the lock are played. RELAY_E2E_FIGHT says how long fifty clients fight for
// one mailbox while a node dies every ten seconds (25s). RELAY_E2E_PROFILE names
// a directory for heap profiles of the nodes while a big message passes. RELAY_FAR
// says for how long the links between nodes are slow, and then lossy (60s; without
// it that is left out), and for how long all disks are slow (60s). RELAY_E2E_CLOCKS says
// how long to wait until a cluster whose clocks all were ahead has gone back, which takes
// ten minutes (12m); without it that is left out.
//
// Exim and OpenSMTPD are not installed for it: they are downloaded once, and run
// in a namespace of their own beside Postfix (debian_test.go).
//
// Thunderbird is too large to be installed for a test. If it is (apt-get
// install --no-install-recommends thunderbird) it runs without a screen, steered
// by its own remote control, and a proxy writes down what it says. The
// transcripts in pop3/testdata and smtp/testdata that bear its name come from
// there, and TestThunderbirdHabits compares them with what it says today;
// RELAY_E2E_RECORD names a directory in which it leaves both sides of all
// dialogues.
//
// Tests that mostly wait are parallel, three at a time. Those that load the machine, or
// bound how long something takes, run alone.
//
// A case whose program is not installed is skipped and says so. To add one,
// write a function that takes *testing.T and *Dev and name it in
// TestCluster, or start a Dev of your own where you break it.
package e2e
