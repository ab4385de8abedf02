// Package cluster carries commands to every member in one order and tells the
// caller what became of each. It owns the raft log's life: who is a member, who
// leads, how a proposal finds the leader, which node may act and until when.
package cluster
