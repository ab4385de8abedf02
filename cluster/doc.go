// Package cluster carries commands to every member in one order and tells the
// caller what became of each. It owns the raft log's life: who is a member, who
// leads, how a proposal finds the leader, which node may act and until when.
//
// It puts together the packages below it: propose (the way of a proposal), session
// (the right to act), transport (raft's network), members, datadir, pki, clock, tuning,
// fault and liveness, and has itself what needs all of them: the leader's chores,
// changes of the members, probation, upgrades and the comparison of replicas.
package cluster
